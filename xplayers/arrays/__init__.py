"""What arrays say: which library they belong to, whether they may meet, who computes with them."""
