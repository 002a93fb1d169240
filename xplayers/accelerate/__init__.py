"""Faster bodies of operations, a table for each library; nobody imports them."""
