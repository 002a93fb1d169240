"""``xplayers train``: training of a network."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xplayers as xl
from xplayers.cli import config, datasets, models, optimization, processes
from xplayers.cli.arguments import (
    add_device,
    choose_device,
    class_weight,
    fraction,
    natural_number,
    nonnegative_number,
    path,
    positive_integer,
    positive_number,
)
from xplayers.cli.log import Log
from xplayers.cli.messages import (
    INTERRUPTED,
    UsageError,
    is_terminal,
    print_line,
    print_note,
    print_warning,
    stdout,
)
from xplayers.cli.optimization import OPTIMIZERS, SCHEDULES
from xplayers.cli.regression import described, errors_of
from xplayers.cli.results import Result, check, is_log, is_model, is_picture
from xplayers.models import Model
from xplayers.models.architecture import KINDS
from xplayers.reports.first_process import OfFirst
from xplayers.saving.checkpoint import FILE_NAME

NAME = "train"
SUMMARY = "train a network and measure it on held-out data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_device(parser)
    _add_data(parser)
    _add_network(parser)
    _add_optimization(parser)
    _add_results(parser)


# fmt: off
def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", type=path, default="digits", metavar="NAME|FILE|FOLDER",
        help="digits, part of the package; mnist and fashion, which are downloaded once; spiral, "
        "synthetic; an .npz file has your own arrays: samples x and labels t, of which a fifth is "
        "held out, or x_train, t_train, x_test and t_test; a folder has a folder of images for "
        "each class (default: %(default)s)")
    add("--task", choices=("classification", "regression"), default="classification",
        help="whether labels are classes, or numbers to predict (default: %(default)s)")
    add("--target", metavar="COLUMN",
        help="--dataset is a table, as CSV, whose first line names the columns: this one has the "
        "labels, the others are samples; a fifth of the rows is held out")
    add("--categories", nargs="+", metavar="COLUMN",
        help="columns of a table whose values are categories, as texts: a value of 0 or 1 for each")
    add("--image-size", type=positive_integer, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="scale the images of a folder to this size (default: all have to have one size)")
    add("--data-dir", type=path, metavar="FOLDER",
        help="folder with the four IDX files of mnist or fashion (default: the user's cache)")
    add("--epochs", type=positive_integer, default=30, metavar="N",
        help="passes over the data (default: %(default)s)")
    add("--batch-size", type=positive_integer, default=32, metavar="N",
        help="samples per step (default: %(default)s)")
    add("--shift", type=natural_number, default=0, metavar="PIXELS",
        help="with --model cnn: shift each image by up to so many pixels at random, in every epoch "
        "anew (default: %(default)s)")
    add("--flip", action=argparse.BooleanOptionalAction, default=False,
        help="with --model cnn: mirror images left to right at random; not for digits")
    add("--config", type=path, metavar="FILE.toml",
        help="read options from a file, as written beside the results of every run; options of the "
        "command line take precedence")


def _add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", choices=KINDS, default="mlp",
        help="a multilayer perceptron, or convolutions before it (default: %(default)s)")
    widths = {kind: " ".join(map(str, hidden)) for kind, hidden in models.HIDDEN.items()}
    add("--hidden", type=positive_integer, nargs="*", metavar="N",
        help="widths of the hidden layers; none: a linear model "
        f"(default: {widths['mlp']}; cnn: {widths['cnn']})")
    add("--channels", type=positive_integer, nargs="+", metavar="N",
        help="with --model cnn: channels of its convolutions, each followed by ReLU and pooling "
        f"(default: {' '.join(map(str, models.CHANNELS))})")


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--optimizer", choices=tuple(OPTIMIZERS), default="adam",
        help="optimizer (default: %(default)s)")
    rates = ", ".join(f"{name} {make().lr:g}" for name, make in OPTIMIZERS.items())
    add("--lr", type=positive_number, metavar="RATE",
        help=f"learning rate (default: that of the optimizer: {rates})")
    add("--schedule", choices=tuple(SCHEDULES), default="constant",
        help="of the learning rate, over all steps: a cosine down to 0, or up to the rate and down "
        "again (default: %(default)s)")
    add("--weight-decay", type=nonnegative_number, metavar="RATE",
        help="coefficient of the L2 penalty; of adamw, of the decoupled decay (default: that of "
        "the optimizer: 0; adamw 0.01)")
    # Label smoothing gains one percent on the digits, where 1,438 samples are easily overfitted.
    add("--label-smoothing", type=fraction, default=0.1, metavar="FRACTION",
        help="part of each target that is spread over all classes, in all losses that are shown "
        "(default: %(default)s)")
    add("--class-weights", type=class_weight, nargs="+", metavar="W",
        help="factor of each class in the loss, in their order; or balanced: inversely "
        "proportional to their numbers of samples (default: 1)")
    add("--dropout", type=fraction, default=0.0, metavar="RATE",
        help="of values that are dropped after each hidden layer, in training (default: "
        "%(default)s)")
    add("--patience", type=positive_integer, metavar="EPOCHS",
        help="stop after so many epochs without a smaller val_loss, and restore the best one")
    add("--seed", type=natural_number, default=0, metavar="N",
        help="seed of the initial values and of the shuffling (default: %(default)s)")


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--save", type=path, metavar="FILE",
        help="write the trained model (safetensors), for `xplayers predict` and `evaluate`")
    add("--log", type=path, metavar="FILE.jsonl",
        help="write the history of each epoch, as JSON lines")
    add("--plot", type=path, metavar="FILE.png",
        help="plot the history (.pdf and .svg too); needs matplotlib")
    add("--checkpoint-dir", type=path, metavar="FOLDER",
        help="write checkpoints to this directory, for this run only")
    add("--checkpoint-every", type=positive_integer, metavar="STEPS",
        help="interval of checkpoints (default: ten minutes); the end is always saved")
    add("--checkpoint-keep", type=positive_integer, default=3, metavar="N",
        help="number of checkpoints to keep (default: %(default)s)")
    add("--stall-timeout", type=positive_number, metavar="SECONDS",
        help="end the run, with all of its processes, if there is no step for so long; longer than "
        "an evaluation takes (default: never)")
    add("--elastic", action="store_true",
        help="of several processes, go on without those that are killed (experimental; with Open "
        "MPI: xplayers launch --elastic -n 3 -- train ...)")
    add("--resume", action="store_true",
        help="continue from the last checkpoint in --checkpoint-dir, with the options of that run")
# fmt: on


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, and write the results."""
    target, why = choose_device(args)
    group = processes.begin(target.name, elastic=args.elastic)
    stdout.required = not (args.save or args.log or args.plot or args.checkpoint_dir)
    options = _check_results(args)
    several = f", {group.size} processes" if group.size > 1 else ""
    print_line(f"xplayers {xl.__version__}, {target}" + (f" ({why})" if why else "") + several)
    data = _data(args, group)
    model = _model(args, data)
    checkpoint, net = _checkpoint(args), model.net
    digest = data.digest() if options else ""
    if args.resume:
        config.check_same(args, digest)
    loss, optimizer = optimization.loss(args, data), optimization.optimizer(args, len(data.x))
    about = {
        "data": {**data.source._asdict(), "sha256": digest},
        "loss": optimization.metadata(loss),
        "images": {"size": args.image_size} if Path(args.dataset).is_dir() else None,
        "xplayers": xl.__version__,
    }
    if args.save is not None:
        models.check_length(args.save, model, about)
    _introduce(args, model, loss, optimizer)

    def begin(event: xl.Event) -> None:
        """Write the options, once a resumed run has been checked."""
        if event.kind in ("losses", "epoch"):
            stdout.check()  # Progress ignores write errors
        if event.kind == "begin":
            _write_options(args, options, len(event.history), target.name, digest)

    trainer = xl.Trainer(
        net,
        loss,
        optimizer,
        batch_size=args.batch_size,
        epochs=args.epochs,
        seed=args.seed,
        patience=args.patience,
        checkpoint=checkpoint,
        callbacks=_callbacks(args, begin, group),
        progress=False,
        group=group,
    )
    start = time.perf_counter()
    train, test = _on_target(args, model, data, target)
    history = trainer.fit(*train, validation=test, resume=args.resume)
    seconds = time.perf_counter() - start
    results, measures = _measured(trainer, model, test)
    processes.speak(group)
    print_line(f"held out: loss {results['loss']:.4f}, {measures}; trained in {seconds:.1f} s")
    if not group.rank:
        _write_results(args, model, history, {**about, "results": results})
    if not history.interrupted:
        return 0
    hint = "" if checkpoint is None else "; continue by the same command with --resume"
    print_note(f"interrupted{hint}")
    return INTERRUPTED


