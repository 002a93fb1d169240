"""One run of training: the loop over epochs and batches, and what is watched on the way."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from xplayers._arrays import Array, to_numpy
from xplayers.data.batches import minibatches
from xplayers.saving import put
from xplayers.training.blocks import BLOCK, fetched
from xplayers.training.checkpoint import Checkpoint, File
from xplayers.training.evaluation import has_weights, label_weights
from xplayers.training.events import Event
from xplayers.training.guard import (
    NonFiniteLoss,
    copied,
    first_nonfinite,
    interrupts,
    is_out_of_memory,
)
from xplayers.training.history import History, Row
from xplayers.training.identity import differences, is_pair, largest_is_best
from xplayers.training.surroundings import say, warn

LATEST = 1.0  # seconds after which losses come over, however few they are
RETRY = 60.0  # seconds after which a checkpoint that could not be written is tried again


class Source:
    """The batches of every epoch, from any of them on.

    Parameters
    ----------
    x, t : array, or iterable or function and None
        Samples and targets; or batches, or a function of the epoch (from 0) that returns them.
    batch_size, seed : int
        For arrays: the order of an epoch is drawn from the seed and its number.
    """

    def __init__(self, x: Any, t: Array | None, batch_size: int, seed: int) -> None:
        self.x, self.t, self.batch_size, self.seed = x, t, batch_size, seed
        self.samples = None if t is None else int(t.shape[0])  # in an epoch, if that is known

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Return the batches of an epoch (from 0) after the first `start`."""
        if self.t is not None:
            rng = np.random.default_rng([self.seed, epoch])
            batches = minibatches(self.x, self.t, self.batch_size, rng)
        else:
            given: Any = self.x(epoch) if callable(self.x) else self.x
            batches = iter(given)
        return itertools.islice(batches, start, None)

    def onwards(self, epoch: int, start: int) -> Iterator[tuple[Array, Array]]:
        """Return the batches from one of an epoch on, through all epochs after it."""
        some = True
        while some:  # an iterator that is used up would have no end
            some = start > 0
            for batch in self.batches(epoch, start):
                some = True
                yield batch
            epoch, start = epoch + 1, 0


