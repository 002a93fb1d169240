"""A recording as straight code: the same calls on the same memory, again and again.

Every result gets a place once. A place is used again as soon as nobody reads it any more, what is
computed element by element is written over an operand that nobody needs, and parameters and state
are written where they stay. What the views of these places are is known beforehand, so what is left
of a step is the calls themselves.

Elementwise operations that do the same to arrays of one kind, as an optimizer does to its
parameters, become one: their operands and results are laid out one after the other in a flat buffer
each.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xplayers._arrays import Array, device, namespace
from xplayers._flat import side_by_side, whole
from xplayers._memory import empty
from xplayers._places import REDUCTIONS, along, copied_array, into
from xplayers._recording import BINARY, COMPARISONS, Kind, Operation, Recording, Register, found
from xplayers.elementwise import as_numpy

VIEWS = ("reshape", "permute_dims", "expand_dims", "squeeze", "getitem", "T", "mT")


class Places:
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


class Group(NamedTuple):
    """Elementwise operations that are done at once, where the last of them stands."""

    members: list[int]
    operands: list[Any]  # of the whole: flat buffers, and what stands for numbers
    outs: list[Array]


def compiled(
    recording: Recording,
    arguments: list[Register],
    homes: Mapping[Register, Array],
    updates: Mapping[Register, Register],
    value: Register,
    places: Places,
) -> Callable[..., Array]:
    """Return ``replay(*arguments) -> value``.

    Parameters
    ----------
    recording : Recording
    arguments : list
        The inputs that each call gets.
    homes : mapping
        The arrays of the other inputs, which stay the same. Side by side in flat buffers they can
        be updated at once.
    updates : mapping
        For inputs in `homes` the result that is written there at the end.
    value : Register
        What is returned, in memory of its own.
    places : Places

    Returns
    -------
    callable
    """
    return _Compiler(recording, arguments, homes, updates, value, places).compiled()


class _Compiler:
    def __init__(
        self,
        recording: Recording,
        arguments: list[Register],
        homes: Mapping[Register, Array],
        updates: Mapping[Register, Register],
        value: Register,
        places: Places,
    ) -> None:
        self.operations, self.kinds = recording.operations, recording.kinds
        self.arguments, self.homes, self.value, self.places = arguments, homes, value, places
        self.updates = {i: o for i, o in updates.items() if i != o}
        self.home_of = {o: i for i, o in self.updates.items()}  # of a result
        self.like = next(iter(homes.values()))
        # The value of each register that is known now, and stays.
        self.static: dict[int, Array] = {**recording.constants, **homes}
        self.block_of: dict[int, Array] = {}  # by root, of those that come from `places`
        self.made_at = {r: at for at, o in enumerate(self.operations) for r in o.results}
        self.groups = self._grouped()
        self.last = self._last_uses()
        self.defined: dict[str, Any] = {}
        self.names: dict[int, str] = {}  # in the source
        self.known: dict[int, str] = {}  # names of what is defined, by id
        self.lines: list[str] = []

    # What is done at once

    def _grouped(self) -> dict[int, Group]:
        """Return the groups by the place of each of their members."""
        found: dict[Any, list[int]] = {}
        for at, operation in enumerate(self.operations):
            key = self._group_key(operation)
            if key is not None:
                found.setdefault(key, []).append(at)
        groups: dict[int, Group] = {}
        for members in found.values():
            if len(members) > 1 and self._independent(members):
                group = self._lay_out(members)
                if group is not None:
                    groups |= dict.fromkeys(members, group)
        return groups

    def _group_key(self, operation: Operation) -> Any:
        """Return what operations of one group have in common; None for those of no group."""
        if operation.name != "elementwise":
            return None
        parts: list[Any] = []
        for arg in operation.args:
            if not isinstance(arg, Register):
                parts.append((type(arg), arg))
            elif self.kinds[arg].number:
                parts.append(arg)
            else:
                kind = self.kinds[arg]
                own = kind.root == arg and kind.ordered and arg not in self.arguments
                if not own or (arg not in self.homes and arg not in self.made_at):
                    return None
                parts.append((kind.dtype, arg in self.homes))
        for r in operation.results:
            home = self.home_of.get(r)
            parts.append(operation.args.index(home) if home in operation.args else None)
            parts.append(self.kinds[r].dtype)
        shapes = {self.kinds[a].shape for a in operation.args if self._is_array(a)}
        at_home = any(a in self.homes for a in operation.args if self._is_array(a))
        if len(shapes) != 1 or not at_home:
            return None
        return (operation.function, *operation.kwargs.items(), *parts)

    def _is_array(self, arg: Any) -> bool:
        return isinstance(arg, Register) and not self.kinds[arg].number

    def _independent(self, members: list[int]) -> bool:
        """Whether all can wait for the last: nothing before it needs their results."""
        operands = [
            r for at in members for r in self._read(self.operations[at]) if self._is_array(r)
        ]
        made: set[int] = set()
        for at in range(members[0], members[-1] + 1):
            operation = self.operations[at]
            roots = {self.kinds[r].root for r in self._read(operation)}
            if roots & made or (operation.writes and roots & set(operands)):
                return False
            if at in members:
                made |= set(operation.results)
        return len(set(operands)) == len(operands)

    def _lay_out(self, members: list[int]) -> Group | None:
        """Give operands and results of the members memory side by side; None if they have other."""
        operations = [self.operations[at] for at in members]
        first = operations[0]
        shapes = [self._shape(o) for o in operations]
        placed: dict[Register, Array] = {}

        def flat_of(registers: list[Register]) -> Array | None:
            known = [self.static[r] for r in registers if r in self.static]
            if known:
                return whole(known) if len(known) == len(registers) else None
            flat, parts = side_by_side(shapes, self.kinds[registers[0]].dtype, self.like)
            flat[...] = 1  # between the parts too: a rule may divide by the root of a square
            placed.update(zip(registers, parts, strict=True))
            return flat

        operands: list[Any] = []
        for j, arg in enumerate(first.args):
            flat = flat_of([o.args[j] for o in operations]) if self._is_array(arg) else arg
            if flat is None:
                return None
            operands.append(flat)
        outs = []
        for k, made in enumerate(first.results):
            home = self.home_of.get(made)
            if home in first.args:
                homes = [self.home_of[o.results[k]] for o in operations]
                if any(self._is_read_after(members[-1], home) for home in homes):
                    return None
                outs.append(operands[first.args.index(home)])
                placed.update((o.results[k], self.homes[self.home_of[o.results[k]]])
                              for o in operations)  # fmt: skip
            else:
                outs.append(flat_of([o.results[k] for o in operations]))
        self.static |= placed
        return Group(members, operands, outs)

    def _is_read_after(self, at: int, home: Register) -> bool:
        later = (r for o in self.operations[at + 1 :] for r in self._read(o))
        return any(self.kinds[r].root == home for r in (*later, self.value, *self.updates.values()))

    def _shape(self, operation: Operation) -> tuple[int, ...]:
        return next(self.kinds[a].shape for a in operation.args if self._is_array(a))

    # How long a value is needed

    @staticmethod
    def _read(operation: Operation) -> Iterator[Register]:
        return found(Register, (operation.args, operation.kwargs))

    def _last_uses(self) -> dict[int, int]:
        """Return for each root the operation that uses it last."""
        last: dict[int, int] = {}
        for at, operation in enumerate(self.operations):
            for r in (*self._read(operation), *operation.results):
                last[self.kinds[r].root] = at
        for r in (self.value, *self.updates.values()):
            last[self.kinds[r].root] = len(self.operations)
        return last

    # The source

    def compiled(self) -> Callable[..., Array]:
        parameters = []
        for i, r in enumerate(self.arguments):
            self.names[r] = f"a{i}"
            parameters.append(f"a{i}")
        free = list(self.places.blocks)
        for at, operation in enumerate(self.operations):
            group = self.groups.get(at)
            if group is None:
                self._emit(at, operation, free)
            elif at == group.members[-1]:
                self._emit_elementwise(operation.function, group.operands, group.outs, operation)
            for root in [r for r in self.block_of if self.last[r] == at]:
                free.append(self.block_of.pop(root))
        late = {h: m for h, m in self.updates.items() if self.static.get(m) is not self.homes[h]}
        copied = {m for m in late.values() if self.kinds[m].root in self.homes}
        for made in copied:  # parts of the old state, which may be written over
            self.lines.append(f"v{int(made)} = {self._define(copied_array)}({self._name(made)})")
        for home, made in late.items():
            value = f"v{int(made)}" if made in copied else self._name(made)
            self.lines.append(f"{self._name(home)}[...] = {value}")
        value = self._name(self.value)
        if self.value in self.static or self.kinds[self.value].root != self.value:
            value = f"{self._define(copied_array)}({value})"
        if self.kinds[self.value].number:
            value = f"{self._define(np.asarray)}({value})"
        self.lines.append(f"return {value}")
        lines = [f"def replay({', '.join(parameters)}):", *[f"    {x}" for x in self.lines]]
        self.source = "\n".join(lines)
        exec(self.source, self.defined)
        replay = self.defined["replay"]
        replay.source = self.source
        return replay

    def _emit(self, at: int, operation: Operation, free: list[Array]) -> None:
        if operation.writes:
            self._emit_in_place(operation)
            return
        if operation.name == "elementwise":
            outs = [self._place(at, r, operation, free, over=True) for r in operation.results]
            if all(out is not None for out in outs):
                given = [self.static.get(a, a) if isinstance(a, Register) else a
                         for a in operation.args]  # fmt: skip
                self._emit_elementwise(operation.function, given, outs, operation)
                return
        if len(operation.results) == 1:
            (made,) = operation.results
            kind = self.kinds[made]
            if kind.root != made and self._known_view(operation, made):
                return
            own = kind.root == made and not kind.number
            written = into(operation, self.kinds, self.like) if own else None
            if written is not None:
                function, given, over = written
                out = self._place(at, made, operation, free, over=over)
                if out is not None:
                    self._call_into(function, [*map(self._text, given)], self._define(out))
                    return
        text = self._call(operation)
        placed = {r: self._name(r) for r in operation.results if r in self.static}
        names = ", ".join(self._local(r) for r in operation.results)
        self.lines.append(f"{names} = {text}" if names else text)
        self.lines += [f"{place}[...] = v{int(r)}" for r, place in placed.items()]

    def _known_view(self, operation: Operation, made: Register) -> bool:
        """Whether the result is a view of memory that stays; then it is made now."""
        if operation.name not in VIEWS:
            return False
        read = list(self._read(operation))
        if not all(r in self.static for r in read):
            return False
        args, kwargs = _filled((operation.args, operation.kwargs), self.static)
        self.static[made] = operation.function(*args, **kwargs)
        return True

    def _emit_in_place(self, operation: Operation) -> None:
        (made,) = operation.results
        target = self._name(made)
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

    def _call_into(self, function: Callable[..., Any], given: list[str], out: str) -> None:
        # NumPy reads `out` faster by position, but has deprecated that for two.
        position = isinstance(function, np.ufunc) and function not in (np.maximum, np.minimum)
        inner = ", ".join([*given, out if position else f"out={out}"])
        self.lines.append(f"{self._define(function)}({inner})")

    def _emit_elementwise(
        self, function: Any, given: list[Any], outs: list[Array], operation: Operation
    ) -> None:
        run = None
        if all(self.kinds[a].number for a in given if isinstance(a, Register)):
            values = as_numpy([1.0 if isinstance(a, Register) else a for a in given])
            seen = as_numpy(outs)
            if values is not None and seen is not None:
                values = _one_object(values, given, seen, outs)
                run = function.prepared(values, tuple(seen), operation.kwargs)
        if run is not None:
            scalars = [a for a in given if not hasattr(a, "shape")]
            self.lines.append(f"{self._define(run)}({', '.join(map(self._text, scalars))})")
            return
        inner = [self._text(a) for a in given]
        many = f"({', '.join(self._define(o) for o in outs)},)"
        inner.append(f"out={many if len(outs) > 1 else self._define(outs[0])}")
        inner += [f"{k}={self._text(v)}" for k, v in operation.kwargs.items()]
        self.lines.append(f"{self._define(function)}({', '.join(inner)})")

    def _call(self, operation: Operation) -> str:
        """Return the call as it was recorded."""
        sign = _SIGNS.get(operation.name)
        if sign is not None and operation.function in (
            BINARY.get(operation.name),
            COMPARISONS.get(operation.name),
        ):
            number = all(self.kinds[r].number for r in operation.results)
            a, b = [self._scalar(a) if number else self._text(a) for a in operation.args]
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

    def _scalar(self, arg: Any) -> str:
        """Return the text of a number, of a 0-d array of NumPy its scalar: that computes faster."""
        own = self._is_array(arg) and isinstance(self.static.get(arg), np.ndarray)
        return f"{self._text(arg)}[()]" if own else self._text(arg)

    def _call_of_numpy(self, operation: Operation) -> str | None:
        """Return the same call without the checks of NumPy's functions, if there is one."""
        name, args, kwargs = operation.name, operation.args, operation.kwargs
        if operation.function is not getattr(np, name, None):
            return None
        number = all(self.kinds[r].number for r in operation.results)
        if name == "astype" and number and self._is_array(args[0]) is False:
            made = np.dtype(args[1]).type
            if issubclass(made, np.floating):
                return f"{self._define(made)}({self._text(args[0])})"
        if name in REDUCTIONS and number and len(args) == 1 and not kwargs:
            return f"{self._define(REDUCTIONS[name].reduce)}({self._text(args[0])}, None)"
        if (
            name == "take_along_axis"
            and kwargs == {"axis": -1}
            and len(args) == 2
            and self.kinds[args[0]].shape[:-1] == self.kinds[args[1]].shape[:-1]
        ):
            shape = self.kinds[args[1]].shape
            index = [along(n, i, len(shape)) for i, n in enumerate(shape[:-1])]
            inner = [*[self._define(i) for i in index], self._text(args[1])]
            return f"{self._text(args[0])}[{', '.join(inner)}]"
        return None

    def _place(
        self, at: int, made: Register, operation: Operation, free: list[Array], *, over: bool
    ) -> Array | None:
        """Return where a result is written, None if it gets new memory in every call."""
        if made in self.static:
            return self.static[made]
        kind = self.kinds[made]
        if kind.root != made or not kind.ordered or made == self.value or kind.number:
            return None
        home = self.home_of.get(made)
        if home is not None and self._may_stay(at, home, operation, over):
            self.static[made] = self.homes[home]
            return self.homes[home]
        old = self._vacated(at, kind, operation) if over else None
        if old is not None:
            self.block_of[made] = self.block_of.pop(self.kinds[old].root)
            self.static[made] = self.static[old]
            return self.static[made]
        n = math.prod(kind.shape)
        self.block_of[made] = self.places.find(free, max(n, 1), kind.dtype, self.like)
        whole = self.block_of[made][:n]
        self.static[made] = namespace(whole).reshape(whole, kind.shape)
        return self.static[made]

    def _may_stay(self, at: int, home: Register, operation: Operation, over: bool) -> bool:
        """Whether a result may be written to its home already now."""
        if not self.kinds[home].ordered or self.last.get(home, -1) > at:
            return False
        read = [r for r in self._read(operation) if self.kinds[r].root == home]
        return not read or (over and read == [home] * len(read))

    def _vacated(self, at: int, kind: Kind, operation: Operation) -> Register | None:
        """Return an operand that nobody needs after this operation, and that the result fits in."""
        read = [r for r in self._read(operation) if not self.kinds[r].number]
        roots = [self.kinds[r].root for r in read]
        for r, root in zip(read, roots, strict=True):
            old = self.kinds[r]
            if (
                root in self.block_of
                and self.last[root] == at
                and roots.count(root) == 1
                and (old.shape, old.dtype, old.ordered) == (kind.shape, kind.dtype, True)
                and self.kinds[root].shape == old.shape
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
        if type(arg) in (tuple, list) and any(True for _ in found(Register, arg)):
            inner = ", ".join(map(self._text, arg))
            return f"[{inner}]" if type(arg) is list else f"({inner},)"
        if type(arg) in (int, bool, type(None)) or (type(arg) is float and math.isfinite(arg)):
            return repr(arg)
        return self._define(arg)


_SIGNS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//",
    "remainder": "%", "pow": "**", "matmul": "@", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>", "less": "<",
    "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip


def _one_object(values: list, given: list, seen: list, outs: list) -> list:
    """Return `values`, where those that are also among `outs` are the objects of `seen`."""
    places = {id(o): s for o, s in zip(outs, seen, strict=True)}
    return [places.get(id(g), v) for g, v in zip(given, values, strict=True)]


def _filled(arg: Any, static: Mapping[int, Array]) -> Any:
    """Return `arg` with the arrays in the place of their registers."""
    if isinstance(arg, Register):
        return static[arg]
    if type(arg) in (tuple, list):
        return type(arg)([_filled(a, static) for a in arg])
    if type(arg) is dict:
        return {k: _filled(a, static) for k, a in arg.items()}
    return arg
