"""Base classes of layers and losses, which hold all state: variables and pending passes.

A layer defines its computation in pure functions (`Layer.apply`, `Layer.vjp`). The methods that
users call (`forward`, `backward`, `predict`) are implemented here, once for all layers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Never, Self, final

import numpy as np

from xplayers._calls import MISSING, explained, or_missing
from xplayers._foreign import NETWORK, Foreign, with_checked_arguments
from xplayers.arrays.checks import check_dtype, check_input, check_same
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.operation import meet_tensors
from xplayers.arrays.transfer import as_plain
from xplayers.layers.places import check_grads, check_pair, explain
from xplayers.layers.refusals import (
    check_gradient,
    check_inputs,
    missing,
    positional,
    with_initial_values,
)
from xplayers.layers.representation import drawing, init_call, options
from xplayers.layers.ties import Ties
from xplayers.layers.variables import Variables, VariablesView, check_constructor, settings_changed

Cache = tuple  # a nested tuple of arrays, self-contained


class Observed:
    """An object whose attributes are settings, on which compiled code may depend."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        settings_changed()

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        settings_changed()


class Module(Observed):
    """Base of layers and losses: their variables, and the stack of passes pending a backward."""

    # Maximum number of passes pending a backward. A network that is evaluated with forward would
    # keep the caches of every call; the limit turns that memory leak into an error. Set it on a
    # layer to unroll it further by hand.
    pending_limit = 64
    _evaluation = "call predict"  # for the error: how to evaluate without caches
    _has_parts = False  # whether it has the variables of other layers

    _variables: Variables
    _all_variables: dict[str, Variables]  # prefix -> variables, each once
    _trainable: list[Variables]  # those with parameters, of a layer with parts
    _ties: Ties  # between their parameters
    # The stack of pending passes: cache, output, and the result of `_versions` at that time.
    _pending: list[tuple[Any, Array, int]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if args or kwargs:
            check_constructor(cls, args, kwargs)
        meet_tensors()  # before a compiler can, of a layer without arrays
        # Here rather than in __init__, so that a subclass may leave out super().__init__().
        self = super().__new__(cls)
        variables = Variables()
        all_variables = {"": variables}
        # Writing to `__dict__` would make the look-up of methods slower in every call.
        set_attribute = object.__setattr__
        set_attribute(self, "_variables", variables)
        set_attribute(self, "_all_variables", all_variables)
        set_attribute(self, "_ties", Ties(all_variables))
        set_attribute(self, "_pending", [])
        return self

    @property
    def params(self) -> VariablesView:
        """The parameters by name; writing to this view sets those of the layers.

        Tied parameters (one array in two layers, or one the transpose of the other in the same
        memory) are one entry, under the first of their names.
        """
        return VariablesView(self._all_variables, "params", self._ties)

    @property
    def grads(self) -> VariablesView:
        """The gradients of the last backward, by the names of `params`."""
        return VariablesView(self._all_variables, "grads", self._ties)

    @property
    def buffers(self) -> VariablesView:
        """The arrays that are kept but not trained (running statistics, counters), by name."""
        return VariablesView(self._all_variables, "buffers")

    @property
    def arrays(self) -> dict[str, Array]:
        """Parameters and buffers in one new dict: the first argument of the pure functions.

        Tied parameters are in it under all of their names.
        """
        return {**self.params.with_aliases(), **self.buffers.copy()}

    @final
    def to(
        self, *args: Any, like: Array = None, xp: Any = None, device: Any = None, dtype: Any = None
    ) -> Self:
        """Move the parameters and buffers to another library, device or dtype, and nothing else.

        Parameters
        ----------
        like : array, optional
            Take library, device and floating dtype from this array.
        xp : module, optional
            The library: ``numpy``, ``cupy``, ``torch``, ``jax.numpy``.
        device : optional
            A device of that library.
        dtype : optional
            A floating dtype of that library, or its name; integer buffers keep theirs.

        Returns
        -------
        Self
            The layer itself, with new arrays. Gradients and pending passes are dropped.
        """
        owner = f"{type(self).__name__}.to"
        if args:
            raise TypeError(positional(owner, args[0]))
        if like is not None:
            namespace(like, owner, "like")
        if dtype is not None:
            check_dtype(owner, dtype, floating=True)
        all_variables = list(self._all_variables.values())
        moved = [s.moved(like=like, xp=xp, device=device, dtype=dtype) for s in all_variables]
        with self._ties.preserved():
            for variables, arrays in zip(all_variables, moved, strict=True):  # all or none
                variables.replace(*arrays)
        self.zero_grads()
        return self

    @final
    def zero_grads(self) -> None:
        """Drop the gradients and the pending passes."""
        self._pending.clear()
        for variables in self._all_variables.values():
            variables.grads.clear()
            variables.fresh = True

    def _record(self, cache: Any, y: Array) -> None:
        """Push a pass, to be popped by its backward."""
        if len(self._pending) >= self.pending_limit:
            message = (
                f"{self._owner}.forward: {self.pending_limit} forward passes are pending their "
                f"backward. To evaluate, {self._evaluation}, which keeps no cache; zero_grads() "
                "drops the pending ones."
            )
            raise RuntimeError(message)
        version = self._versions() if self._has_parts else self._variables.version
        self._pending.append((cache, y, version))

    def _versions(self) -> int:
        """Return a counter of the in-place writes to all parameters."""
        total = 0
        for variables in self._trainable:
            total += variables.version
        return total

    def _last(self) -> tuple[Any, Array]:
        """Return cache and output of the last pending pass."""
        if not self._pending:
            message = (
                f"{self._owner}.backward: no forward to undo. Call forward first; "
                "each forward allows one backward."
            )
            raise RuntimeError(message)
        cache, y, version = self._pending[-1]
        if version != (self._versions() if self._has_parts else self._variables.version):
            message = (
                f"{self._owner}.backward: the parameters have been overwritten since forward, "
                "which used the old values. Call backward before the update, or forward again."
            )
            raise RuntimeError(message)
        return cache, y

    def _materialize(self, x: Array) -> None:
        """Move initial values from the host to library, device and dtype of `x`."""
        namespace(x, self._owner)
        with self._ties.preserved():
            for variables in self._all_variables.values():
                if not variables.materialized:
                    variables.replace(*variables.moved(like=x))

    def _materialize_at(self, like: Array) -> Self:
        """Move the initial values to `like`, or without it mark them for the first input."""
        if like is not None:
            return self.to(like=like)
        self._variables.materialized = False
        return self

    @property
    def _sizes(self) -> tuple[int, ...]:
        """The positional arguments of `init`, of a layer that has one."""
        return ()

    def __str__(self) -> str:
        """Return the name of this layer in error messages; `repr` is code."""
        sizes = f"({', '.join(map(str, self._sizes))})" if self._sizes else ""
        return f"{type(self).__name__}{sizes}"

    @property
    def _owner(self) -> str:
        """Return the name of this in error messages; short also for containers."""
        return str(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pending": []}  # a pickle has no caches

    def _repr_html_(self) -> str:
        return drawing(self)

    def __repr__(self) -> str:
        if self._sizes:
            return init_call(self, self._sizes)
        return f"{type(self).__name__}({', '.join(options(self))})"


class Layer(Module):
    """Base of all layers: a pair of pure functions, and a shell that holds the state.

    A subclass implements `apply` and `vjp`, and declares its parameters in the class body. It may
    override `infer`, `param_grads` and `updated_buffers`; `forward`, `backward`, `predict`, `to`
    and `zero_grads` are final. Constructor arguments never change.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> class Scale(xl.Layer):
    ...     s, ds = xl.Parameter(), xl.Gradient()
    ...
    ...     def __init__(self, s):
    ...         self.s = s
    ...
    ...     def apply(self, arrays, x):
    ...         return x * arrays["s"], (x, arrays["s"])
    ...
    ...     def vjp(self, cache, dy):
    ...         x, s = cache
    ...         return dy * s, {"s": xl.namespace(x).sum(dy * x, axis=0)}
    >>> layer = Scale(np.asarray([2.0, 3.0]))
    >>> x = np.asarray([[1.0, 10.0], [2.0, 20.0]])
    >>> layer.forward(x)
    array([[ 2., 30.],
           [ 4., 60.]])
    >>> layer.backward(np.ones((2, 2)))
    array([[2., 3.],
           [2., 3.]])
    >>> layer.ds
    array([ 3., 30.])
    >>> xl.check_gradients(layer, x)
    """

    integer_input = False  # whether x holds integers, as for an embedding

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        init = cls.__dict__.get("init")
        if isinstance(init, classmethod):
            type.__setattr__(cls, "init", classmethod(with_checked_arguments(init.__func__)))
        if "__init__" in cls.__dict__:
            hint = functools.partial(with_initial_values, cls) if init else ""
            type.__setattr__(cls, "__init__", explained(hint)(cls.__dict__["__init__"]))
        for name in ("forward", "backward", "predict", "to", "zero_grads", "__call__"):
            if name in cls.__dict__:
                message = (
                    f"{cls.__name__} overrides {name}, which is final: a layer defines what it "
                    "computes in apply and vjp; Layer keeps the state."
                )
                raise TypeError(message)

    # The computation: pure functions of arrays.

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any
    ) -> tuple[Array, Cache]:
        """Return the output for training, and the cache: the arrays that `vjp` needs."""
        message = f"{type(self).__name__} defines no apply(self, arrays, x)."
        raise NotImplementedError(message)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        """Return the gradient of the input and those of the parameters by name.

        vjp: vector-Jacobian product, the transposed derivative applied to `dy`.
        """
        message = f"{type(self).__name__} defines no vjp(self, cache, dy)."
        raise NotImplementedError(message)

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any) -> Array:
        """Return the output for inference."""
        result = self.apply(arrays, x, *inputs, **options)
        if type(result) is not tuple:
            check_pair(self, "apply", result)
        return result[0]

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        """Return only the gradients of the parameters, for the first layer of a network."""
        return self.vjp(cache, dy)[1]

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        """Return the buffers that a training step changes."""
        return {}

    # The stateful methods.

    @final
    @or_missing
    def forward(self, x: Array, *inputs: Any, train: bool = True, **named: Any) -> Array:
        """Compute the output for training, and keep the cache for `backward`.

        Parameters
        ----------
        x : array
            The input, with the library, device and dtype of the parameters.
        *inputs, **named : array
            Further inputs of a layer that takes them, positional or by keyword, as
            ``key_mask=mask``.
        train : bool
            False: the same as `predict`.

        Returns
        -------
        array
            The output.

        Raises
        ------
        ValueError
            If a shape does not fit.
        TypeError
            If library, device or dtype do not fit, or there is no such further input.
        RuntimeError
            If 64 passes are pending their backward: use `predict` to evaluate.
        """
        if not train:
            return self.predict(x, *inputs, **named)
        if type(x) is not np.ndarray:
            x = as_plain(x) if x is not MISSING else missing(self, "x")
        arrays = self._ready(x)
        try:
            if inputs or named:
                result = self.apply(arrays, x, *inputs, **named)
            else:  # the common case, as a faster call
                result = self.apply(arrays, x)
        except TypeError:
            self._check_inputs(inputs, named)
            raise
        except KeyError as error:
            explain(error, self)
            raise
        if type(result) is not tuple:
            check_pair(self, "apply", result)
        y, cache = result
        self._record(cache, y)
        self._begin(arrays, cache)
        return y

    @final
    @or_missing
    def backward(self, dy: Array, *extra: Never, input_grad: bool = True) -> Any:
        """Backpropagate through the last forward: set `grads`, return the gradient of the input.

        The first backward after a forward sets the gradients; further ones, of a layer that was
        used several times, accumulate.

        Parameters
        ----------
        dy : array
            The gradient of the output, with its shape and dtype. It is not written to.
        input_grad : bool
            False: skip the gradient of the input and return None, as for the first layer.

        Returns
        -------
        array
            The gradient of the input.

        Raises
        ------
        RuntimeError
            If no forward is pending.
        ValueError, TypeError
            If `dy` does not fit the output.
        """
        if dy is MISSING or extra:
            missing(self, "dy", *extra)
        cache, y = self._last()
        plain = type(dy) is np.ndarray  # the common case, tested fast
        if not plain:
            dy = as_plain(dy)
        if not plain or type(y) is not np.ndarray or dy.shape != y.shape or dy.dtype is not y.dtype:
            check_gradient(f"{self._owner}.backward", dy, y)
        self._pending.pop()
        try:
            if input_grad:
                result = self.vjp(cache, dy)
                if type(result) is not tuple:
                    check_pair(self, "vjp", result)
                dx, grads = result
            else:
                dx, grads = None, self.param_grads(cache, dy)
        except TypeError as error:
            explain(error, self)
            raise
        self._collect(grads)
        return dx

    @final
    @or_missing
    def predict(self, x: Array, *inputs: Any, **named: Any) -> Array:
        """Compute the output for inference. Keeps no state; thread-safe."""
        if type(x) is not np.ndarray:
            x = as_plain(x) if x is not MISSING else missing(self, "x")
        try:
            return self.infer(self._ready(x), x, *inputs, **named)
        except TypeError as error:
            self._check_inputs(inputs, named)
            explain(error, self)
            raise
        except KeyError as error:
            explain(error, self)
            raise

    @final
    @or_missing
    def __call__(self, x: Array, *inputs: Any, **named: Any) -> Array:
        """Compute the output for inference: the same as `predict`."""
        return self.predict(x, *inputs, **named)

    def __dir__(self) -> list[str]:
        kind, own = type(self), self.__dict__
        foreign = {n for n in NETWORK if isinstance(inspect.getattr_static(kind, n), Foreign)}
        return [name for name in super().__dir__() if name in own or name not in foreign]

    def _ready(self, x: Array) -> dict[str, Array]:
        """Check `x` against the variables, and return these by name for the pure functions."""
        variables = self._variables
        if not variables.materialized:
            check_input(self, x, {}, integers=self.integer_input)
            self._materialize(x)
        check_input(self, x, variables.params, integers=self.integer_input)
        if not variables.buffers:
            return variables.params
        for name, buffer in variables.buffers.items():
            check_same(self, name, buffer, x, fix="Call layer.to(like=x).")
        return {**variables.params, **variables.buffers}

    def _check_inputs(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Raise an error if the layer takes no such further inputs."""
        check_inputs(self, inputs, named)

    def _begin(self, arrays: Mapping[str, Array], cache: Cache) -> None:
        """After a forward: let the next backward overwrite the gradients, and update buffers."""
        variables = self._variables
        variables.fresh = True
        if variables.buffers:
            variables.buffers.update(self.updated_buffers(arrays, cache))

    def _collect(self, grads: Mapping[str, Array]) -> None:
        """Set or accumulate the gradients of a backward."""
        variables = self._variables
        own = variables.grads
        if type(grads) is not dict:
            check_grads(self, grads)
        if not grads:
            if variables.fresh:
                variables.fresh = False
                own.clear()
            return
        tied = self._ties.rows()
        if tied:
            grads = self._ties.gathered(grads)
        if variables.fresh:
            variables.fresh = False
            own.clear()
            own.update(grads)
        else:
            for name, grad in grads.items():
                own[name] = own[name] + grad if name in own else grad
        if tied:
            self._ties.synchronize_gradients()


for _name in NETWORK:
    setattr(Layer, _name, Foreign(_name))
for _name in ("x", "y", "t", "loss"):  # of losses
    setattr(Module, _name, Foreign(_name))
