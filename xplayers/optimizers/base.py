"""The base of optimizers: two pure functions, ``init`` and ``step``, under the book's ``update``.

The rule of each is one elementwise function. Learning rate and step count are arguments of the
step, for schedules and compiled steps. For 16-bit parameters the moments and the arithmetic are
float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, Self

import numpy as np

from xplayers._calls import explained
from xplayers._checks import Option, constructor_call, instance, number
from xplayers._foreign import OPTIMIZER, check_arguments, missing_attribute
from xplayers.arrays.checks import check_floating, check_off_tape, check_same
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import (
    Array,
    device,
    is_floating,
    is_half,
    library_name,
    namespace,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.packing import packed, unpacked
from xplayers.arrays.values import host_number
from xplayers.arrays.writing import written
from xplayers.layers.base import Module
from xplayers.layers.representation import options
from xplayers.layers.variables import VariablesView, replaced_in_layers

Arrays = Mapping[str, Array]
State = dict[str, Any]
Rate = float | Callable[[Any], Any]


def rate(owner: object, name: str, value: Any) -> Any:
    """Return a learning rate: a float, a function of the step number, or a 0-d array unchanged."""
    is_params = isinstance(value, Mapping | Module | Iterator | list)
    if callable(value) and not isinstance(value, type) and not is_params:
        return value
    host = type(value) is np.ndarray or isinstance(value, np.generic)
    if getattr(value, "shape", None) == () and not host:
        return value
    hint = "Or pass a schedule of xplayers.schedules."
    if isinstance(value, type) and callable(value):
        hint = f"Call the class: {constructor_call(value)}."
    elif is_params:
        hint = f"Parameters go to update: {owner}().update(net.params, net.grads)."
    return number(owner, name, value, least=0, hint=hint)


class Optimizer:
    """Base of all optimizers. A subclass defines a rule, the names of its moments, and `constants`.

    An override of `step` has to accept `good`, which mixed precision passes.

    Parameters
    ----------
    lr : float or callable
        Learning rate; or a schedule of `xplayers.schedules`, or any function of the number of
        previous steps, a 0-d array.
    weight_decay : float
        Adds ``weight_decay * p`` to each gradient ``g``: the gradient of an L2 penalty
        ``weight_decay / 2 * sum(p**2)``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> class SignDescent(xl.Optimizer):
    ...     @staticmethod
    ...     def rule(xp, p, g, lr):
    ...         return (p - lr * xp.sign(g),)
    >>> params = {"W": np.asarray([1.0, 2.0])}
    >>> SignDescent(lr=0.25).update(params, {"W": np.asarray([0.5, -4.0])})
    >>> params["W"]
    array([0.75, 2.25])
    """

    rule: ClassVar[Callable[..., tuple[Array, ...]]]  # (xp, p, g, *moments, lr, *constants)
    moments: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False  # whether the rule itself applies the weight decay
    lr = Option(rate)
    weight_decay = Option(number, least=0)

    def __new__(cls, *args: Any, **options: Any) -> Self:
        if options:
            check_arguments(cls.__name__, cls.__init__, args, options)
        return super().__new__(cls)

    def __init__(self, lr: Rate = 0.01, weight_decay: float = 0.0) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.state: State | None = None

    def _numbers(self) -> dict[str, float]:
        """Return the hyperparameters that are numbers: arguments of compiled steps."""
        own = {k: v for k, v in vars(self).items() if type(v) in (float, int) and k != "lr"}
        return {**own, **self._derived()}

    def _derived(self) -> dict[str, Any]:
        """Return numbers that `constants` derives from those, computed on the host in float64."""
        return {}

    def _with(self, numbers: Mapping[str, Any]) -> Self:
        """Return a copy with these numbers replaced."""
        other = copy.copy(self)
        numbers = {**self._numbers(), **numbers}
        vars(other).update(numbers, _derived=lambda: numbers)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "state": packed(self.state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "state": unpacked(state["state"])})

    def constants(self, t: Array) -> tuple[Any, ...]:
        """Return the arguments of the rule after the learning rate; `t` is the step number.

        A NumPy scalar on the host, else a 0-d array of floating-point type.
        """
        return ()

    @explained("Write init(net.params).")
    def init(self, params: Arrays) -> State:
        """Return the initial state: zero moments by name, and the step count.

        Parameters
        ----------
        params : mapping of str to array
            The parameters by name.

        Returns
        -------
        dict
            ``{"count": 0-d int32 array, moment: {name: array}}``, of the library and on the device
            of the parameters.
        """
        state: State = {m: {} for m in self.moments}
        if type(params) is not dict:
            self._mapping("init", "params", params)
        for name, p in params.items():
            xp = namespace(p, type(self).__name__, name)
            check_floating(type(self).__name__, name, p)
            check_off_tape(type(self).__name__, name, p)
            for m in self.moments:
                state[m][name] = xp.zeros_like(upcast(xp, p))
        first = next(iter(params.values()), None)
        if first is None:
            message = f"{type(self).__name__}: there are no parameters."
            raise ValueError(message)
        xp = namespace(first)
        state["count"] = xp.zeros((), dtype=xp.int32, device=device(first))
        return state

    @explained("A state is what init(params), or the step before, returns.")
    def step(
        self,
        params: Arrays,
        grads: Arrays,
        state: State,
        *,
        lr: Any = None,
        donate: bool = False,
        good: Array | None = None,
    ) -> tuple[dict[str, Array], State]:
        """Compute one step; pure unless `donate`.

        Parameters
        ----------
        params, grads : mapping of str to array
            Parameters and their gradients, by the same names.
        state : dict
            From `init` or the previous step.
        lr : float or 0-d array, optional
            Learning rate of this step; by default the one of the optimizer.
        donate : bool
            The caller gives up `params` and `state`: the results overwrite them where arrays are
            mutable.
        good : 0-d array of bool, optional
            Whether to take the step. Where it is False, the results are `params` and `state`, bit
            by bit; its value is not fetched.

        Returns
        -------
        params : dict of str to array
            New parameters.
        state : dict
            New state.

        Raises
        ------
        ValueError
            If gradients or moments do not match the parameters in names, shapes and dtypes
            (float32 for 16-bit parameters).
        """
        self._check(params, grads)
        self._check_state(params, state)
        if lr is None:
            lr = self.lr
        elif not (type(lr) is float and lr >= 0.0):
            lr = self._rate(lr)
        if callable(lr):
            lr = lr(state["count"])
        lr = rate_number(lr) if hasattr(lr, "shape") else lr
        new: dict[str, Array] = {}
        after: State = {m: {} for m in self.moments}
        first = next(iter(params.values()))
        xp = namespace(first)
        after["count"], number = next_count(state["count"], good, upcast(xp, first))
        constants = (lr, *self.constants(number))
        decay = 0.0 if self.decoupled else self.weight_decay
        decays = not (isinstance(decay, _NUMBERS) and decay == 0)
        constants += (decay,) if decays else ()

        def rows() -> Iterator[tuple[tuple, tuple | None]]:
            scalars, like = [], None
            for name, p in params.items():
                moments = [state[m][name] for m in self.moments]
                wide = upcast(namespace(p), p)
                if like is None or wide.dtype != like:  # once per dtype
                    like = wide.dtype
                    scalars = [c if type(c) is float else as_scalar(c, wide) for c in constants]
                    scalars += [] if good is None else [good]
                row = wide, gradient_operand(grads[name]), *moments, *scalars
                yield row, ((wide, *moments) if donate else None)

        apply = _apply if good is None else _apply_if
        results = apply.each(rows(), rule=self.rule, decays=decays)
        items = iter(params.items())
        for value, *moments in results:  # `zip` would hold the last one while the next is made
            name, p = next(items)
            new[name] = namespace(p).astype(value, p.dtype) if is_half(p) else value
            for m, moment in zip(self.moments, moments, strict=True):
                after[m][name] = moment
            del value
        return new, after

    @explained("Write update(net.params, net.grads).")
    def update(self, params: MutableMapping[str, Array], grads: Arrays, *, lr: Any = None) -> None:
        """Take one step: update `params` and the state.

        Mutable arrays (NumPy, CuPy, PyTorch) are updated in place, as in the book; so snapshots of
        the best parameters have to be copies. On JAX the entries are replaced: pass ``net.params``,
        which sets them in the layers.

        Parameters
        ----------
        params : mutable mapping of str to array
            The parameters: ``net.params``, or a dict of arrays.
        grads : mapping of str to array
            Their gradients: ``net.grads``. They are not changed.
        lr : float or 0-d array, optional
            Learning rate of this step.
        """
        old, grads = self._plain("params", params), self._plain("grads", grads)
        state = self.state
        if state is None:
            self._check(old, grads)
            state = self.init(old)
        new, self.state = self.step(old, grads, state, lr=lr, donate=True)
        # 16-bit parameters are written now; read-only or immutable ones are replaced
        replaced = {k: a for k, a in written(old, new).items() if a is not old[k]}
        if isinstance(params, VariablesView):
            params.updated(replaced, in_place=len(replaced) < len(new))
        else:
            params.update(replaced)
            if replaced:
                replaced_in_layers(old, replaced)

    def _rate(self, lr: Any) -> Any:
        return rate(type(self).__name__, "lr", lr)

    def _check(self, params: Arrays, grads: Arrays) -> None:
        """Check all gradients before a parameter is written."""
        try:
            same = params.keys() == grads.keys()
        except AttributeError:  # not mappings
            self._mapping("step", "params", params)
            self._mapping("step", "grads", grads)
            raise
        if same:
            for name, p in params.items():
                g = grads[name]
                try:
                    fits = type(g) is type(p) and g.shape == p.shape and g.dtype is p.dtype
                except AttributeError:  # not arrays
                    fits = False
                if not fits:
                    self._check_gradient(name, p, g)
            return
        missing = sorted(map(str, params.keys() - grads.keys()))
        extra = sorted(map(str, grads.keys() - params.keys()))
        message = f"{type(self).__name__}:"
        if missing:
            message += f" no gradient for {', '.join(missing)}. Call backward before update."
        if extra:
            message += " And" if missing else ""
            message += f" no parameter for the gradient {', '.join(extra)}."
        raise ValueError(message)

    def _check_gradient(self, name: str, p: Array, g: Array) -> None:
        owner, gradient = type(self).__name__, f"the gradient of {name}"
        namespace(p, owner, name)
        check_same(owner, gradient, g, p, like_name=name)
        check_off_tape(owner, gradient, g)
        if g.shape != p.shape:
            message = f"{owner}: {gradient} has shape {tuple(g.shape)}; expected {tuple(p.shape)}."
            raise ValueError(message)
        # 16-bit gradients, and those of 16-bit parameters, are converted to float32.
        if g.dtype != p.dtype and not (is_floating(g) and (is_half(g) or is_half(p))):
            message = (
                f"{owner}: {gradient} is {g.dtype}, {name} is {p.dtype}; they must agree. "
                "Convert it: xp.astype(g, p.dtype)."
            )
            raise TypeError(message)

    def _plain(self, name: str, arrays: Arrays) -> dict[str, Array]:
        """Return a dict, which is faster to look up than a `VariablesView`."""
        if isinstance(arrays, VariablesView):
            return arrays.copy()
        if type(arrays) is not dict:
            self._mapping("update", name, arrays)
        return dict(arrays)

    def _mapping(self, method: str, name: str, arrays: Any) -> None:
        owner, hint = f"{type(self).__name__}.{method}", f"Pass net.{name}."
        if isinstance(arrays, list) and any(isinstance(a, str) for a in arrays):
            hint += f" A list += layer.{name} has only their names."
        instance(owner, name, arrays, Mapping, "arrays by name", hint=hint)

    def _check_state(self, params: Arrays, state: State) -> None:
        """Check that the moments match the parameters, before anything is written."""
        if type(state) is not dict:
            hint = "init(params) returns one."
            instance(f"{type(self).__name__}.step", "state", state, Mapping, "a state", hint=hint)
        for m in self.moments:
            moment, wrong = state.get(m), ""
            if moment is None:
                have = ", ".join(sorted(state.keys() - {"count"})) or "no moments"
                message = (
                    f"{type(self).__name__}: its state has no {m}, but {have}; it is that of "
                    "another optimizer."
                )
                raise ValueError(message)
            for name, p in params.items():
                a = moment.get(name)
                if a is None:
                    wrong = f"it has no {m} of {name}"
                elif a.shape != p.shape or (a.dtype != p.dtype and not is_half(p)):
                    wrong = (
                        f"{m} of {name} is {a.dtype} of shape {tuple(a.shape)}, and {name} is "
                        f"{p.dtype} of shape {tuple(p.shape)}"
                    )
            if len(moment) > len(params):
                wrong = f"it has {m} of {', '.join(sorted(moment.keys() - params.keys()))} too"
            if wrong:
                message = (
                    f"{type(self).__name__}: its state does not match the parameters: {wrong}. "
                    "Create a new optimizer, or reset it by state = None."
                )
                raise ValueError(message)

    def __getattr__(self, name: str) -> Any:  # only called for missing attributes
        raise missing_attribute(self, name, OPTIMIZER, "attribute")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(options(self))})"


@elementwise
def _apply(xp, p, g, *operands, rule, decays):
    if is_half(g):  # 16-bit gradients of wider parameters
        g = xp.astype(g, p.dtype)
    if decays:
        *operands, weight_decay = operands
        g = g + weight_decay * p
    return rule(xp, p, g, *operands)


@elementwise
def _apply_if(xp, p, g, *operands, rule, decays):
    *operands, good = operands
    new = _apply.function(xp, p, g, *operands, rule=rule, decays=decays)
    return tuple([xp.where(good, a, old) for a, old in zip(new, (p, *operands), strict=False)])


_NUMBERS = (float, int, np.generic, np.ndarray)
_ONE = np.float64(1.0)


@operation
def gradient_operand(g: Array) -> Array:
    """Return a gradient as an operand of a rule, by default 16-bit values in float32."""
    return upcast(namespace(g), g)


@operation
def next_count(count: Array, good: Array | None, like: Array) -> tuple[Array, Any]:
    """Return the count after this step, if it is `good`, and the number of this step.

    For a count on the host it is a NumPy scalar, which is fast, and float64.
    """
    xp = namespace(count)
    next_, after = counted(xp, count, good)
    number = host_number(after)
    return next_, xp.astype(after, like.dtype) if number is None else number * _ONE


def counted(xp: Any, count: Array, good: Array | None = None) -> tuple[Array, Array]:
    """Return the count after this step, if it is `good`, and the number of this step."""
    after = count + 1
    return after if good is None else xp.where(good, after, count), after


@operation
def rate_number(lr: Any) -> Any:
    """Return a rate in a tensor on the CPU as a Python number, which does not affect dtypes.

    NumPy scalars behave so, too: a rule then computes the same on NumPy and PyTorch.
    """
    return lr


def as_scalar(c: Any, p: Array) -> Any:
    """Return a 0-d array in the dtype of `p`, so that it does not affect the dtype of results."""
    if isinstance(c, _NUMBERS):
        return float(c)  # also NumPy scalars: np.float64 would make float32 arrays float64
    xp, c_xp = namespace(p), namespace(c, "Optimizer", "lr")
    if library_name(c_xp) == "numpy":  # a tracer of a NumPy scalar
        return c.item()
    if c_xp.__name__ != xp.__name__:  # a recording has its own
        check_same("Optimizer", "lr", c, p, like_name="the parameter")
    return xp.astype(c, p.dtype, copy=False)
