"""Elementwise operations that do the same to arrays of one kind, done as one.

An optimizer does so to its parameters. Operands and results are laid out one after the other in a
flat buffer each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from xplayers.accelerate.replay.flat import address, buffer_of, is_large, side_by_side
from xplayers.accelerate.replay.recording import (
    Operation,
    Recording,
    Register,
    ValueInfo,
    instances,
)
from xplayers.accelerate.tape import constants_key, value_key
from xplayers.arrays.namespaces import Array


class StepProgram(NamedTuple):
    """A recording, and what its inputs and results are."""

    recording: Recording
    arguments: list[Register]  # the inputs that each call gets
    # The arrays of the other inputs, which stay the same. Side by side in flat buffers they can be
    # updated at once.
    homes: Mapping[Register, Array]
    updates: Mapping[Register, Register]  # for inputs in `homes`, what is written there at the end
    value: Register  # what is returned, in memory of its own

    @property
    def operations(self) -> list[Operation]:
        return self.recording.operations

    @property
    def infos(self) -> list[ValueInfo]:
        return self.recording.infos

    def is_array(self, arg: Any) -> bool:
        return isinstance(arg, Register) and not self.infos[arg].number


def read(operation: Operation) -> Iterator[Register]:
    """Return the registers that an operation reads."""
    return instances(Register, (operation.args, operation.kwargs))


class Group(NamedTuple):
    """Elementwise operations that are done at once, where the last of them stands."""

    members: list[int]
    operands: list[Any]  # of the whole: flat buffers, and what stands for numbers
    outs: list[Array]


class ForeachGroups:
    """The groups of a task."""

    def __init__(self, task: StepProgram) -> None:
        self._task = task
        self._operations, self._infos, self._homes = task.operations, task.infos, task.homes
        self._home_of = {o: i for i, o in task.updates.items()}  # of a result
        self._results = {r for o in task.operations for r in o.results}
        self._for_rules = {r for o in task.operations if self._at_home(o) for r in read(o)}
        self._like = next(iter(task.homes.values()))
        # Arrays of registers that stay the same in every call: constants, homes, and the parts of
        # the flat buffers of the groups.
        self.static: dict[int, Array] = {**task.recording.constants, **task.homes}
        self.at = self._grouped()  # by the index of each of their members among the operations

    def _grouped(self) -> dict[int, Group]:
        """Return the groups by the place of each of their members."""
        alike: dict[Any, list[int]] = {}
        for at, operation in enumerate(self._operations):
            key = self._group_key(operation)
            if key is not None:
                alike.setdefault(key, []).append(at)
        groups: dict[int, Group] = {}
        for members in reversed(alike.values()):  # what makes operands of a rule follows its order
            if len(members) > 1 and self._independent(members):
                group = self._lay_out(members)
                if group is not None:
                    groups |= dict.fromkeys(members, group)
        return groups

    def _group_key(self, operation: Operation) -> Any:
        """Return what operations of one group have in common; None for those of no group."""
        if operation.name != "elementwise":
            return None
        parts: list[Any] = [operation.function, constants_key(operation.kwargs)]
        for arg in operation.args:
            if not isinstance(arg, Register):
                parts.append(value_key(arg))
            elif self._infos[arg].number:
                parts.append(arg)
            else:
                kind = self._infos[arg]
                own = kind.root == arg and kind.ordered and arg not in self._task.arguments
                if not own or (arg not in self._homes and arg not in self._results):
                    return None
                parts.append((kind.dtype, arg in self._homes))
        for r in operation.results:
            home = self._home_of.get(r)
            parts.append(operation.args.index(home) if home in operation.args else None)
            parts.append(self._infos[r].dtype)
        arrays = [self._infos[a] for a in operation.args if self._task.is_array(a)]
        shapes = {kind.shape for kind in arrays}
        results = [self._infos[r] for r in operation.results]
        sizes = {kind.dtype.itemsize for kind in (*arrays, *results)}
        at_home = self._at_home(operation) or self._for_rules.issuperset(operation.results)
        if len(shapes) != 1 or len(sizes) != 1 or not at_home:  # parts begin at the same places
            return None
        return *parts, is_large(*shapes)

    def _at_home(self, operation: Operation) -> bool:
        """Whether it computes with parameters or state, as the rule of an optimizer does."""
        own = (a for a in operation.args if self._task.is_array(a))
        return operation.name == "elementwise" and any(a in self._homes for a in own)

    def _independent(self, members: list[int]) -> bool:
        """Whether all can wait for the last: nothing before it needs their results."""
        operands = [
            r for at in members for r in read(self._operations[at]) if self._task.is_array(r)
        ]
        written: set[int] = set()
        for at in range(members[0], members[-1] + 1):
            operation = self._operations[at]
            roots = {self._infos[r].root for r in read(operation)}
            if roots & written or (operation.writes and roots & set(operands)):
                return False
            if at in members:
                written |= set(operation.results)
        return len(set(operands)) == len(operands)

    def _lay_out(self, members: list[int]) -> Group | None:
        """Give operands and results of the members memory side by side; None if they have other."""
        operations = self._in_order([self._operations[at] for at in members])
        first = operations[0]
        shapes = [self._shape(o) for o in operations]
        memory: dict[Register, Array] = {}

        def flat_of(registers: list[Register]) -> Array | None:
            known = [self.static[r] for r in registers if r in self.static]
            if known:
                return buffer_of(known) if len(known) == len(registers) else None
            flat, parts = side_by_side(shapes, self._infos[registers[0]].dtype, self._like)
            flat[...] = 1  # between the parts too: a rule may divide by the root of a square
            memory.update(zip(registers, parts, strict=True))
            return flat

        operands: list[Any] = []
        for j, arg in enumerate(first.args):
            flat = flat_of([o.args[j] for o in operations]) if self._task.is_array(arg) else arg
            if flat is None:
                return None
            operands.append(flat)
        outs = []
        for k, result in enumerate(first.results):
            home = self._home_of.get(result)
            if home in first.args:
                homes = [self._home_of[o.results[k]] for o in operations]
                if any(self._is_read_after(members[-1], home) for home in homes):
                    return None
                outs.append(operands[first.args.index(home)])
                memory.update((o.results[k], self._homes[self._home_of[o.results[k]]])
                              for o in operations)  # fmt: skip
            else:
                flat = flat_of([o.results[k] for o in operations])
                if flat is None:
                    return None
                outs.append(flat)
        self.static |= memory
        return Group(members, operands, outs)

    def _in_order(self, operations: list[Operation]) -> list[Operation]:
        """Return the operations in the order in which memory that they have lies."""
        results = [o.results[0] for o in operations]
        addresses = {r: address(self.static[r]) if r in self.static else None for r in results}
        if None in addresses.values():
            return operations
        return sorted(operations, key=lambda o: addresses[o.results[0]] or ())

    def _is_read_after(self, at: int, home: Register) -> bool:
        later = (r for o in self._operations[at + 1 :] for r in read(o))
        return any(
            self._infos[r].root == home
            for r in (*later, self._task.value, *self._task.updates.values())
        )

    def _shape(self, operation: Operation) -> tuple[int, ...]:
        return next(self._infos[a].shape for a in operation.args if self._task.is_array(a))
