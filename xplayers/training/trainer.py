"""Training from the first epoch to the last: `Trainer`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from xplayers._checks import constructor_call, flag, instance, shown
from xplayers.arrays.namespaces import Array
from xplayers.layers.base import Layer, code
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer, clip_by_norm
from xplayers.reports.columns import checked_metrics
from xplayers.reports.events import Event
from xplayers.reports.history import History
from xplayers.reports.progress import Progress
from xplayers.saving.checkpoint import Checkpoint
from xplayers.training.accumulation import AccumulatedStep
from xplayers.training.evaluation import Metrics, default_metrics, evaluate
from xplayers.training.identity import data_identity, described, step_identity
from xplayers.training.inspection import check_data, check_values
from xplayers.training.run import Run, Settings, Source
from xplayers.training.step import TrainStep

__all__ = ["Trainer"]


class Trainer:
    """Trains a network over epochs of batches, and watches over it.

    ``Trainer(net, loss, optimizer, batch_size=32, epochs=10).fit(x, t, validation=(x_val, t_val))``
    does what the loop does ::

        step = TrainStep(net, loss, optimizer)
        for epoch in range(epochs):
            for batch in minibatches(x, t, batch_size, np.random.default_rng([seed, epoch])):
                step(*batch)

    with the same bits, and beside it what makes a loop long: evaluation, early stopping, progress,
    checkpoints, a table of what was measured. Losses stay on the device and come over in blocks of
    up to 128 steps, or once a second.

    Parameters
    ----------
    net : Layer
        The network. It is trained where it is.
    loss : Loss
        With ``reduction="mean"`` or ``"sum"``.
    optimizer : Optimizer
        Its learning rate may be a schedule, which counts steps.
    batch_size : int
        Samples of an update. The last batch of an epoch may be smaller; its samples count the same.
    epochs : int
        Passes over the samples.
    seed : int
        Of the order of the samples: that of an epoch depends on the seed and its number alone.
    metrics : mapping of str to callable, optional
        What is measured beside the loss, as in `evaluate`; by default the accuracy, for labels.
    train_metrics : bool
        Measure the metrics on the training samples too after each epoch, one more pass over them.
    eval_batch_size : int, optional
        Samples of a batch in evaluations; by default `batch_size`.
    clip_norm : float, optional
        The largest norm of all gradients together, as in `clip_by_norm`.
    accumulate : int
        How many parts a batch goes through the network in, to save memory: `AccumulatedStep`.
    patience : int, optional
        Stop after so many epochs without a better one, and go back to the best one.
    monitor : str, optional
        The column by which epochs are compared; by default ``"val_loss"``, without validation
        ``"loss"``.
    mode : {"auto", "min", "max"}
        What is better; "auto": the smaller for columns whose name ends in "loss" or "error", the
        larger for all others.
    restore_best : bool, optional
        Keep a copy of the parameters and buffers of the best epoch, and put it back at the end; by
        default where there is a `patience`.
    checkpoint : Checkpoint, optional
        Where and how often to save; at the end it is saved in any case.
    on_nonfinite : {"raise", "ignore"}
        What to do about a loss that is inf or NaN. "raise": a copy of parameters and optimizer
        state is taken every 128 steps; the steps from there are repeated, the layer is found whose
        output went wrong first, and the network is left as it was before that step. (Gradients
        that overflow are another thing: with a dynamic loss scale their steps are skipped.)
    callbacks : iterable of callable
        Functions of an `Event`, called in order. Options of the trainer that they set, as `epochs`,
        count from the next epoch on.
    progress : bool or str
        What is shown on stderr: the style of a `Progress`, True for "auto", False for nothing.
    **options
        Of `TrainStep`: ``compile``, ``reduce_grads``, ``precision``, ``gemm``.

    Attributes
    ----------
    train_step : TrainStep
        The step.
    history : History
        The table of the last run, also where an error has ended it.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of the wrong kind.

    Notes
    -----
    Ctrl-C ends a run after the step that is under way, with a checkpoint; a second Ctrl-C ends it
    at once.

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
        self.net = instance("Trainer", "net", net, Layer, "a network, as Sequential")
        self.loss = instance("Trainer", "loss", loss, Loss, "a loss, as SoftmaxWithLoss()")
        self.optimizer = instance(
            "Trainer", "optimizer", optimizer, Optimizer, "an optimizer, as Adam()"
        )
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        _check_integers(
            least=1, batch_size=batch_size, eval_batch_size=eval_batch_size, accumulate=accumulate,
            patience=1 if patience is None else patience,
        )  # fmt: skip
        _check_integers(least=0, epochs=epochs, seed=seed)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.epochs, self.seed, self.accumulate, self.patience = epochs, seed, accumulate, patience
        _check_choice("mode", mode, ("auto", "min", "max"))
        _check_choice("on_nonfinite", on_nonfinite, ("raise", "ignore"))
        if not isinstance(monitor, str | None):
            message = f"Trainer: monitor is {shown(monitor)}; expected the name of a column."
            raise TypeError(message)
        if not isinstance(checkpoint, Checkpoint | None):
            message = f"Trainer: checkpoint is {checkpoint!r}; expected Checkpoint(folder, ...)."
            raise TypeError(message)
        self.monitor, self.mode = monitor, mode
        self.checkpoint, self.on_nonfinite = checkpoint, on_nonfinite
        self.train_metrics = flag("Trainer", "train_metrics", train_metrics)
        restore_best = patience is not None if restore_best is None else restore_best
        self.restore_best = flag("Trainer", "restore_best", restore_best)
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
        self.history = History()
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_run": None}  # what is under way is no part of a copy

    def __repr__(self) -> str:
        numbers = [f"{name}={getattr(self, name)}" for name in ("batch_size", "epochs", "seed")]
        return code(self, ("net", "loss", "optimizer"), numbers)

    def fit(
        self,
        x: Any,
        t: Array | None = None,
        validation: Any = None,
        *,
        resume: bool = False,
    ) -> History:
        """Train.

        Parameters
        ----------
        x, t : array
            Samples and targets, of one library and device; their first axes agree. Or in the place
            of `x`, without `t`, batches ``(x, t)``: an iterable that can be gone through once an
            epoch, as a list or a data loader, or a function ``batches(epoch)``, from 0, that
            returns one.
        validation : tuple of two arrays, or iterable of batches, optional
            What to evaluate on after each epoch.
        resume : bool
            Go on from the last checkpoint, to the same bits as if nothing had happened; without one
            begin, and say so on stderr. `epochs` may be larger than it was; the data and all other
            options that change the results have to be those of before. Data are told by shape,
            dtype and a digest of their values, of an array above 64 MiB by one of 256 blocks of it.
            Batches that are no list and no `Batches` are not looked at, and have to come in the
            same order again. A checkpoint of an earlier version, without a digest, is believed.

        Returns
        -------
        History
            One row an epoch; ``history.stopped`` says why it ended.

        Raises
        ------
        ValueError
            If shapes or labels do not fit, there are no samples, the checkpoint is that of another
            run, or more epochs are done than `epochs`.
        TypeError
            If libraries, devices or dtypes do not fit.
        NonFiniteLoss
            If a loss is inf or NaN, unless ``on_nonfinite="ignore"``.
        MemoryError
            If memory runs out, of any library, with what to do about it.
        OSError
            If the folder of the checkpoint cannot be written to.

        Warns
        -----
        RuntimeWarning
            If a checkpoint cannot be written, or is damaged.

        Notes
        -----
        Called again, it goes through all epochs again, from the parameters that there are.
        """
        flag("Trainer.fit", "resume", resume)
        several = self.epochs > 1
        check_data(x, t, validation, again=several or resume, again_validation=several)
        settings, checkpoint = self._settings(validation), self.checkpoint
        check_values(self.net, self.loss, x, t, validation)
        source = Source(x, t, self.batch_size, self.seed)
        history = self.history = History()
        identity = {}
        if checkpoint is not None:
            checkpoint.check(self.net)
            identity = self._identity(settings, x, t)
        tell = self._tell if self.callbacks else None
        self._run = Run(self.train_step, source, settings, history, self.evaluate, tell, identity)
        try:
            if checkpoint is not None and resume:
                self._run.resume(checkpoint)
            elif resume:
                message = "Trainer.fit: resume=True goes with Trainer(checkpoint=Checkpoint(...))."
                raise ValueError(message)
            elif checkpoint is not None and checkpoint.latest() is not None:
                message = (
                    f"Trainer.fit: {checkpoint.folder} has the checkpoints of another run; "
                    "fit(..., resume=True) goes on from them, or use another folder."
                )
                raise ValueError(message)
            return self._run.go()
        finally:
            self._run = None  # and with it the copies of the parameters

    def evaluate(self, x: Any, t: Array | None = None) -> dict[str, float]:
        """Return the loss and the metrics on a data set, as `evaluate` with this trainer's options.

        Parameters
        ----------
        x, t : array
            Samples and targets; or in the place of `x` an iterable of batches.

        Returns
        -------
        dict of str to float
            ``"loss"`` and the metrics.
        """
        return evaluate(
            self.net, self.loss, x, t, metrics=self.metrics, batch_size=self.eval_batch_size
        )

    def stop(self) -> None:
        """End the run after the step that is under way; for callbacks."""
        if self._run is not None:
            self._run.stop("callback")

    def _settings(self, validation: Any) -> Settings:
        """Return what a run is to do, once its monitor is known to be one of its columns."""
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

    def _identity(self, settings: Settings, x: Any, t: Array | None) -> dict[str, Any]:
        """Return what has to be the same in a run that goes on, as JSON has it."""
        mode = "max" if settings.largest_is_best else "min"
        return {
            "batch_size": self.batch_size, "accumulate": self.accumulate, "seed": self.seed,
            **data_identity(x, t, settings.validation),
            "monitor": settings.monitor, "mode": mode, "patience": self.patience,
            "restore_best": self.restore_best,
            "metrics": list(self.metrics), "train_metrics": self.train_metrics,
            "clip_norm": self.clip_norm, "reduce_grads": described(self.reduce_grads),
            **step_identity(self.train_step),
        }  # fmt: skip

    def _tell(self, kind: str, *counts: Any, **details: Any) -> None:
        """Tell the callbacks what has happened, and the run what they have set here."""
        event = Event(kind, self, self.history, *counts, **details)
        for callback in self.callbacks:
            callback(event)
        if kind in ("begin", "epoch") and self._run is not None:
            self._run.settings = self._settings(self._run.settings.validation)