def _introduce(
    args: argparse.Namespace, model: Model, loss: xl.Loss, optimizer: xl.Optimizer
) -> None:
    """Say what is trained, and how."""
    count = sum(math.prod(p.shape) for p in model.net.params.values())
    rate = f"{optimizer.lr:g}" if isinstance(optimizer.lr, float) else repr(optimizer.lr)
    print_line(
        f"network: {model.architecture}, {count} parameters; {args.optimizer}, lr {rate}; {loss!r}"
    )


def _data(args: argparse.Namespace, group: xl.parallel.Group) -> datasets.Data:
    """Return the data; the first process downloads them."""
    if group.rank:
        group.barrier()
    options = {name: getattr(args, name) for name in ("target", "categories", "image_size")}
    options["regression"] = args.task == "regression"
    options = {name: value for name, value in options.items() if value}
    data = datasets.read(args.dataset, args.data_dir, **options)
    if not group.rank:
        group.barrier()
    print_line(f"{data.name}: {len(data.x)} samples to train on, {len(data.x_test)} held out")
    return data


def _callbacks(
    args: argparse.Namespace, begin: Callable[[xl.Event], None], group: Any
) -> list[Callable[[xl.Event], None]]:
    """Return the callbacks of a process; the first one writes."""
    callbacks: list[Callable[[xl.Event], None]] = []
    if args.elastic or not group.rank:
        callbacks = [begin, _progress(), *([] if args.log is None else [Log(args.log)])]
    if args.elastic:  # any of them may become the first one
        callbacks = [lambda _: processes.speak(group), *map(OfFirst, callbacks)]
    if args.stall_timeout is not None:
        callbacks.append(processes.StallTimeout(args.stall_timeout))
    return callbacks


