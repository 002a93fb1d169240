"""A recording as straight code: the same calls on the same memory, again and again.

Every result gets a place once. A place is used again as soon as nobody reads it any more, what is
computed element by element is written over an operand that nobody needs, and parameters and state
are written where they stay. What the views of these places are is known beforehand, so what is left
of a step is the calls themselves.

Elementwise operations that do the same to arrays of one kind, as an optimizer does to its
parameters, become one: see `foreach`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.accelerate.host.elementwise import prepared, viewed
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.operators import OPERATORS, SIGNS
from xplayers.accelerate.pytorch import adam
from xplayers.accelerate.replay.flat import is_large
from xplayers.accelerate.replay.foreach import ForeachGroups, StepProgram, read
from xplayers.accelerate.replay.in_place import (
    REDUCTIONS,
    along,
    copied_array,
    into,
    takes_out,
    with_array,
    with_tensors,
)
from xplayers.accelerate.replay.recording import (
    NotRecordable,
    Operation,
    Register,
    ValueInfo,
    instances,
    mapped,
)
from xplayers.arrays.namespaces import Array, device, namespace

VIEWS = ("reshape", "permute_dims", "expand_dims", "squeeze", "getitem", "T", "mT")


class BufferPool:
    """Memory for results, shared by the replays of one step, of which one runs at a time."""

    def __init__(self) -> None:
        self.blocks: list[Array] = []  # one-dimensional

    def find(self, free: list[Array], n: int, dtype: Any, like: Array) -> Array:
        """Take a block for `n` elements out of `free`, or make one."""
        fit = [b for b in free if b.dtype == dtype and n <= b.shape[0] <= 2 * n]
        if fit:
            best = min(fit, key=lambda b: b.shape[0])
            free[:] = [b for b in free if b is not best]
            return best
        self.blocks.append(block(n, dtype, like))
        return self.blocks[-1]


def block(n: int, dtype: Any, like: Array) -> Array:
    """Return one-dimensional memory of the library and on the device of `like`."""
    if isinstance(like, np.ndarray):
        return empty((n,), dtype)
    return namespace(like).empty((n,), dtype=dtype, device=device(like))


def compiled(task: StepProgram, pool: BufferPool) -> Callable[..., Array]:
    """Return ``replay(*arguments) -> value``, with results in `pool`.

    Raises
    ------
    NotRecordable
        If that cannot be made. Nothing has been written to parameters and state then.
    """
    try:
        return _Compiler(task, pool).compiled()
    except Exception as error:
        message = f"no replay can be made: {type(error).__name__}: {error}"
        raise NotRecordable(message) from error


class _Compiler:
    def __init__(self, task: StepProgram, pool: BufferPool) -> None:
        # What comes back as it went in stays where it is.
        task = task._replace(updates={i: o for i, o in task.updates.items() if i != o})
        self.task, self.pool = task, pool
        self.operations, self.infos, self.homes = task.operations, task.infos, task.homes
        self.home_of = {o: i for i, o in task.updates.items()}  # of a result
        self.like = next(iter(task.homes.values()))
        groups = ForeachGroups(task)
        self.groups = groups.at
        self.static = groups.static  # the value of each register that is known now, and stays
        self.block_of: dict[int, Array] = {}  # by root, of those that come from `pool`
        self.last = self._last_uses()
        self.defined: dict[str, Any] = {}
        self.names: dict[int, str] = {}  # in the source
        self.known: dict[int, str] = {}  # names of what is defined, by id
        self.lines: list[str] = []

    # How long a value is needed

    def _last_uses(self) -> dict[int, int]:
        """Return for each root the operation that uses it last."""
        last: dict[int, int] = {}
        for at, operation in enumerate(self.operations):
            for r in (*read(operation), *operation.results):
                last[self.infos[r].root] = at
        for r in (self.task.value, *self.task.updates.values()):
            last[self.infos[r].root] = len(self.operations)
        return last

    # The source

    def compiled(self) -> Callable[..., Array]:
        self.names |= {r: f"a{i}" for i, r in enumerate(self.task.arguments)}
        head = f"def replay({', '.join(self.names.values())}):"
        free = list(self.pool.blocks)
        for at, operation in enumerate(self.operations):
            group = self.groups.get(at)
            if group is None:
                self._emit(at, operation, free)
            elif at == group.members[-1]:
                self._emit_elementwise(operation.function, group.operands, group.outs, operation)
            for root in [r for r in self.block_of if self.last[r] == at]:
                free.append(self.block_of.pop(root))
            self._let_go(at)
        value = self._name(self.task.value)
        if self.task.value in self.static or self.infos[self.task.value].root != self.task.value:
            self.lines.append(f"value = {self._define(copied_array)}({value})")  # of the old state
            value = "value"
        late = {
            h: m for h, m in self.task.updates.items() if self.static.get(m) is not self.homes[h]
        }
        copied = {m for m in late.values() if self.infos[m].root in self.homes}
        for result in copied:  # parts of the old state, which may be written over
            old = self._name(result)
            self.lines.append(f"v{int(result)} = {self._define(copied_array)}({old})")
        for home, result in late.items():
            new = f"v{int(result)}" if result in copied else self._name(result)
            self.lines.append(f"{self._name(home)}[...] = {new}")
        if self.infos[self.task.value].number:
            value = f"{self._define(np.asarray)}({value})"
        self.lines.append(f"return {value}")
        source = "\n".join([head, *[f"    {line}" for line in self.lines]])
        exec(source, self.defined)
        replay = self.defined["replay"]
        replay.source = source
        return replay

    def _let_go(self, at: int) -> None:
        """Forget arrays that this operation has used last: their memory serves the next ones."""
        over = [
            r for r in self.names
            if not self.infos[r].number
            and r not in self.task.arguments
            and self.last[self.infos[r].root] == at
        ]  # fmt: skip
        if over:
            self.lines.append(f"del {', '.join(map(self.names.pop, over))}")

    def _emit(self, at: int, operation: Operation, free: list[Array]) -> None:
        with_it = with_array if isinstance(self.like, np.ndarray) else with_tensors
        operation = with_it(operation, self.infos)
        if operation.writes:
            self._emit_in_place(operation)
            return
        if operation.name == "elementwise":
            outs = [self._destination(at, r, operation, free, over=True) for r in operation.results]
            if all(out is not None for out in outs):
                operands = [self.static.get(a, a) if isinstance(a, Register) else a
                         for a in operation.args]  # fmt: skip
                self._emit_elementwise(operation.function, operands, outs, operation)
                return
        if len(operation.results) == 1 and not operation.many:
            (result,) = operation.results
            kind = self.infos[result]
            if kind.root != result and self._known_view(operation, result):
                return
            own = kind.root == result and not kind.number
            written = into(operation, self.infos, self.like) if own else None
            if written is not None:
                function, arguments, over = written
                out = self._destination(at, result, operation, free, over=over)
                if out is not None:
                    self._call_into(function, [*map(self._text, arguments)], self._define(out))
                    return
        if operation.name == "call" and operation.many and takes_out(operation.function, self.like):
            outs = [
                self._destination(at, r, operation, free, over=False) for r in operation.results
            ]
            if all(out is not None for out in outs):
                arguments, many = [*map(self._text, operation.args)], [*map(self._define, outs)]
                self._call_into(operation.function, arguments, f"({', '.join(many)},)")
                return
        text = self._call(operation)
        memory = {r: self._name(r) for r in operation.results if r in self.static}
        names = ", ".join(self._local(r) for r in operation.results)
        names += "," * operation.many
        self.lines.append(f"{names} = {text}" if names else text)
        self.lines += [f"{target}[...] = v{int(r)}" for r, target in memory.items()]

    def _known_view(self, operation: Operation, result: Register) -> bool:
        """Whether the result is a view of memory that stays; then it is made now."""
        if operation.name not in VIEWS:
            return False
        if not all(r in self.static for r in read(operation)):
            return False
        args, kwargs = mapped(self._static_value, (operation.args, operation.kwargs))
        self.static[result] = operation.function(*args, **kwargs)
        return True

    def _static_value(self, arg: Any) -> Any:
        return self.static[arg] if isinstance(arg, Register) else arg

    def _emit_in_place(self, operation: Operation) -> None:
        (result,) = operation.results
        target = self._name(result)
        if operation.name == "setitem":
            _, index, value = operation.args
            self.lines.append(f"{target}[{self._text(index)}] = {self._text(value)}")
            return
        other = self._text(operation.args[1])
        if isinstance(self.like, np.ndarray) and operation.name != "pow":
            self._call_into(getattr(np, operation.name), [target, other], target)
        else:
            name = operation.function.__name__.strip("_")
            function = self._define(getattr(operator, f"i{name}"))
            self.lines.append(f"{function}({target}, {other})")

    def _call_into(self, function: Callable[..., Any], arguments: list[str], out: str) -> None:
        # NumPy reads `out` faster by position, but has deprecated that for two.
        by_name = function in (np.maximum, np.minimum)
        position = function is np.dot or (isinstance(function, np.ufunc) and not by_name)
        inner = ", ".join([*arguments, out if position else f"out={out}"])
        self.lines.append(f"{self._define(function)}({inner})")

    def _emit_elementwise(
        self, function: Any, operands: list[Any], outs: list[Array], operation: Operation
    ) -> None:
        run = None
        changing = [self.infos[a] for a in operands if isinstance(a, Register)]
        numbers = all(kind.number and kind.dtype in (float, int, bool) for kind in changing)
        if numbers and all(a.shape for a in operands if hasattr(a, "shape")):
            ones = [self.infos[a].dtype(1) if isinstance(a, Register) else a for a in operands]
            shape = self.infos[operation.results[0]].shape  # of a member: all are large, or none is
            if not isinstance(self.like, np.ndarray) and is_large(shape):
                run = adam.prepared(function, ones, outs, operation.kwargs)
            values = viewed(ones)
            seen = viewed(outs)
            if run is None and values is not None and seen is not None:
                values = _one_object(values, operands, seen, outs)
                run = prepared(function, values, tuple(seen), operation.kwargs)
        if run is not None:
            scalars = [a for a in operands if not hasattr(a, "shape")]
            self.lines.append(f"{self._define(run)}({', '.join(map(self._text, scalars))})")
            return
        inner = [self._text(a) for a in operands]
        many = f"({', '.join(self._define(o) for o in outs)},)"
        inner.append(f"out={many if operation.many else self._define(outs[0])}")
        inner += [f"{k}={self._text(v)}" for k, v in operation.kwargs.items()]
        self.lines.append(f"{self._define(function)}({', '.join(inner)})")

    def _call(self, operation: Operation) -> str:
        """Return the call as it was recorded."""
        sign = SIGNS.get(operation.name)
        if sign is not None and operation.function is OPERATORS[operation.name]:
            text = self._scalar if self._is_scalar_arithmetic(operation) else self._text
            a, b = map(text, operation.args)
            return f"{a} {sign} {b}"
        if operation.name == "getitem":
            a, index = map(self._text, operation.args)
            if operation.args[1] == (..., None) and not isinstance(self.like, np.ndarray):
                return f"{a}.unsqueeze(-1)"  # PyTorch takes ten times as long over an index
            return f"{a}[{index}]"
        if operation.name in ("T", "mT"):
            return f"{self._text(operation.args[0])}.{operation.name}"
        if operation.name == "item":
            return f"{self._text(operation.args[0])}.item()"
        if isinstance(self.like, np.ndarray):
            short = self._call_of_numpy(operation)
            if short is not None:
                return short
        inner = [self._text(a) for a in operation.args]
        inner += [f"{k}={self._text(v)}" for k, v in operation.kwargs.items()]
        return f"{self._define(operation.function)}({', '.join(inner)})"

    def _is_scalar_arithmetic(self, operation: Operation) -> bool:
        """Whether NumPy's scalars give the bits that its 0-d arrays give, and no other warnings."""
        if operation.name == "pow" or not all(self.infos[r].number for r in operation.results):
            return False
        arrays = [self.infos[a] for a in operation.args if self.task.is_array(a)]
        if all(np.issubdtype(kind.dtype, np.floating) for kind in arrays):
            return True
        return operation.name == "add" and operation.args[1] == 1  # a counter never overflows

    def _scalar(self, arg: Any) -> str:
        """Return the text of a number, of a 0-d array of NumPy its scalar: that computes faster."""
        own = self.task.is_array(arg) and isinstance(self.static.get(arg), np.ndarray)
        return f"{self._text(arg)}[()]" if own else self._text(arg)

    def _call_of_numpy(self, operation: Operation) -> str | None:
        """Return the same call without the checks of NumPy's functions, if there is one."""
        name, args, kwargs = operation.name, operation.args, operation.kwargs
        if operation.function is not getattr(np, name, None):
            return None
        number = all(self.infos[r].number for r in operation.results)
        if name == "astype" and number:
            scalar = np.dtype(args[1]).type
            if issubclass(scalar, np.floating):
                return f"{self._define(scalar)}({self._text(args[0])})"
        if name in REDUCTIONS and number and len(args) == 1 and not kwargs:
            return f"{self._define(REDUCTIONS[name].reduce)}({self._text(args[0])}, None)"
        if (
            name == "take_along_axis"
            and kwargs == {"axis": -1}
            and len(args) == 2
            and self.infos[args[0]].shape[:-1] == self.infos[args[1]].shape[:-1]
        ):
            shape = self.infos[args[1]].shape
            index = [along(n, i, len(shape)) for i, n in enumerate(shape[:-1])]
            inner = [*[self._define(i) for i in index], self._text(args[1])]
            return f"{self._text(args[0])}[{', '.join(inner)}]"
        return None

    def _destination(
        self, at: int, result: Register, operation: Operation, free: list[Array], *, over: bool
    ) -> Array | None:
        """Return where a result is written, None if it gets new memory in every call."""
        if result in self.static:
            return self.static[result]
        kind = self.infos[result]
        laid = kind.ordered or kind.last
        if kind.root != result or not laid or result == self.task.value or kind.number:
            return None
        home = self.home_of.get(result) if kind.ordered else None
        if home is not None and self._may_stay(at, home, operation, over):
            self.static[result] = self.homes[home]
            return self.homes[home]
        old = self._vacated(at, kind, operation) if over else None
        if old is not None:
            self.block_of[result] = self.block_of.pop(self.infos[old].root)
            self.static[result] = self.static[old]
            return self.static[result]
        n = math.prod(kind.shape)
        self.block_of[result] = self.pool.find(free, max(n, 1), kind.dtype, self.like)
        whole = self.block_of[result][:n]
        if kind.last:
            images, channels, *sizes = kind.shape
            self.static[result] = whole.reshape(images, *sizes, channels).permute(0, 3, 1, 2)
        else:
            self.static[result] = namespace(whole).reshape(whole, kind.shape)
        return self.static[result]

    def _may_stay(self, at: int, home: Register, operation: Operation, over: bool) -> bool:
        """Whether a result may be written to its home already now."""
        if not self.infos[home].ordered or self.last.get(home, -1) > at:
            return False
        operands = [r for r in read(operation) if self.infos[r].root == home]
        return not operands or (over and operands == [home] * len(operands))

    def _vacated(self, at: int, kind: ValueInfo, operation: Operation) -> Register | None:
        """Return an operand that nobody needs after this operation, and that the result fits in."""
        operands = [r for r in read(operation) if not self.infos[r].number]
        roots = [self.infos[r].root for r in operands]
        for r, root in zip(operands, roots, strict=True):
            old = self.infos[r]
            if (
                r in self.static  # a view may be made anew in each call
                and root in self.block_of
                and self.last[root] == at
                and roots.count(root) == 1
                and (old.shape, old.dtype) == (kind.shape, kind.dtype)
                and (old.ordered, old.last) == (kind.ordered, kind.last)
                and self.infos[root].shape == old.shape
            ):
                return r
        return None

    # Names

    def _local(self, r: Register) -> str:
        self.names[r] = f"v{int(r)}"
        return self.names[r]

    def _name(self, r: Register) -> str:
        if r in self.static:
            return self._define(self.static[r])
        return self.names[r]

    def _define(self, value: Any) -> str:
        name = self.known.get(id(value))
        if name is None:
            name = self.known[id(value)] = f"g{len(self.defined)}"
            self.defined[name] = value  # which also keeps its id from being used again
        return name

    def _text(self, arg: Any) -> str:
        if isinstance(arg, Register):
            return self._name(arg)
        if type(arg) in (tuple, list) and any(True for _ in instances(Register, arg)):
            inner = ", ".join(map(self._text, arg))
            return f"[{inner}]" if type(arg) is list else f"({inner},)"
        if type(arg) in (int, bool, type(None)) or (type(arg) is float and math.isfinite(arg)):
            return repr(arg)
        return self._define(arg)


def _one_object(values: list, operands: list, seen: list, outs: list) -> list:
    """Return `values`, where those that are also among `outs` are the objects of `seen`."""
    views = {id(o): s for o, s in zip(outs, seen, strict=True)}
    return [views.get(id(g), v) for g, v in zip(operands, values, strict=True)]
