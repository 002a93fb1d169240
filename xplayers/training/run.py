"""A training run: the loop over epochs and batches, with evaluation, checkpoints and recovery."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from xplayers._terminal import notify, warn
from xplayers.arrays.namespaces import Array
from xplayers.arrays.transfer import is_out_of_memory, to_numpy
from xplayers.parallel.groups import RanksLost
from xplayers.reports.history import History, Row
from xplayers.saving.checkpoint import Checkpoint, File
from xplayers.saving.network import put
from xplayers.training.evaluation import batch_weight, weighs_labels
from xplayers.training.exchange import gathered, survived
from xplayers.training.failures import NonFiniteLoss, copied, first_nonfinite, interrupts
from xplayers.training.fetching import BLOCK, fetched
from xplayers.training.identity import differences, parts
from xplayers.training.source import Source
from xplayers.training.step import TrainStep

LATEST = 1.0  # maximum seconds between fetches of losses
RETRY = 60.0  # seconds before another try after a failed write of a checkpoint


class Settings(NamedTuple):
    """The options of a run, checked by `Trainer`."""

    epochs: int
    validation: Any  # samples and targets, or batches, or None
    train_metrics: bool
    eval_batch_size: int
    monitor: str  # the column by which epochs are compared
    largest_is_best: bool
    patience: int | None
    restore_best: bool
    raise_nonfinite: bool
    checkpoint: Checkpoint | None


@dataclasses.dataclass
class Position:
    """The position of a run: numbers, which checkpoints store."""

    epoch: int = 0  # complete epochs
    batch: int = 0  # complete batches of the current epoch
    step: int = 0
    samples: int = 0  # processed samples
    counted: int = 0  # samples of the current epoch whose losses are in the total
    weight: float = 0.0  # divisor of their mean: their number, or the weights of their labels
    total: float = 0.0  # sum of the losses of the current epoch, times the weights of the batches
    seconds: float = 0.0  # in the current epoch
    best: float = math.nan
    best_epoch: int = 0


class Snapshot(NamedTuple):
    """A training state from which steps can be repeated."""

    position: Position
    arrays: Mapping[str, Array]
    state: Mapping[str, Any]


@dataclasses.dataclass(eq=False, repr=False)
class Run:
    """A training run, from the beginning or from a checkpoint."""

    step: TrainStep
    source: Source
    settings: Settings  # may be replaced between epochs
    history: History
    evaluate: Callable[..., dict[str, float]]  # of arrays, or of batches
    emit: Callable[..., None] | None  # of the fields of an event except trainer and history
    identity: Mapping[str, Any]  # identifies this run; checkpoints store it

    def __post_init__(self) -> None:
        self.position = Position()
        self.best: Mapping[str, Array] | None = None  # parameters and buffers
        self.stopped = ""
        self._checkpoint_path = ""  # of the last checkpoint
        self._checkpointed = 0, 0  # its epoch and step
        self._retry = 0.0  # earliest time of another try
        self._snapshot: Snapshot | None = None
        self._losses: list[Array] = []  # not fetched from the device yet
        self._sizes: list[int] = []  # of their batches
        self._weights: list[Array | float] = []  # in the mean, not fetched yet
        self._score_axes: int | None = None  # labels have one less
        self._size = 0  # of the last batch
        self._start = 0.0  # time of the begin of the epoch
        self._fetched = 0.0  # time of the last fetch of losses
        self._evaluating = False
        self._exchange = self.step._exchange  # with other processes
        self._first = self.step.rank == 0

    def go(self) -> History:
        """Train to the end."""
        p = self.position
        try:
            self._emit("begin")
            # NumPy would warn of overflows, which are reported here.
            with interrupts(lambda: self.stop("interrupted")), np.errstate(all="ignore"):
                while self._goes_on():
                    pass
                checkpoint = self.settings.checkpoint
                if checkpoint is not None and (p.epoch, p.step) != self._checkpointed:
                    self._save(checkpoint)
            if self.settings.restore_best and self.best is not None:
                put(self.step.net, self.best)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(self._memory_advice()) from error
            raise
        except SystemExit as error:
            if self._exchange is not None:  # the others would wait
                self._exchange.group.abort(error.code if isinstance(error.code, int) else 1)
            raise
        finally:
            self.history.stopped = self.stopped
            self._emit("end")
        return self.history

    def stop(self, reason: str) -> None:
        """Stop after the current step; with other processes after the next one, on all."""
        if self._exchange is None:
            self.stopped = reason
        else:
            self._exchange.asked.add(reason)

    def _goes_on(self) -> bool:
        """Train for an epoch, or until processes are lost; whether there is more to do."""
        self._start = time.perf_counter() - self.position.seconds
        try:
            if self._over():
                return False
            self._epoch()
        except RanksLost as lost:
            self.position.seconds = time.perf_counter() - self._start
            self._regroup(lost)
        return True

    def _regroup(self, lost: RanksLost) -> None:
        """Go on with the processes that are left, from where all of them are."""
        step, asked = self.step, set() if self._exchange is None else self._exchange.asked
        if step._exchange is self._exchange:  # it was not a step that has noticed
            step.group = step.group
        self._exchange, self._first = step._exchange, step.rank == 0
        if self._exchange is not None:
            self._exchange.asked |= asked
        else:
            self._grant(asked)
        self._say(f"{lost}; training goes on from step {self.position.step}.")
        self._emit("regroup")

    def _over(self) -> bool:
        if self._exchange is not None:
            self._grant(self._exchange.requests())
        p, patience = self.position, self.settings.patience
        if not self.stopped and patience is not None and p.epoch - p.best_epoch >= patience:
            self.stopped = "patience"
        if not self.stopped and p.epoch >= self.settings.epochs:
            self.stopped = "finished"
        return bool(self.stopped)

    def _epoch(self) -> None:
        """Train for an epoch, or for the rest of it."""
        step, settings, p = self.step, self.settings, self.position
        checkpoint, exchange, start = settings.checkpoint, self._exchange, self._start
        self._fetched = time.perf_counter()
        batches = self.source.batches(p.epoch, p.batch)
        if exchange is not None and not self.source.is_sized:
            batches = exchange.alike(batches, p.epoch, p.batch)
        for batch in batches:
            x = batch[0]
            if exchange is not None:
                if not exchange.shared:
                    step.net._ready(x)
                    exchange.share(step)
                if self._first:  # by whose clock all go
                    exchange.asked |= self._due(p.step + 1)
            if self._snapshot is None and settings.raise_nonfinite:
                step.net._ready(x)  # materialize the parameters before they are copied
                self._snapshot = self._copy()
            n = self._size = int(x.shape[0])
            loss = step(*batch)
            if exchange is None:
                weight, due = self._weight(*batch), set()
            else:
                weight, n, due = exchange.last
                self._grant(due)
            self._losses.append(loss)
            self._sizes.append(n)
            self._weights.append(weight)
            p.batch += 1
            p.step += 1
            p.samples += n
            if self.emit is not None:
                self._emit("step", loss=loss)
            if exchange is None:
                due = self._due(p.step)
            if len(self._losses) >= BLOCK or "collect" in due:
                self._collect()
            if checkpoint is not None and "checkpoint" in due:
                p.seconds = time.perf_counter() - start
                self._save(checkpoint)
            if self.stopped:
                p.seconds = time.perf_counter() - start
                self._collect()
                return
        self._collect()
        if not p.counted:
            message = f"Trainer: there is no batch in epoch {p.epoch + 1}."
            if self.source.t is None:
                message += " Pass an iterable that can be used again, as a list or a DataLoader."
            raise ValueError(message)
        self._finish_epoch(start, p.counted / (time.perf_counter() - start))

    def _due(self, step: int) -> set[str]:
        """Return what is due after a step, by the clock."""
        now, checkpoint, due = time.perf_counter(), self.settings.checkpoint, set()
        if now - self._fetched > LATEST:
            due.add("collect")
        if checkpoint is not None and now >= self._retry and checkpoint.due(step):
            due.add("checkpoint")
        return due

    def _grant(self, requests: set[str]) -> None:
        """Stop if any process has asked for it."""
        for reason in ("callback", "interrupted"):
            if reason in requests:
                self.stopped = reason

    def _finish_epoch(self, start: float, samples_per_s: float) -> None:
        """Evaluate, append a row to the history, and check whether this is the best epoch."""
        settings, p = self.settings, self.position
        row: Row = {"epoch": p.epoch + 1, "step": p.step, "loss": p.total / (p.weight or 1.0)}
        self._evaluating = True
        if settings.train_metrics:
            x, t, w = self.source.x, self.source.t, self.source.weights
            metrics = self.evaluate(self.source.whole(p.epoch) if t is None else x, t, w)
            row |= {name: value for name, value in metrics.items() if name != "loss"}
        if settings.validation is not None:
            metrics = self.evaluate(*parts(settings.validation))
            row |= {f"val_{name}": value for name, value in metrics.items()}
        self._evaluating = False
        row["lr"] = self._lr()
        row["seconds"] = time.perf_counter() - start
        row["samples_per_s"] = samples_per_s
        self._compare(row)
        self.history.append(row)
        self.history.best_epoch = p.best_epoch or None
        p.epoch += 1
        p.batch = p.counted = 0
        p.total = p.weight = p.seconds = 0.0
        if self.source.t is None:
            self.source.samples = p.samples // p.epoch
        self._emit("epoch", row=row)

    def _compare(self, row: Row) -> None:
        """Copy the parameters if this epoch is the best so far."""
        settings, p = self.settings, self.position
        value = row[settings.monitor]
        better = value > p.best if settings.largest_is_best else value < p.best
        if better or (math.isnan(p.best) and not math.isnan(value)):
            p.best, p.best_epoch = value, p.epoch + 1
            if settings.restore_best:
                self.best = copied(self.step.net.arrays)

    def _lr(self) -> float:
        """Return the learning rate of the last step; of a schedule it is fetched."""
        lr = self.step.optimizer.lr
        if callable(lr):
            lr = lr(self.step.state["optimizer"]["count"] - 1)
        return float(lr) if isinstance(lr, int | float) else float(to_numpy(lr))

    def _emit(self, kind: str, **details: Any) -> None:
        """Report an event, with the position of the run."""
        if self.emit is not None:
            p, samples = self.position, self.source.samples
            total = samples and samples * self.settings.epochs
            self.emit(kind, p.epoch + (p.batch > 0), p.step, p.samples, total, **details)

    # Fetching from the device

    def _collect(self) -> None:
        """Fetch the pending losses, and check them."""
        there = [w for w in self._weights if not isinstance(w, float)]
        numbers, sizes, p = fetched([*self._losses, *there]), self._sizes, self.position
        losses, others = numbers[: len(sizes)], iter(numbers[len(sizes) :].tolist())
        weights = [w if isinstance(w, float) else next(others) for w in self._weights]
        self._losses, self._sizes, self._weights = [], [], []
        self._fetched = time.perf_counter()
        finite = np.isfinite(losses)
        if self._snapshot is not None and not np.all(finite):
            self._fail(p.step - len(losses) + int(np.argmin(finite)) + 1, self._snapshot)
        mean = self.step.loss.reduction == "mean"
        # In sequence: the rounding must not depend on the size of the blocks.
        for loss, n, weight in zip(losses.tolist(), sizes, weights, strict=True):
            # The loss divides by 1 where the weights sum to 0.
            p.total += loss * (weight or 1.0) if mean else loss
            p.weight += weight
            p.counted += n
        if len(losses):
            self._emit("losses", losses=losses)
        if self._snapshot is not None and p.step - self._snapshot.position.step >= BLOCK:
            self._snapshot = self._copy()

    def _weight(self, x: Array, t: Array, *weights: Array) -> Array | float:
        """Return the weight of a batch in the mean of the losses."""
        loss = self.step.loss
        if not (weights or weighs_labels(loss)):
            return float(x.shape[0])
        if self._score_axes is None:
            self._score_axes = len(self.step.net.predict(x[:1, ...]).shape)
        weight = batch_weight(loss, loss.arrays, self._score_axes, t, *weights)
        return float(x.shape[0]) if weight is None else weight

    def _copy(self) -> Snapshot:
        position = dataclasses.replace(self.position)
        return Snapshot(position, copied(self.step.net.arrays), copied(self.step.state))

    def _fail(self, number: int, snapshot: Snapshot) -> NoReturn:
        """Repeat the steps before `number`, whose loss is not finite, and raise its cause."""
        self.stopped = "nonfinite"
        while True:
            try:
                where, cause = self._cause(number, snapshot)
                break
            except RanksLost as lost:
                self._regroup(lost)
        if not where:
            cause = "When repeated it was finite: the batches are not reproducible."
        path = self._checkpoint_path
        last = f" The last checkpoint is {path}." if path else ""
        message = (
            f"Trainer: the loss of step {number} is not finite. {cause} The network has the "
            f"parameters from before that step.{last} Use a smaller learning rate, or "
            "clip_norm=1; on_nonfinite='ignore' continues."
        )
        raise NonFiniteLoss(message, number, where)

    def _cause(self, number: int, snapshot: Snapshot) -> tuple[str, str]:
        """Repeat the steps before `number`; return its first non-finite array, and a sentence."""
        step, start, exchange = self.step, snapshot.position, self._exchange
        if exchange is not None:  # it may have to be repeated again
            snapshot = Snapshot(start, copied(snapshot.arrays), copied(snapshot.state))
        put(step.net, snapshot.arrays)
        step.state = snapshot.state
        batches = self.source.onwards(start.epoch, start.batch)
        for batch in itertools.islice(batches, number - 1 - start.step):
            step(*batch)
        batch = next(batches, None)
        where, cause = ("", "") if batch is None else first_nonfinite(step, *batch)
        if exchange is None:
            return where, cause
        return survived(lambda: _of_any(exchange.group, where, cause))

    # Checkpoints

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, after checking that the losses so far are finite."""
        self._collect()
        p = self.position
        if not self._first:
            self._checkpointed = p.epoch, p.step
            self._emit("checkpoint")
            return
        state: dict[str, Any] = {"step": self.step.state}
        if self.best is not None:
            state["best"] = self.best
        position, history = dataclasses.asdict(p), list(self.history)
        metadata = {"run": self.identity, "position": position, "history": history}
        metadata["processes"] = self._processes
        try:
            path = checkpoint.save(p.step, self.step.net, state, metadata=metadata)
        except OSError as error:  # a full disk must not end a long run
            warn(f"Trainer: no checkpoint at step {p.step}: {error}. Training continues.")
            self._retry = time.perf_counter() + RETRY
            return
        self._checkpoint_path, self._checkpointed = str(path), (p.epoch, p.step)
        self._emit("checkpoint")

    def begin(self, *, resume: bool) -> None:
        """Restore the last checkpoint, or check that there is none to be overwritten."""
        checkpoint = self.settings.checkpoint
        if checkpoint is None:
            if resume:
                message = "Trainer.fit: resume=True goes with Trainer(checkpoint=Checkpoint(...))."
                raise ValueError(message)
        elif resume:
            self._resume(checkpoint)
        elif checkpoint.latest() is not None:
            message = (
                f"Trainer.fit: {checkpoint.folder} has the checkpoints of another run; "
                "fit(..., resume=True) continues it, or use another folder."
            )
            raise ValueError(message)
        if self._exchange is not None:  # all of them see the same files
            self._exchange.compare("Trainer.fit", {"the step to begin at": self.position.step})

    @property
    def _processes(self) -> int:
        return 1 if self._exchange is None else self._exchange.group.size

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Restore the last checkpoint, if there is one; one of another run is refused."""
        net, newest = self.step.net, checkpoint.newest()
        if newest is None:
            folder = checkpoint.folder
            self._say(f"there is no checkpoint in {folder}; the run begins with its first step.")
            return
        self._check_same(newest)
        for batch in itertools.islice(self.source.batches(0), 1):
            net._ready(batch[0])  # restored arrays move to the device of the network
        saved = checkpoint.load_into(net, newest)
        state = saved.state or {}
        self.step.state = state["step"]
        self.best = state.get("best")
        before = saved.metadata.get("processes", 1)
        if before != self._processes:
            self._say(
                f"the checkpoint is of a run in {before} processes, this one has "
                f"{self._processes}: it continues with the same numbers up to rounding."
            )
        p = self.position = Position(**saved.metadata["position"])
        for row in saved.metadata["history"]:
            self.history.append(row)
        self.history.best_epoch = p.best_epoch or None
        self._checkpoint_path, self._checkpointed = str(saved.path), (p.epoch, p.step)

    def _say(self, words: str) -> None:
        if self._first:
            notify(f"Trainer.fit: {words}")

    def _check_same(self, file: File) -> None:
        """Check that a checkpoint belongs to this run, before it is restored."""
        metadata, epochs = file.record["metadata"], self.settings.epochs
        if not {"run", "position", "history"} <= metadata.keys():
            message = (
                f"Trainer: {file.path} was not written by a Trainer. load({str(file.path)!r}, net) "
                "reads its parameters, and Checkpoint.restore all of it."
            )
            raise ValueError(message)
        changed = differences(metadata["run"], self.identity)
        if changed:
            message = (
                f"Trainer: {file.path} belongs to another run: {', '.join(changed)}. Resume with "
                "the earlier options, or use another folder; load(path, net) reads only the "
                "parameters."
            )
            raise ValueError(message)
        position = metadata["position"]
        done, part = position["epoch"], position["batch"] > 0
        if done + part > epochs:
            progress = f"{done} epochs" + (" and a part of the next" if part else "")
            message = (
                f"Trainer: {file.path} has {progress}; epochs is {epochs}. Pass "
                f"epochs={done + part} or more; load(path, net) reads only the parameters."
            )
            raise ValueError(message)

    def _memory_advice(self) -> str:
        n = self.settings.eval_batch_size if self._evaluating else self._size
        where = "in the evaluation" if self._evaluating else f"in step {self.position.step + 1}"
        message = f"Trainer: out of memory {where}, with batches of {n} samples."
        if self._evaluating:
            return f"{message} Use a smaller eval_batch_size: the result is the same."
        parts = 2 * getattr(self.step, "parts", 1)  # of an accumulated step
        return (
            f"{message} Use accumulate={parts}, which computes the same update in parts of "
            f"{-(-n // parts)} samples, or a smaller batch_size; precision=MixedPrecision() and "
            "Recompute(...) around layers need less memory per sample."
        )


def _of_any(group: Any, where: str, cause: str) -> tuple[str, str]:
    """Return what the first process with a non-finite array has found, with its rank."""
    texts = gathered(group, json.dumps([where, cause]))
    for rank, (there, reason) in enumerate(map(json.loads, texts)):
        if there:
            return there, f"{reason} That is on rank {rank}."
    return where, cause
