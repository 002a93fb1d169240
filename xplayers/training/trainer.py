"""`Trainer`: training over epochs, with evaluation, early stopping, checkpoints and callbacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import Option, constructor_call, flag, instance, integer, shown
from xplayers._foreign import TRAINER, missing_attribute
from xplayers.arrays.namespaces import Array
from xplayers.data.splitting import divided
from xplayers.layers.base import Layer
from xplayers.layers.representation import code
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer, clip_by_norm
from xplayers.reports.columns import checked_metrics
from xplayers.reports.events import Event
from xplayers.reports.first_process import OfFirst
from xplayers.reports.history import History
from xplayers.reports.progress import Progress
from xplayers.reports.tensorboard import TensorBoard
from xplayers.saving.checkpoint import Checkpoint
from xplayers.training.accumulation import AccumulatedStep
from xplayers.training.evaluation import Metrics, default_metrics, evaluate
from xplayers.training.exchange import Exchange
from xplayers.training.identity import data_identity, described, step_identity
from xplayers.training.inspection import check_data, check_values
from xplayers.training.run import Run, Settings
from xplayers.training.source import Source
from xplayers.training.stateful import check_parts
from xplayers.training.step import TrainStep

__all__ = ["Trainer"]


def _integer(owner: str, name: str, value: Any, *, least: int, optional: bool = False) -> Any:
    if optional and value is None:
        return value
    try:
        return integer(owner, name, value, least=least)
    except TypeError:
        message = f"{owner}: {name} is {value!r}; expected an integer of at least {least}."
        raise ValueError(message) from None


def _choice(owner: str, name: str, value: Any, *, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        message = f"{owner}: {name} is {value!r}; expected one of {choices}."
        raise ValueError(message)
    return value


class Trainer:
    """Trains a network over epochs.

    ``Trainer(net, loss, optimizer, batch_size=32, epochs=10).fit(x, t, validation=(x_val, t_val))``
    is equivalent to the loop ::

        step = TrainStep(net, loss, optimizer)
        for epoch in range(epochs):
            for batch in minibatches(x, t, batch_size, np.random.default_rng([seed, epoch])):
                step(*batch)

    with the same bits, and adds evaluation, early stopping, progress, checkpoints and a history.
    Losses stay on the device and are fetched in blocks of up to 128 steps, or once a second.

    Parameters
    ----------
    net : Layer
        The network. It is trained on its device.
    loss : Loss
        With ``reduction="mean"`` or ``"sum"``.
    optimizer : Optimizer
        Its learning rate may be a schedule, which counts steps.
    batch_size : int
        Samples per update, of all processes together. The last batch of an epoch may be smaller;
        its samples have the same weight.
    epochs : int
        Passes over the samples.
    seed : int
        Seed of the shuffling: the order of an epoch only depends on the seed and its number.
    metrics : mapping of str to callable, optional
        Metrics beside the loss, as in `evaluate`; by default the accuracy, for labels.
    train_metrics : bool
        Also compute the metrics on the training samples after each epoch, in another pass.
    eval_batch_size : int, optional
        Samples per batch in evaluations; by default `batch_size`.
    clip_norm : float, optional
        Maximum global norm of the gradients, as in `clip_by_norm`.
    accumulate : int
        Number of micro-batches per batch, to save memory: `AccumulatedStep`.
    patience : int, optional
        Early stopping: stop after so many epochs without improvement, and restore the best one.
    monitor : str, optional
        The column by which epochs are compared; by default ``"val_loss"``, without validation
        ``"loss"``.
    mode : {"auto", "min", "max"}
        Whether smaller or larger values are better; "auto": smaller ones for columns whose name
        ends in "loss" or "error", else larger ones.
    restore_best : bool, optional
        Keep a copy of the parameters and buffers of the best epoch, and restore it at the end; by
        default if there is a `patience`.
    checkpoint : Checkpoint, optional
        Where and how often to save; the end of the run is always saved.
    on_nonfinite : {"raise", "ignore"}
        The handling of a loss that is inf or NaN. "raise": parameters and optimizer state are
        copied every 128 steps; the steps from there are repeated, the first layer with a non-finite
        output is reported, and the network is left as before that step. (With a dynamic loss scale,
        steps whose gradients overflow are skipped; that is no failure.)
    callbacks : iterable of callable
        Functions of an `Event`, called in order. Options of the trainer that they set, as `epochs`,
        take effect from the next epoch on.
    progress : bool or str
        Output on stderr: the style of a `Progress`, True for "auto", False for none.
    **options
        Options of `TrainStep`: ``compile``, ``reduce_grads``, ``precision``, ``gemm``, ``group``.

    Attributes
    ----------
    train_step : TrainStep
        The step.
    history : History
        The history of the last run, also after an error.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of the wrong type.

    Notes
    -----
    Ctrl-C ends a run after the current step, with a checkpoint; a second Ctrl-C ends it at once.

    With a ``group`` of several processes (see `xplayers.parallel`) each takes its part of every
    batch and of every evaluation, and all get the same history. Each is passed all data. The first
    one writes checkpoints, which all read, and has `Progress` and `TensorBoard`; other callbacks
    are called on all, and `fit` and `evaluate` have to be. ``stop()`` and Ctrl-C on any of them
    stop all, after the next step.

    Examples
    --------
    >>> import xplayers as xl
    >>> train, test = xl.data.load_digits()
    >>> net = xl.mlp([64, 50, 10], rng=0)
    >>> trainer = Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(), epochs=3, progress=False)
    >>> history = trainer.fit(*train, validation=test)
    >>> history.columns
    ('epoch', 'step', 'loss', 'val_loss', 'val_accuracy', 'lr', 'seconds', 'samples_per_s')
    >>> bool(history["val_accuracy"][-1] > 0.8)
    True
    """

    batch_size, eval_batch_size = Option(_integer, least=1), Option(_integer, least=1)
    accumulate, patience = Option(_integer, least=1), Option(_integer, least=1, optional=True)
    epochs, seed = Option(_integer, least=0), Option(_integer, least=0)
    monitor = Option(instance, kinds=str | None, expected="the name of a column")
    mode = Option(_choice, choices=("auto", "min", "max"))
    on_nonfinite = Option(_choice, choices=("raise", "ignore"))
    checkpoint = Option(instance, kinds=Checkpoint | None, expected="Checkpoint(folder, ...)")
    train_metrics, restore_best = Option(flag), Option(flag)

    @explained()
    def __init__(
        self,
        net: Layer,
        loss: Loss,
        optimizer: Optimizer,
        *,
        batch_size: int = 32,
        epochs: int = 10,
        seed: int = 0,
        metrics: Metrics | None = None,
        train_metrics: bool = False,
        eval_batch_size: int | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        patience: int | None = None,
        monitor: str | None = None,
        mode: str = "auto",
        restore_best: bool | None = None,
        checkpoint: Checkpoint | None = None,
        on_nonfinite: str = "raise",
        callbacks: Iterable[Callable[[Event], Any]] = (),
        progress: bool | str = True,
        **options: Any,
    ) -> None:
        check_parts("Trainer", net, loss, optimizer)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.accumulate, self.patience = accumulate, patience
        self.monitor, self.mode, self.on_nonfinite = monitor, mode, on_nonfinite
        self.checkpoint, self.train_metrics = checkpoint, train_metrics
        self.restore_best = patience is not None if restore_best is None else restore_best
        metrics = default_metrics(loss) if metrics is None else metrics
        self.metrics = checked_metrics("Trainer", metrics)
        self.callbacks = _checked_callbacks(callbacks, progress)
        _check_options(options)
        self.reduce_grads, self.clip_norm = options.get("reduce_grads"), clip_norm
        if clip_norm is not None:
            clip_by_norm({}, clip_norm)  # checks it
            options["reduce_grads"] = functools.partial(_clip, clip_norm, self.reduce_grads)
        step: Any = TrainStep
        if accumulate > 1:
            step = functools.partial(AccumulatedStep, parts=accumulate)
        self.train_step: TrainStep = step(net, loss, optimizer, **options)
        speak, group = (Progress, TensorBoard), self.train_step.group  # the first one, for all
        if getattr(group, "elastic", False):
            self.callbacks = [OfFirst(c) if isinstance(c, speak) else c for c in self.callbacks]
        elif self.train_step.rank:
            self.callbacks = [c for c in self.callbacks if not isinstance(c, speak)]
        self.history = History()
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_run": None}  # a copy does not share the current run

    def __getattr__(self, name: str) -> Any:  # only called for missing attributes
        raise missing_attribute(self, name, TRAINER, "attribute")

    def __repr__(self) -> str:
        numbers = [f"{name}={getattr(self, name)}" for name in ("batch_size", "epochs", "seed")]
        return code(self, ("net", "loss", "optimizer"), numbers)

    @explained()
    def fit(
        self,
        x: Any,
        t: Array | None = None,
        validation: Any = None,
        *,
        sample_weight: Array | None = None,
        resume: bool = False,
    ) -> History:
        """Train.

        Parameters
        ----------
        x, t : array
            Samples and targets, of one library and device, with equal first axes. Or instead of
            `x`, without `t`, batches ``(x, t)``, or ``(x, t, sample_weight)``, of floating-point
            numbers: an iterable that can be iterated over in every epoch, as a list or a data
            loader, or a function ``batches(epoch)``, from 0, that returns one.
        validation : tuple of two arrays, iterable of batches, or float, optional
            Data to evaluate on after each epoch. A third array, of floating-point numbers, has the
            weights of samples. A fraction, as 0.2, holds out so much of the arrays `x` and `t`, at
            random by the seed of the trainer, as `xplayers.data.split`.
        sample_weight : array, optional
            The weight of each sample, 0 or more, as in `Loss.forward`. The losses of the history
            are means over their sums.
        resume : bool
            Continue from the last checkpoint, with the bits of an uninterrupted run; if there is
            none, start, with a message on stderr. `epochs` may be larger than before; the data and
            all other options that affect the results have to be the same. Data are identified by
            shape, dtype and a digest of their values, for arrays above 64 MiB of 256 blocks.
            Batches other than a list or `Batches` are not checked, and have to come in the same
            order. Checkpoints of earlier versions, without a digest, are accepted.

        Returns
        -------
        History
            One row per epoch; ``history.stopped`` has the reason of its end.

        Raises
        ------
        ValueError
            If shapes or labels do not match, there are no samples, the checkpoint belongs to
            another run, or has more epochs than `epochs`.
        TypeError
            If libraries, devices or dtypes do not match.
        NonFiniteLoss
            If a loss is inf or NaN, unless ``on_nonfinite="ignore"``.
        MemoryError
            If any library is out of memory, with advice.
        OSError
            If the checkpoint directory cannot be written to.

        Warns
        -----
        RuntimeWarning
            If a checkpoint cannot be written, or is damaged.

        Notes
        -----
        Another call trains for all epochs again, from the current parameters.
        """
        flag("Trainer.fit", "resume", resume)
        if isinstance(validation, float):
            x, t, sample_weight, validation = self._held_out(x, t, sample_weight, validation)
        several = self.epochs > 1
        check_data(
            x, t, validation, sample_weight, again=several or resume, again_validation=several
        )
        settings, checkpoint = self._settings(validation), self.checkpoint
        check_values(self.net, self.loss, x, t, validation)
        exchange = self.train_step._exchange
        group = exchange and exchange.group
        source = Source(x, t, self.batch_size, self.seed, group, sample_weight)
        history = self.history = History()
        identity = {}
        if checkpoint is not None:
            checkpoint.check(self.net)
        if checkpoint is not None or exchange is not None:
            identity = self._identity(settings, x, t, sample_weight)
        if exchange is not None:
            self._check_processes(exchange, identity, resume)
        emit = self._emit if self.callbacks else None
        self._run = Run(self.train_step, source, settings, history, self.evaluate, emit, identity)
        try:
            self._run.begin(resume=resume)
            return self._run.go()
        finally:
            self._run = None  # frees the copies of the parameters

    def _held_out(self, x: Any, t: Any, sample_weight: Any, fraction: float) -> tuple[Any, ...]:
        """Return samples, targets and weights to train on, and those to evaluate on."""
        if t is None:
            message = f"Trainer.fit: validation={fraction} goes with arrays, not with batches."
            raise TypeError(message)
        weights = () if sample_weight is None else (sample_weight,)
        rng = np.random.default_rng(self.seed)
        rest, held_out = divided("Trainer.fit", (x, t, *weights), fraction, rng, name="validation")
        return (*rest, *(() if weights else (None,)), held_out)

    @explained()
    def evaluate(
        self, x: Any, t: Array | None = None, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return the loss and the metrics on a data set: `evaluate` with this trainer's options.

        Parameters
        ----------
        x, t : array
            Samples and targets; or instead of `x` an iterable of batches.
        sample_weight : array, optional
            The weight of each sample.

        Returns
        -------
        dict of str to float
            ``"loss"`` and the metrics.
        """
        return evaluate(
            self.net, self.loss, x, t, metrics=self.metrics, batch_size=self.eval_batch_size,
            group=self.train_step.group, sample_weight=sample_weight,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop after the current step; for callbacks."""
        if self._run is not None:
            self._run.stop("callback")

    def _settings(self, validation: Any) -> Settings:
        """Check `monitor`, and return the options of a run."""
        columns = ["loss", *(self.metrics if self.train_metrics else ())]
        if validation is not None:
            columns += [f"val_{name}" for name in ("loss", *self.metrics)]
        monitor = self.monitor
        if monitor not in (None, *columns):
            message = f"Trainer: monitor is {monitor!r}; expected one of {', '.join(columns)}."
            metric = monitor.removeprefix("val_")
            if validation is None and metric in ("loss", *self.metrics):
                message += f" val_{metric} needs fit(..., validation=(x, t))."
            raise ValueError(message)
        monitor = monitor or ("loss" if validation is None else "val_loss")
        small = self.mode == "min" or (self.mode == "auto" and monitor.endswith(("loss", "error")))
        return Settings(
            self.epochs, validation, self.train_metrics, self.eval_batch_size, monitor, not small,
            self.patience, self.restore_best, self.on_nonfinite == "raise", self.checkpoint,
        )  # fmt: skip

    def _identity(self, settings: Settings, x: Any, *targets: Array | None) -> dict[str, Any]:
        """Return the options and data that a resumed run has to share, as JSON."""
        mode = "max" if settings.largest_is_best else "min"
        return {
            "batch_size": self.batch_size, "accumulate": self.accumulate, "seed": self.seed,
            **data_identity(x, *targets, validation=settings.validation),
            "monitor": settings.monitor, "mode": mode, "patience": self.patience,
            "restore_best": self.restore_best,
            "metrics": list(self.metrics), "train_metrics": self.train_metrics,
            "clip_norm": self.clip_norm, "reduce_grads": described(self.reduce_grads),
            **step_identity(self.train_step),
        }  # fmt: skip

    def _check_processes(
        self, exchange: Exchange, identity: Mapping[str, Any], resume: bool
    ) -> None:
        """Check that all processes train the same, and have samples of each batch."""
        size = exchange.group.size
        if self.batch_size < size:
            message = (
                f"Trainer.fit: batch_size is {self.batch_size}, in {size} processes; expected a "
                "sample for each at least."
            )
            raise ValueError(message)
        options = ("epochs", "eval_batch_size", "on_nonfinite", "checkpoint")
        more = {name: str(getattr(self, name)) for name in options}
        exchange.compare("Trainer.fit", {**identity, **more, "resume": resume})
        exchange.shared = False  # the networks may have become others

    def _emit(self, kind: str, *counts: Any, **details: Any) -> None:
        """Call the callbacks, and pass options that they set on to the run."""
        event = Event(kind, self, self.history, *counts, **details)
        for callback in self.callbacks:
            callback(event)
        if kind in ("begin", "epoch") and self._run is not None:
            self._run.settings = self._settings(self._run.settings.validation)


def _check_options(options: Mapping[str, Any]) -> None:
    """Check that all options are those of `TrainStep`, with hints for others."""
    for name in options:
        if name not in inspect.signature(TrainStep.__init__).parameters:
            message = f"Trainer: there is no option {name}."
            raise TypeError(f"{message} {_HINTS.get(name, '')}".rstrip())


# Names of other libraries for options that are elsewhere here.
_HINTS = {
    "lr": "The optimizer has it: Adam(lr=0.001).",
    "learning_rate": "The optimizer has it: Adam(lr=0.001).",
    "validation": "It goes to fit(x, t, validation=(x, t)).",
    "validation_data": "It goes to fit(x, t, validation=(x, t)).",
    "validation_split": "It goes to fit(x, t, validation=0.2).",
    "resume": "It goes to fit(..., resume=True).",
    "verbose": "progress=False shows nothing.",
    "callback": "callbacks=[...] takes several.",
    "early_stopping": "patience=3 stops after 3 epochs without improvement.",
    **dict.fromkeys(("max_epochs", "n_epochs", "num_epochs"), "It is called epochs."),
    **dict.fromkeys(("shuffle", "random_state", "rng"), "seed determines the order of samples."),
    **dict.fromkeys(("device", "xp", "dtype"), "The arrays decide: it trains on their device."),
}


def _checked_callbacks(callbacks: Any, progress: Any) -> list[Callable[[Event], Any]]:
    """Check the callbacks and return them in a list, with that for progress at the end."""
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        hint = f"callbacks=[{getattr(callbacks, '__name__', 'function')}]"
        message = f"Trainer: callbacks is {shown(callbacks)}; expected functions in a list: {hint}."
        raise TypeError(message)
    functions = list(callbacks)
    for i, callback in enumerate(functions):
        if isinstance(callback, type) or not callable(callback):
            is_class = isinstance(callback, type)
            hint = f" Call the class: {constructor_call(callback)}." if is_class else ""
            message = f"callbacks[{i}] is {shown(callback)}; expected a function of an Event.{hint}"
            raise TypeError(f"Trainer: {message}")
    if not isinstance(progress, bool | np.bool_ | str | None):
        message = f"Trainer: progress is {shown(progress)}; expected True, False or a style."
        hint = " A Progress goes into callbacks=[...], with progress=False."
        raise TypeError(message + hint * isinstance(progress, Progress))
    if progress:
        functions.append(Progress(progress if isinstance(progress, str) else "auto"))
    return functions


def _clip(limit: float, reduce_grads: Any, grads: dict[str, Array]) -> dict[str, Array]:
    """Clip gradients, after another `reduce_grads`."""
    return clip_by_norm(grads if reduce_grads is None else reduce_grads(grads), limit)
