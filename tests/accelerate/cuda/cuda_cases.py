"""Every elementwise function of the package, with operands, as the CUDA tests need them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from helpers import values

import xplayers as xl
from xplayers import functional, schedules
from xplayers.accelerate.cuda import cudnn_plans, pooling, softmax_cross_entropy
from xplayers.accelerate.cuda.source import INDEX, Kernel, Operand, inside, translate
from xplayers.accelerate.cupy import _counted as counted
from xplayers.accelerate.host import activations as host_activations
from xplayers.accelerate.host.machine_code import exact_source
from xplayers.accelerate.host.program import trace
from xplayers.layers import activations, dropout, recurrent
from xplayers.losses import base as losses
from xplayers.optimizers import adaptive, clipping
from xplayers.optimizers.base import _apply as apply_rule
from xplayers.optimizers.base import _apply_if as apply_if
from xplayers.training import precision

HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
FLOATS = ("float16", "bfloat16", "float32", "float64")
THERE = [d for d in FLOATS if d != "bfloat16" or HAS_BFLOAT16]
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function, and its operands by letter.

    x: an array; p: a positive one; r: one of 0.5 or more; m: a mask; i: the index; c: a value in
    device memory; k: an integer there; b: a truth value there. Numbers are Python's.
    """

    function: Any
    operands: tuple[Any, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    aliases: tuple[int | None, ...] = ()

    @property
    def id(self) -> str:
        options = [getattr(v, "__qualname__", str(v)) for v in self.options.values()]
        return "-".join([self.function.__name__.strip("_"), *options]).replace(".", "_")

    def __repr__(self) -> str:
        return self.id

    @property
    def pure(self) -> Any:
        return functools.partial(self.function.function, **self.options)

    def kernel(self, dtype: str, name: str, rows: bool = False) -> Kernel:
        floating = dtype_of(dtype)
        kinds = {
            "x": Operand("array", floating),
            "p": Operand("array", floating),
            "r": Operand("array", floating),
            "m": Operand("array", np.dtype(bool)),
            "i": INDEX,
            "c": Operand("scalar", floating),
            "k": Operand("scalar", np.dtype("int32")),
            "b": Operand("scalar", np.dtype(bool)),
        }
        operands = [kinds.get(o, o) for o in self.operands]
        return translate(self.pure, operands, self.aliases, name, rows)

    def values(self, n: int, dtype: str) -> list[Any]:
        """Return the operands of `n` elements."""
        kind = dtype_of(dtype)
        return [self._values(o, n, kind, seed) for seed, o in enumerate(self.operands)]

    def _values(self, letter: Any, n: int, dtype: np.dtype, seed: int) -> Any:
        x = values((n,), seed)
        made = {
            "x": lambda: x.astype(dtype),
            "p": lambda: np.abs(x).astype(dtype),
            "r": lambda: (np.abs(x) + 0.5).astype(dtype),
            "m": lambda: x > 0,
            "i": lambda: np.arange(n, dtype="int32"),
            "c": lambda: np.asarray(0.3 / (1 + seed)).astype(dtype),
            "k": lambda: np.asarray(7, "int32"),
            "b": lambda: np.asarray(True),
        }
        return made[letter]() if isinstance(letter, str) else letter


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def cases() -> Iterator[Case]:
    """Yield a case for each function, and for each of its forms."""
    for function in elementwise_functions(functional):
        yield Case(function, ("x",))
    yield Case(functional.gelu, ("x",), {"approximate": "none"})
    yield Case(functional.gelu_derivative, ("x",), {"approximate": "none"})
    for name in ("leaky_relu", "elu", "softplus", "silu", "gelu"):
        derivative = getattr(functional, f"{name}_derivative")
        yield Case(activations.chain, ("x", "x"), {"derivative": derivative})
    yield Case(activations.relu_vjp, ("x", "x"))
    yield Case(host_activations.relu_and_mask, ("x",))
    yield Case(activations.sigmoid_vjp, ("x", "x"))
    yield Case(activations.tanh_vjp, ("x", "x"))
    for function in elementwise_functions(recurrent):
        yield Case(function, ("x",) * (function.__signature__.parameters.__len__()))
    yield Case(precision._unscaled, ("x", "c"), {"dtype": np.dtype("float32")})
    yield Case(precision._rounded, ("x",), {"dtype": np.dtype("float32")})
    for how in (xl.MixedPrecision("float16"), xl.MixedPrecision("bfloat16")):
        yield Case(precision._updated, ("p", "k", "k", "b"), {"precision": how})
    for dtype in (None, np.dtype("float32")):
        yield Case(losses._divided, ("x", "c", 7), {"dtype": dtype})
    yield Case(cudnn_plans.variance, ("r", 1e-5))
    for least in (None, 1.0):
        yield Case(softmax_cross_entropy._divisor, ("x",), {"least": least})
    yield Case(adaptive._corrections, ("p", -0.1, -0.001))
    for schedule in SCHEDULES:
        yield Case(schedules._rate, ("p",), {"schedule": schedule})
    for good in ("", "b"):
        yield Case(counted, ("p", *good), {"dtype": np.dtype("float32")})
    yield Case(clipping._times, ("x", "c"))
    yield Case(clipping._factor, ("p", 1.5))
    yield Case(clipping._factor, ("p", 1.5, "c", "c"), {"dtype": np.dtype("float32")})
    yield Case(dropout.scaled, ("x", "m"), {"scale": 1.25})
    yield Case(dropout.dropped, ("x", "i", "k"), {"seed": 3, "rate": 0.2, "scale": 1.25})
    for optimizer in OPTIMIZERS:
        moments = len(optimizer.moments)
        constants = optimizer.constants(np.asarray(3.0))
        scalars = tuple("c" if isinstance(c, np.generic) else c for c in constants)
        decays = not optimizer.decoupled and optimizer.weight_decay != 0
        scalars += (optimizer.weight_decay,) if decays else ()
        for function, good in ((apply_rule, ""), (apply_if, "b")):
            yield Case(
                function,
                ("x", "x", *"p" * moments, "c", *scalars, *good),
                {"rule": optimizer.rule, "decays": decays},
                (0, *range(2, 2 + moments)),
            )


SCHEDULES = [
    xl.schedules.Constant(0.1), xl.schedules.Step(0.1, every=2),
    xl.schedules.Exponential(0.1, every=2), xl.schedules.Cosine(0.1, steps=3),
    xl.schedules.OneCycle(0.1, steps=3),
    xl.schedules.WarmUp(2, xl.schedules.Cosine(0.1, steps=3)),
]  # fmt: skip
OPTIMIZERS = [
    xl.SGD(), xl.Momentum(), xl.Nesterov(), xl.AdaGrad(), xl.RMSprop(), xl.Adam(), xl.AdamW(),
    xl.Adam(eps_hat=False, weight_decay=0.1),
]  # fmt: skip


def array(dtype: Any) -> Operand:
    """Return the kind of an operand: an array of this dtype."""
    return Operand("array", np.dtype(dtype))


def elementwise_functions(module: Any) -> list[Any]:
    """Return the elementwise functions that a module or the modules of a package define."""
    kind = type(functional.relu)
    return [
        f
        for f in vars(module).values()
        if isinstance(f, kind) and f.__module__.startswith(module.__name__)
    ]


def in_one(module: Any, kernels: dict[str, Any]) -> str:
    """Return a source with kernels of a template: their arguments by the names that they get."""
    bodies = [module.template()]
    for new, case in kernels.items():
        body, name = module.source(*case)
        bodies.append(body.replace(name, new))
    return "\n".join(bodies)


def is_exact(case: Case) -> bool:
    """Whether all operations of a function are exactly rounded in float32."""
    operands = case.values(1, "float32")
    samples = [np.ones(1, a.dtype) if isinstance(a, np.ndarray) else a for a in operands]
    return exact_source(trace(case.pure, samples, case.aliases)) is not None


CASES = list(cases())
EXACT = [case for case in CASES if is_exact(case)]
POOLING = [  # operation, dtype, type of indices or number of warps
    (operation, dtype_of(dtype), kind)
    for dtype in THERE
    for operation in pooling._ARRAYS
    for kind in {"row_means": "18", "channel_means": "8"}.get(operation, ("int", "i64"))
]
GRADIENTS = [  # what is asked, dtype of the gradients, and of the answer
    (operation, dtype, out)
    for dtype in map(dtype_of, THERE)
    for operation, out in (
        ("all_finite", np.dtype(bool)),
        ("sums_of_squares", inside(dtype)),
        ("sums_of_squares", np.dtype("float64")),
    )
]
SUMS = sorted(  # values that are read at once, whether of a ReLU, dtype, and that of the sums
    {
        (width, relu, a, b)
        for dtype in map(dtype_of, THERE)
        for a, b in ((dtype, dtype), (dtype, inside(dtype)), (inside(dtype), dtype))
        for width in (1, 16 // a.itemsize)
        for relu in ((False, True) if a == dtype else (False,))
    },
    key=str,
)
NORMALIZATIONS = [  # which kernel, dtype, that of the parameters, layer or RMS, warps, values kept
    (operation, dtype, of_params, centred, warps, held)
    for operation in ("normalization", "normalization_grads")
    for dtype in map(dtype_of, THERE)
    for of_params in {dtype, inside(dtype)}
    for centred in (True, False)
    for warps, held in ((1, 2), (1, 8), (8, 4), (8, 16))
]