def _check_integers(*, least: int, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            message = f"Trainer: {name} is {value!r}; expected an integer of at least {least}."
            raise ValueError(message)


def _check_choice(name: str, value: Any, words: tuple[str, ...]) -> None:
    if value not in words:
        message = f"Trainer: {name} is {value!r}; expected one of {words}."
        raise ValueError(message)


def _check_options(options: Mapping[str, Any]) -> None:
    """Check that all options are those of a step, and say where others belong."""
    for name in options:
        if name not in inspect.signature(TrainStep.__init__).parameters:
            message = f"Trainer: there is no option {name}."
            raise TypeError(f"{message} {_ELSEWHERE.get(name, '')}".rstrip())


# Where people look for what is elsewhere here.
_ELSEWHERE = {
    "lr": "The optimizer has it: Adam(lr=0.001).",
    "learning_rate": "The optimizer has it: Adam(lr=0.001).",
    "validation": "It goes to fit(x, t, validation=(x, t)).",
    "validation_data": "It goes to fit(x, t, validation=(x, t)).",
    "validation_split": "Split before, and pass fit(x, t, validation=(x, t)).",
    "resume": "It goes to fit(..., resume=True).",
    "verbose": "progress=False shows nothing.",
    "callback": "callbacks=[...] takes several.",
    "early_stopping": "patience=3 stops after 3 epochs without a better one.",
    **dict.fromkeys(("max_epochs", "n_epochs", "num_epochs"), "It is called epochs."),
    **dict.fromkeys(("shuffle", "random_state", "rng"), "seed decides on the order of samples."),
    **dict.fromkeys(("device", "xp", "dtype"), "The arrays decide: it trains where they are."),
}


def _checked_callbacks(callbacks: Any, progress: Any) -> list[Callable[[Event], Any]]:
    """Return the callbacks in a list, that which shows progress at its end."""
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
    """Clip gradients, or what another `reduce_grads` makes of them."""
    return clip_by_norm(grads if reduce_grads is None else reduce_grads(grads), limit)
