"""Bodies on the CPU, of NumPy."""
