"""The gated multilayer perceptron of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np

from xplayers._checks import flag, generator, integer
from xplayers.arrays.namespaces import Array
from xplayers.initializers import Initializer, Rng, documented, drawn, xavier_uniform
from xplayers.layers.activations import Silu
from xplayers.layers.affine import Affine
from xplayers.layers.base import Cache, Layer
from xplayers.layers.containers import Container, collect, updated_part_buffers
from xplayers.layers.perceptrons import make_activation


class GatedMlp(Container):
    """Two maps of the input, one the gate of the other, and a third back: SwiGLU, GeGLU.

    With ``g = activation(gate(x))`` and ``u = up(x)``: ``y = down(g * u)``. With `Silu` it is
    SwiGLU, the MLP of Llama; with `Gelu` GeGLU, with `Sigmoid` the gated linear unit.

    Backward, with ``dh`` the backward of `down`: ``dg = dh * u``, ``du = dh * g``; ``dx`` is the
    sum of the backward of `up` for ``du``, and of `activation` and `gate` for ``dg``.

    Parameters
    ----------
    gate, up, down : Layer
        Maps, as `Affine` layers; `gate` and `up` have outputs of one shape.
    activation : Layer, optional
        The activation of the gate; by default `Silu`.

    Raises
    ------
    ValueError
        If the outputs of `gate` and `up` have different shapes.
    TypeError
        If an argument is not a layer.

    See Also
    --------
    GatedMlp.init : creates the three maps.

    References
    ----------
    Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, equations 5 and 6.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers import GatedMlp
    >>> layer = GatedMlp.init(8, 16, rng=0)
    >>> layer.forward(np.ones((2, 5, 8), "float32")).shape
    (2, 5, 8)
    >>> list(layer.params)
    ['gate.W', 'up.W', 'down.W']
    """

    def __init__(
        self, gate: Layer, up: Layer, down: Layer, activation: Layer | None = None
    ) -> None:
        activation = Silu() if activation is None else activation
        super().__init__({"gate": gate, "up": up, "down": down, "activation": activation})

    @classmethod
    @documented
    def init(
        cls,
        n_features: int,
        n_hidden: int,
        *,
        activation: Callable[[], Layer] = Silu,
        bias: bool = False,
        initializer: Initializer = xavier_uniform,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer of three `Affine` ones, which act on the last axis, with initial values.

        Parameters
        ----------
        n_features : int
            Size of the last axis of `x` and of `y`.
        n_hidden : int
            Size between. Two thirds of that of an MLP of two maps make as many parameters.
        activation : callable
            A factory of activations, as for `mlp`.
        bias : bool
            Whether the maps have biases.
        initializer, rng, dtype, like
            As in every `init`.
        """
        n_features = integer("GatedMlp", "n_features", n_features)
        n_hidden = integer("GatedMlp", "n_hidden", n_hidden)
        rng, bias = generator("GatedMlp", "rng", rng), flag("GatedMlp", "bias", bias)
        maps = []
        for shape in ((n_features, n_hidden), (n_features, n_hidden), (n_hidden, n_features)):
            W = drawn("GatedMlp", initializer, shape, rng, dtype)
            b = np.zeros_like(W[0]) if bias else None
            maps.append(Affine(W, b, flatten=False)._materialize_at(None))
        layer = cls(*maps, activation=make_activation("GatedMlp", activation))
        return layer if like is None else layer.to(like=like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        gate, up, down, activation = self._parts
        g, of_gate = self._in(gate, "apply", gate.pick(arrays), x)
        g, of_activation = self._in(activation, "apply", activation.pick(arrays), g)
        u, of_up = self._in(up, "apply", up.pick(arrays), x)
        y, of_down = self._in(down, "apply", down.pick(arrays), self._gated(g, u))
        return y, ((of_gate, of_up, of_down, of_activation), g, u)

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        gate, up, down, activation = self._parts
        g = self._in(gate, "infer", gate.pick(arrays), x)
        g = self._in(activation, "infer", activation.pick(arrays), g)
        u = self._in(up, "infer", up.pick(arrays), x)
        return self._in(down, "infer", down.pick(arrays), self._gated(g, u))

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (gate, up, down, activation), (caches, g, u) = self._parts, cache
        of_gate, of_up, of_down, of_activation = caches
        grads: dict[str, Array] = {}
        dh, of_part = self._in(down, "vjp", of_down, dy)
        collect(grads, down, of_part)
        dx, of_part = self._in(up, "vjp", of_up, dh * g)
        collect(grads, up, of_part)
        dg, of_part = self._in(activation, "vjp", of_activation, dh * u)
        collect(grads, activation, of_part)
        dx_of_gate, of_part = self._in(gate, "vjp", of_gate, dg)
        collect(grads, gate, of_part)
        return dx + dx_of_gate, grads

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        updated: dict[str, Array] = {}
        for part, of_part in zip(self._parts, cache[0], strict=True):
            updated |= updated_part_buffers(part, {**arrays, **updated}, of_part)
        return updated

    def _gated(self, g: Array, u: Array) -> Array:
        if tuple(g.shape) != tuple(u.shape):
            shapes = f"{tuple(g.shape)} and {tuple(u.shape)}"
            message = f"{self._owner}: gate and up have outputs of shapes {shapes}; expected one."
            raise ValueError(message)
        return g * u

    def __repr__(self) -> str:
        return f"GatedMlp(\n{self._rows()})"