def _measured(trainer: xl.Trainer, model: Model, test: tuple[Any, Any]) -> tuple[dict, str]:
    """Return the results on held-out samples, and in words those beside the loss."""
    results = trainer.evaluate(*test)
    if model.targets is None:
        return results, f"accuracy {results['accuracy']:.4f}"
    y, t = (xl.to_numpy(a) for a in (model.net.predict(test[0]), test[1]))
    results |= errors_of(model.values(y), model.values(t))
    return results, described(results)


def _write_results(
    args: argparse.Namespace,
    model: Model,
    history: xl.History,
    about: dict[str, Any],
) -> None:
    if args.save is not None:
        model.about.update(about)
        model.save(args.save)
        print_line(f"saved in {args.save}")
    if args.plot is not None and len(history):
        history.plot(args.plot)
        print_line(f"drawn in {args.plot}")


def _model(args: argparse.Namespace, data: datasets.Data) -> Model:
    """Return what is to be trained, once the options are known to fit the data."""
    if args.batch_size > (n := len(data.x)):
        message = (
            f"--batch-size is {args.batch_size}; {data.name} has {n} samples to train on; use at "
            f"most --batch-size {n}"
        )
        raise UsageError(message)
    model = models.make(args.model, data, args.hidden, args.channels, args.seed, args.dropout)
    if args.model != "cnn" and (args.shift or args.flip):
        message = "--shift and --flip go with --model cnn"
        raise UsageError(message)
    if constants := models.constants(model.standard):
        print_warning(f"{data.name}: {constants}, which is centred and not scaled")
    return model


