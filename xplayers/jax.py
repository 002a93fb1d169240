"""JAX: layers as functions, on request only: ``from xplayers.jax import as_function``."""

from xplayers.bridges.jax_function import Function, as_function

__all__ = ["Function", "as_function"]
