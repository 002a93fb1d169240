"""Steps that are recorded once and replayed: the same calls on the same memory."""