def _write_options(
    args: argparse.Namespace, options: list[Result], done: int, device: str, digest: str
) -> None:
    """Write the options of the run beside its results, of which `done` epochs are there."""
    if done == args.epochs:
        print_line(f"all {done} epochs are done; pass a larger --epochs to continue")
    for result in options:
        if done == args.epochs and result.path.exists():
            continue  # nothing is computed with these options
        result.path.parent.mkdir(parents=True, exist_ok=True)
        config.write(result.path, args, device, digest)


def _on_target(
    args: argparse.Namespace, model: Model, data: datasets.Data, target: Any
) -> tuple[list[Any], tuple[Any, Any]]:
    """Return what `fit` takes, and the arrays that are held out, on the device."""
    x, x_test = model.prepared(data.x), model.prepared(data.x_test)
    where = dict(xp=target.xp, device=target.device)
    t, t_test = model.targets_of(data.t), model.targets_of(data.t_test)
    test = xl.move(x_test, **where), xl.move(t_test, **where)
    if not (args.shift or args.flip):
        return [xl.move(a, **where) for a in (x, t)], test
    transform = _augmentation(args)
    batches = xl.Batches(x, t, args.batch_size, args.seed, transform=transform, **where)
    return [batches], test


def _check_results(args: argparse.Namespace) -> list[Result]:
    """Check early that the results can be written; return the configuration files to write."""
    for option, value in (("resume", args.resume), ("checkpoint-every", args.checkpoint_every)):
        if value and args.checkpoint_dir is None:
            message = f"--{option} goes with --checkpoint-dir"
            raise UsageError(message)
    results = [
        Result(f"--{name} {getattr(args, name)}", Path(getattr(args, name)), own)
        for name, own in (("save", is_model), ("log", is_log), ("plot", is_picture))
        if getattr(args, name) is not None
    ]
    dataset = None if args.dataset in datasets.BUILT_IN else args.dataset
    check([*results], [dataset, args.config], args.checkpoint_dir)
    options = config.results(args)
    # A configuration file that was read may be rewritten.
    check(
        [*results, *(o for o in options if o.path.parent.is_dir())],
        [dataset],
        args.checkpoint_dir,
    )
    if args.plot is not None:
        check_plot(args.plot)
    return options


def check_plot(path: str) -> None:
    """Check early that matplotlib is installed and supports the format."""
    if importlib.util.find_spec("matplotlib") is None:
        message = '--plot needs matplotlib: pip install "xplayers[train]"'
        raise UsageError(message)
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in formats:
        message = f"--plot {path}: expected a name that ends in .{', .'.join(sorted(formats))}"
        raise UsageError(message)


def _checkpoint(args: argparse.Namespace) -> xl.Checkpoint | None:
    folder, every = args.checkpoint_dir, args.checkpoint_every
    if folder is None:
        return None
    minutes = 10.0 if every is None else None
    checkpoint = xl.Checkpoint(folder, every, minutes, keep=args.checkpoint_keep)
    if not args.resume and checkpoint.latest() is not None:
        message = (
            f"--checkpoint-dir {folder} has the checkpoints of another run; pass --resume to "
            "continue it"
        )
        raise UsageError(message)
    names = [p.name for p in Path(folder).iterdir()] if Path(folder).is_dir() else []
    has_run = config.NAME in names or any(map(FILE_NAME.fullmatch, names))
    if args.resume and not has_run:
        fault = "has no checkpoint" if Path(folder).is_dir() else "does not exist"
        message = f"--resume: {folder} {fault}; expected the --checkpoint-dir of a run"
        raise UsageError(message)
    return checkpoint


def _augmentation(args: argparse.Namespace) -> Any:
    def augmented(x: Any, rng: Any) -> Any:
        if args.shift:
            x = xl.data.random_shift(x, args.shift, rng)
        return xl.data.random_flip(x, rng) if args.flip else x

    return augmented


def _progress() -> xl.Progress:
    """Return a bar on a terminal with tqdm; else lines on stdout."""
    if is_terminal(sys.stderr) and importlib.util.find_spec("tqdm") is not None:
        return xl.Progress("bar")
    return xl.Progress("lines", file=stdout)  # type: ignore[arg-type]  # has write and flush