@dataclasses.dataclass
class Position:
    """How far a run is: numbers, which a checkpoint keeps."""

    epoch: int = 0  # that are complete
    batch: int = 0  # of the epoch under way, that are done
    step: int = 0
    samples: int = 0  # gone through
    counted: int = 0  # samples of the epoch under way whose losses are in the total
    weight: float = 0.0  # what their mean is over: their number, or the weights of their labels
    total: float = 0.0  # of the losses of the epoch under way, times the weights of their batches
    seconds: float = 0.0  # of the epoch under way
    best: float = math.nan
    best_epoch: int = 0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A state of the training from which it can be repeated."""

    position: Position
    arrays: Mapping[str, Array]
    state: Mapping[str, Any]


class Run:
    """The training of a `Trainer`, from the beginning or from a checkpoint to its end."""

    def __init__(
        self,
        trainer: Any,
        source: Source,
        validation: Any,
        history: History,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.trainer, self.source, self.validation = trainer, source, validation
        self.identity = identity or {}  # which checkpoints keep
        self.history = history
        self.position = Position()
        self.best: Mapping[str, Array] | None = None  # parameters and buffers
        self.stopped = ""
        self.saved = ""  # the last checkpoint
        self._snapshot: Snapshot | None = None
        self._waiting: list[Array] = []  # losses on the device
        self._sizes: list[int] = []  # of their batches
        self._weights: list[Array | float] = []  # likewise, on the device
        self._axes: int | None = None  # of the scores, of which labels have one less
        self._size = 0  # of the last batch
        self._fetched = 0.0  # when losses last came over
        self._evaluating = False
        self._kept = 0, 0  # epochs and steps in the last checkpoint
        self._retry = 0.0  # not before this time another one

    # From the beginning to the end

    def go(self) -> History:
        """Train to the end."""
        trainer, p = self.trainer, self.position
        try:
            self._emit("begin")
            # NumPy would warn of the overflow which is reported here in better words.
            with interrupts(self._interrupt), np.errstate(all="ignore"):
                while not self._over():
                    self._epoch()
                if trainer.checkpoint is not None and (p.epoch, p.step) != self._kept:
                    self._save(trainer.checkpoint)
            if trainer.restore_best and self.best is not None:
                put(trainer.net, self.best)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(self._memory_advice()) from error
            raise
        finally:
            self.history.stopped = self.stopped
            self._emit("end")
        return self.history

    def _over(self) -> bool:
        p, patience = self.position, self.trainer.patience
        if not self.stopped and patience is not None and p.epoch - p.best_epoch >= patience:
            self.stopped = "patience"
        if not self.stopped and p.epoch >= self.trainer.epochs:
            self.stopped = "finished"
        return bool(self.stopped)

    def _interrupt(self) -> None:
        self.stopped = "interrupted"

    def _epoch(self) -> None:
        """Train for an epoch, or for what is left of it."""
        trainer, p = self.trainer, self.position
        step, checkpoint = trainer.train_step, trainer.checkpoint
        start = time.perf_counter() - p.seconds
        self._fetched = time.perf_counter()
        for x, t in self.source.batches(p.epoch, p.batch):
            if self._snapshot is None and trainer.on_nonfinite == "raise":
                trainer.net._ready(x)  # the copy has to be where the parameters will be
                self._snapshot = self._copy()
            n = int(x.shape[0])
            self._size = n
            loss = step(x, t)
            self._waiting.append(loss)
            self._sizes.append(n)
            if has_weights(trainer.loss):
                self._weights.append(self._weight(x, t))
            p.batch += 1
            p.step += 1
            p.samples += n
            if trainer.callbacks:
                self._emit("step", loss=loss)
            if len(self._waiting) >= BLOCK or time.perf_counter() - self._fetched > LATEST:
                self._collect()
            if checkpoint is not None and checkpoint.due(p.step):
                p.seconds = time.perf_counter() - start
                if p.seconds + start >= self._retry:
                    self._save(checkpoint)
            if self.stopped:
                p.seconds = time.perf_counter() - start
                self._collect()
                return
        self._collect()
        if not p.counted:
            message = f"Trainer: there is no batch in epoch {p.epoch + 1}."
            if self.source.t is None:
                message += " Pass batches that can be gone through again, as a list or DataLoader."
            raise ValueError(message)
        self._finish_epoch(start, p.counted / (time.perf_counter() - start))

    def _finish_epoch(self, start: float, samples_per_s: float) -> None:
        """Evaluate, write the row, and look whether this is the best epoch."""
        trainer, p = self.trainer, self.position
        row: Row = {"epoch": p.epoch + 1, "step": p.step, "loss": p.total / (p.weight or 1.0)}
        self._evaluating = True
        if trainer.train_metrics:
            x, t = self.source.x, self.source.t
            found = self._evaluated(self.source.batches(p.epoch) if t is None else (x, t))
            row |= {name: value for name, value in found.items() if name != "loss"}
        if self.validation is not None:
            row |= {f"val_{k}": v for k, v in self._evaluated(self.validation).items()}
        self._evaluating = False
        row["lr"] = self._lr()
        row["seconds"] = time.perf_counter() - start
        row["samples_per_s"] = samples_per_s
        self._judge(row)
        self.history.append(row)
        self.history.best_epoch = p.best_epoch or None
        p.epoch += 1
        p.batch = p.counted = 0
        p.total = p.weight = p.seconds = 0.0
        if self.source.t is None:
            self.source.samples = p.samples // p.epoch
        self._emit("epoch", row=row)

    def _judge(self, row: Row) -> None:
        """Keep the parameters where this epoch is better than all before."""
        trainer, p = self.trainer, self.position
        name = trainer.monitor or ("loss" if self.validation is None else "val_loss")
        value = row[name]
        better = value > p.best if largest_is_best(name, trainer.mode) else value < p.best
        if better or (math.isnan(p.best) and not math.isnan(value)):
            p.best, p.best_epoch = value, p.epoch + 1
            if trainer.restore_best:
                self.best = copied(trainer.net.arrays)

    def _lr(self) -> float:
        """Return the learning rate of the last step; a schedule tells it on the device."""
        lr = self.trainer.optimizer.lr
        if callable(lr):
            lr = lr(self.trainer.train_step.state["optimizer"]["count"] - 1)
        return float(lr) if isinstance(lr, int | float) else float(to_numpy(lr))

    def _evaluated(self, data: Any) -> dict[str, float]:
        x, t = data if is_pair(data) else (data, None)
        return self.trainer.evaluate(x, t)

    def _emit(self, kind: str, **what: Any) -> None:
        trainer, p = self.trainer, self.position
        if not trainer.callbacks:
            return
        event = Event(
            kind,
            trainer,
            self.history,
            epoch=p.epoch + (p.batch > 0),
            step=p.step,
            samples=p.samples,
            total_samples=self.source.samples and self.source.samples * trainer.epochs,
            **what,
        )
        for callback in trainer.callbacks:
            callback(event)

    # What comes over from the device

    def _collect(self) -> None:
        """Fetch the losses that wait, and check them."""
        numbers, sizes, p = fetched([*self._waiting, *self._weights]), self._sizes, self.position
        losses = numbers[: len(sizes)]
        weights = numbers[len(sizes) :].tolist() if self._weights else sizes
        self._waiting, self._sizes, self._weights = [], [], []
        self._fetched = time.perf_counter()
        finite = np.isfinite(losses)
        if self._snapshot is not None and not np.all(finite):
            self._fail(p.step - len(losses) + int(np.argmin(finite)) + 1, self._snapshot)
        mean = self.trainer.loss.reduction == "mean"
        # One after the other: the sum must not depend on where the blocks end.
        for loss, n, weight in zip(losses.tolist(), sizes, weights, strict=True):
            # What the loss has divided by is 1 where there is no weight.
            p.total += loss * (weight or 1.0) if mean else loss
            p.weight += weight
            p.counted += n
        if len(losses):
            self._emit("losses", losses=losses)
        if self._snapshot is not None and p.step - self._snapshot.position.step >= BLOCK:
            self._snapshot = self._copy()

    def _weight(self, x: Array, t: Array) -> Array | float:
        """Return what the mean of the losses of a batch is over."""
        loss, net = self.trainer.loss, self.trainer.net
        if self._axes is None:
            self._axes = len(net.predict(x[:1, ...]).shape)
        weight = label_weights(loss, loss.arrays, self._axes, t)
        return float(x.shape[0]) if weight is None else weight

    def _copy(self) -> Snapshot:
        trainer = self.trainer
        return Snapshot(
            dataclasses.replace(self.position),
            copied(trainer.net.arrays),
            copied(trainer.train_step.state),
        )

    def _fail(self, number: int, snapshot: Snapshot) -> NoReturn:
        """Repeat the steps before `number`, whose loss is not finite; say what went wrong in it."""
        trainer, start = self.trainer, snapshot.position
        self.stopped = "nonfinite"
        put(trainer.net, snapshot.arrays)
        trainer.train_step.state = snapshot.state
        batches = self.source.onwards(start.epoch, start.batch)
        for x, t in itertools.islice(batches, number - 1 - start.step):
            trainer.train_step(x, t)
        where, words = "", ""
        batch = next(batches, None)
        if batch is not None:
            where, words = first_nonfinite(trainer.train_step, *batch)
        if not where:
            words = "Repeated, it was finite: the batches are not the same when gone through again."
        kept = f" The last checkpoint is {self.saved}." if self.saved else ""
        message = (
            f"Trainer: the loss of step {number} is not finite. {words} The network has the "
            f"parameters from before that step.{kept} Take a smaller learning rate, or "
            "clip_norm=1; on_nonfinite='ignore' goes on."
        )
        raise NonFiniteLoss(message, number, where)

    # What is kept

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint. Its losses are checked before, so that it is a good one."""
        self._collect()
        trainer, p = self.trainer, self.position
        state: dict[str, Any] = {"step": trainer.train_step.state}
        if self.best is not None:
            state["best"] = self.best
        metadata = {
            "run": self.identity,
            "position": dataclasses.asdict(p),
            "history": list(self.history),
        }
        try:
            path = checkpoint.save(p.step, trainer.net, state, metadata=metadata)
        except OSError as error:  # a full disk must not end a night's work
            message = f"Trainer: no checkpoint at step {p.step}: {error}. Training goes on."
            warn(message)
            self._retry = time.perf_counter() + RETRY
            return
        self.saved, self._kept = str(path), (p.epoch, p.step)
        self._emit("checkpoint")

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to the last checkpoint, if there is one; of another run nothing is taken."""
        trainer, net = self.trainer, self.trainer.net
        newest = checkpoint.newest()
        if newest is None:
            say(
                f"Trainer.fit: there is no checkpoint in {checkpoint.folder} to go on from; the "
                "run begins with its first step."
            )
            return
        self._check_same(newest)
        for x, _ in itertools.islice(self.source.batches(0), 1):
            net._ready(x)  # what is restored goes to where the network is
        saved = checkpoint.give(net, newest)
        state = saved.state or {}
        trainer.train_step.state = state["step"]
        self.best = state.get("best")
        self.position = Position(**saved.metadata["position"])
        for row in saved.metadata["history"]:
            self.history.append(row)
        self.history.best_epoch = self.position.best_epoch or None
        self.saved, self._kept = str(saved.path), (self.position.epoch, self.position.step)

    def _check_same(self, file: File) -> None:
        """Check that a checkpoint is one of this run, before anything of it is taken."""
        metadata, epochs = file.record["metadata"], self.trainer.epochs
        if not {"run", "position", "history"} <= metadata.keys():
            message = (
                f"Trainer: {file.path} was not written by a Trainer. load({str(file.path)!r}, net) "
                "takes its parameters, and Checkpoint.restore all of it."
            )
            raise ValueError(message)
        changed = differences(metadata["run"], self.identity)
        if changed:
            message = (
                f"Trainer: {file.path} is of another run: {', '.join(changed)}. Go on with what "
                "was, or begin a run in another folder; load(path, net) takes the parameters alone."
            )
            raise ValueError(message)
        position = metadata["position"]
        done, part = position["epoch"], position["batch"] > 0
        if done + part > epochs:
            words = f"{done} epochs" + (" and a part of the next" if part else "")
            message = (
                f"Trainer: {file.path} has done {words}; epochs is {epochs}. Take "
                f"epochs={done + part} or more, or load(path, net), to have its parameters."
            )
            raise ValueError(message)

    def _memory_advice(self) -> str:
        trainer = self.trainer
        n = trainer.eval_batch_size if self._evaluating else self._size
        where = "in the evaluation" if self._evaluating else f"in step {self.position.step + 1}"
        message = f"Trainer: out of memory {where}, with batches of {n} samples."
        if self._evaluating:
            return f"{message} Take a smaller eval_batch_size: the result is the same."
        parts = 2 * trainer.accumulate
        return (
            f"{message} Take accumulate={parts}, which computes the same update in parts of "
            f"{-(-n // parts)} samples, or a smaller batch_size; precision=MixedPrecision() and "
            "Recompute(...) around layers need less for each sample."
        )
