"""Loops in machine code: each one pass over memory."""
