"""Checkpoints of training runs, of which the last few are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xplayers._calls import explained
from xplayers._checks import integer, positive
from xplayers._terminal import warn
from xplayers.arrays.checks import described
from xplayers.arrays.namespaces import Array, device, dtype_name, named_dtype, namespace
from xplayers.arrays.transfer import move
from xplayers.layers.base import Layer
from xplayers.saving.files import AnyPath, clean, in_full
from xplayers.saving.network import (
    APART,
    RECORD,
    as_dict,
    check_fit,
    check_layer,
    converted_like,
    is_materialized,
    put,
    read_record,
    to_json,
)
from xplayers.saving.safetensors import Entry, check_header, naming, reading, write

__all__ = ["Checkpoint", "Saved"]

State = Mapping[str, Any]  # nested mappings of arrays by name

FILE_NAME = re.compile(r"step-([0-9]+)\.safetensors")
_STATE = APART + "state"
_OLD_MOMENTS = (
    "has the moments of Adam as earlier versions of xplayers stored them, m / (1 - beta1) and v / "
    "(1 - beta2). Resume with the version that wrote it; or read only the network by "
    "load(path, net), and start with a new optimizer."
)


@dataclasses.dataclass(frozen=True)
class Saved:
    """The result of `Checkpoint.restore`, apart from the arrays of the network.

    Parameters
    ----------
    step : int
        Number of completed steps.
    state : dict or None
        The saved nested dict of arrays, as ``TrainStep.state``.
    rng_state : dict or None
        State of the generator: restore it by ``rng.bit_generator.state = saved.rng_state``.
    metadata : dict
        The saved metadata.
    path : pathlib.Path
        The file.
    """

    step: int
    state: dict[str, Any] | None
    rng_state: dict[str, Any] | None
    metadata: dict[str, Any]
    path: Path


class Checkpoint:
    """A directory of checkpoints of one run: files named by step, of which the last few are kept.

    A file has the parameters and buffers of the network, the state of the optimizer, the step, the
    state of a random generator, and metadata: a killed run resumes from it with the same bits.
    Writes are atomic.

    Parameters
    ----------
    folder : str or path-like
        The directory, for this run only; ``~`` is the home directory. It is created with the first
        file.
    every_steps : int, optional
        A checkpoint is due at every multiple of this.
    every_minutes : float, optional
        A checkpoint is due so many minutes after the last one. With neither, none is ever due, and
        `save` is called explicitly.
    keep : int
        Number of files to keep; older ones are deleted once a new one is complete.

    Raises
    ------
    ValueError
        If an option is not positive.
    TypeError
        If an option is not a number, or `folder` is not a path.

    Notes
    -----
    The files extend those of `save`: `load` reads the network from one. Those of a `Trainer`
    identify their run, so that no other run resumes from them.

    Several processes may write to a directory at the same time, each its own complete files.

    Examples
    --------
    A loop that can be killed at any time and restarted:

    >>> import tempfile, numpy as np, xplayers as xl
    >>> (x, t), _ = xl.data.load_digits()
    >>> def train(folder, steps):
    ...     net, rng = xl.mlp([64, 50, 10], rng=0), np.random.default_rng(0)
    ...     step, done = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam()), 0
    ...     checkpoint = xl.Checkpoint(folder, every_steps=10)
    ...     saved = checkpoint.restore(net)
    ...     if saved is not None:
    ...         step.state, done = saved.state, saved.step
    ...         rng.bit_generator.state = saved.rng_state
    ...     print("begins after", done)
    ...     while done < steps:
    ...         batch = rng.integers(0, len(x), 100)
    ...         step(x[batch], t[batch])
    ...         done += 1
    ...         if checkpoint.due(done):
    ...             checkpoint.save(done, net, step.state, rng=rng)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(folder, steps=15)
    ...     train(folder, steps=20)
    begins after 0
    begins after 10
    """

    @explained()
    def __init__(
        self,
        folder: AnyPath,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 3,
    ) -> None:
        self.folder = Path(in_full(folder, "Checkpoint", "folder"))
        self.every_steps = None if every_steps is None else _count("every_steps", every_steps, 1)
        self.every_minutes = None
        if every_minutes is not None:
            self.every_minutes = positive("Checkpoint", "every_minutes", every_minutes)
        self.keep = _count("keep", keep, 1)
        self._reset_timer(0)

    def __repr__(self) -> str:
        names = ("every_steps", "every_minutes", "keep")
        options = [f"{n}={getattr(self, n)}" for n in names if getattr(self, n) is not None]
        return f"Checkpoint({str(self.folder)!r}, {', '.join(options)})"

    def _reset_timer(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps.

        Counted from the last one that was saved or restored. Steps may be skipped: with
        ``every_steps=10`` one is due at 21 if the last was at 19.
        """
        if self.every_steps and step // self.every_steps > self._step // self.every_steps:
            return True
        if self.every_minutes is None or step == self._step:
            return False
        return time.monotonic() - self._time >= 60 * self.every_minutes

    @explained()
    def save(
        self,
        step: int,
        net: Layer,
        state: State | None = None,
        *,
        rng: np.random.Generator | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint, then delete old ones.

        Parameters
        ----------
        step : int
            Number of completed steps.
        net : Layer
            The network.
        state : mapping, optional
            Arrays of any library, in mappings by name that may be nested: ``TrainStep.state``, or
            ``{"optimizer": optimizer.state}``.
        rng : numpy.random.Generator, optional
            Its state is saved; without the counter of `spawn`.
        metadata : mapping, optional
            As in `save`, of any length: the history of the run, for example.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        OSError
            If it cannot be written; then all earlier checkpoints are kept.
        ValueError
            If the directory has a checkpoint of a later step, which is of another run.
        TypeError
            If an argument has the wrong type.
        """
        check_layer("Checkpoint", net, "The order is save(step, net)." * isinstance(step, Layer))
        step = _count("step", step, 0)
        self._check_later(step)
        arrays = dict(net.arrays)  # and those of the state; the record has None instead
        record = {
            "version": 2,
            "step": step,
            "state": None if state is None else _mapped(arrays.__setitem__, state),
            "rng_state": None if rng is None else _rng_state(rng),
            "metadata": as_dict("Checkpoint", metadata),
        }
        arrays[RECORD] = np.frombuffer(to_json(record).encode(), "uint8")
        path = self.folder / f"step-{step:09d}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        write(path, arrays, {"net": repr(net), "step": str(step)})
        self._prune(step)
        self._reset_timer(step)
        return path

    def latest(self) -> Path | None:
        """Return the newest complete file, or None if there are no files.

        Warns
        -----
        RuntimeWarning
            For each newer file that is damaged or cannot be read.

        Raises
        ------
        ValueError
            If there are files, but none is complete.
        """
        newest = self.newest({RECORD})
        return newest and newest.path

    @explained("Write restore(net).")
    def restore(self, net: Layer) -> Saved | None:
        """Load the newest complete checkpoint into the network.

        Parameters
        ----------
        net : Layer
            A network like the one that was saved. It is not changed before all is checked.

        Returns
        -------
        Saved or None
            None if there is no file. The arrays of ``state`` are on the device of the network, in
            the saved dtypes. If the network is not materialized yet, they are NumPy arrays
            (bfloat16 as float32), which ``TrainStep.state`` moves to the first input.

        Warns
        -----
        RuntimeWarning
            For each newer file that is damaged or cannot be read.

        Raises
        ------
        ValueError
            If there are files, but none is complete; or if it does not match the network, as in
            `load`.
        """
        check_layer("Checkpoint", net)
        newest = self.newest()
        return None if newest is None else self.load_into(net, newest)

    def newest(self, names: Collection[str] | None = None) -> File | None:
        """Read the newest complete file, with the arrays in `names`, or all."""
        damaged: set[Path] = set()
        while files := self._files():
            for _, path in reversed(files):
                if path in damaged:
                    continue
                try:
                    return _read(path, names)
                except (OSError, ValueError) as error:
                    if not os.path.lexists(path):
                        break  # another process has deleted it: list the files again
                    damaged.add(path)
                    warn(f"Checkpoint skips {error}")
            else:
                message = f"none of the {len(files)} files in {self.folder} is complete."
                raise ValueError(f"Checkpoint: {message}")
        return None

    def load_into(self, net: Layer, file: File) -> Saved:
        """Set the arrays of the network to those of a file, after all is checked."""
        path, entries, values, record = file
        with naming(path):
            check_fit(net, {k: e for k, e in entries.items() if not k.startswith(APART)})
            arrays = converted_like(net, values)
            like = next((a for name, a in net.arrays.items() if is_materialized(net, name)), None)
            if record["version"] == 1 and any(
                name.replace("/m/", "/v/") in entries for name in entries if "/m/" in name
            ):
                raise ValueError(_OLD_MOMENTS)
            state = record["state"] and _mapped(
                lambda name, _: _restored(file, name, like), record["state"]
            )
        put(net, arrays)
        self._reset_timer(record["step"])
        return Saved(record["step"], state, record["rng_state"], record["metadata"], path)

    def check(self, net: Layer) -> None:
        """Check that checkpoints of a network can be written, without writing.

        OSError if the directory can neither be written to nor created. Errors of a dtype or of a
        header that would be too long are those of `save`.
        """
        arrays = {**net.arrays, RECORD: np.empty(0, "uint8")}
        check_header(self.folder, arrays, {"net": repr(net), "step": "0" * 20})
        parent = next(f for f in (self.folder, *self.folder.absolute().parents) if f.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))

    def _files(self) -> list[tuple[int, Path]]:
        """Return the steps and files, sorted by step."""
        try:
            matches = [(FILE_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _check_later(self, step: int) -> None:
        """Check that there is no later step, which would remain the newest."""
        for later, path in reversed(self._files()):
            if later > step:
                with contextlib.suppress(OSError, ValueError):  # damaged: ignored
                    _read(path, {RECORD})
                    break
        else:
            return
        message = (
            f"Checkpoint: {self.folder} has step {later} of another run, and this one is at "
            f"{step}. Resume from it by restore, or use another folder."
        )
        raise ValueError(message)

    def _prune(self, step: int) -> None:
        """Delete old files, and stale temporary ones."""
        known = [path for other, path in self._files() if other <= step]
        for path in known[: -self.keep]:
            with contextlib.suppress(OSError):  # the new one is complete, which matters more
                path.unlink()
        clean(self.folder)


class File(NamedTuple):
    """The contents of a checkpoint."""

    path: Path
    entries: dict[str, Entry]
    values: dict[str, np.ndarray]
    record: dict[str, Any]


def _read(path: Path, names: Collection[str] | None = None) -> File:
    """Read all of a checkpoint and verify its checksum; keep the arrays in `names`."""
    with reading(path) as file:
        values = file.read(names)
        return File(path, file.entries, values, read_record(values))


def _count(name: str, value: Any, least: int) -> int:
    hint = "A float is not rounded." if isinstance(value, float) else ""
    in_range = "a positive number" if least else "0 or more"
    return integer("Checkpoint", name, value, least=least, in_range=in_range, hint=hint)


def _mapped(f: Callable[[str, Any], Any], state: Any, path: str = _STATE) -> dict[str, Any]:
    """Return nested dicts with ``f(path, value)`` for each value.

    Paths are as in a JSON pointer (RFC 6901).
    """
    if not isinstance(state, Mapping):
        message = f"Checkpoint: state is a {type(state).__name__}; expected a dict of arrays."
        raise TypeError(message)
    results = {}
    for name, value in state.items():
        if not isinstance(name, str):
            message = f"Checkpoint: state has the name {name!r}; expected a string."
            raise TypeError(message)
        inner = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        results[name] = _mapped(f, value, inner) if isinstance(value, Mapping) else f(inner, value)
    return results


def _restored(file: File, name: str, like: Array | None) -> Array:
    """Return an array of a file on the device of `like`, in the saved dtype; else on the host."""
    if name not in file.entries:
        message = f"has no {name}."
        raise ValueError(message)
    values, dtype = file.values[name], file.entries[name].dtype
    if like is None:
        return values
    xp = namespace(like)
    bfloat16 = named_dtype(xp, dtype) if dtype == "bfloat16" else None  # others are unchanged
    moved = move(values, xp=xp, device=device(like), dtype=bfloat16)
    if dtype_name(moved.dtype) != dtype:  # JAX without x64, NumPy without bfloat16
        message = f"{name} is {dtype}, which {described(like)} cannot be."
        raise ValueError(message)
    return moved


def _rng_state(rng: np.random.Generator) -> dict[str, Any]:
    if not isinstance(rng, np.random.Generator):
        message = f"rng is a {type(rng).__name__}; expected numpy.random.default_rng(...)."
        raise TypeError(f"Checkpoint: {message}")
    state = rng.bit_generator.state
    return json.loads(json.dumps(state, default=np.ndarray.tolist))  # some have arrays
