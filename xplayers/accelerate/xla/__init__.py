"""Bodies of JAX arrays by operations of XLA."""
