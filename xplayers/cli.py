"""The command ``xplayers``: train a network, and say what there is to compute with."""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

import xplayers as xl
from xplayers import _devices
from xplayers.training import TrainStep

__all__ = ["main"]

OPTIMIZERS: dict[str, type[xl.Optimizer]] = {
    "sgd": xl.SGD,
    "momentum": xl.Momentum,
    "nesterov": xl.Nesterov,
    "adagrad": xl.AdaGrad,
    "rmsprop": xl.RMSprop,
    "adam": xl.Adam,
    "adamw": xl.AdamW,
}
FROM_FILES = {"mnist": xl.data.load_mnist, "fashion": xl.data.load_fashion_mnist}
# With batches of 32 the matrix products of the digits have at most 32 * 64 * 128 = 2**18 terms, for
# which OpenBLAS starts no threads: they win little there, and wait long on a machine that is busy.
HIDDEN = [128, 64]
MOST_LINES = 20  # of progress, where there is no bar


class Mistake(Exception):
    """What the user can mend: one line on stderr, without a traceback."""


class Data(NamedTuple):
    """Samples to learn from and samples held out, on the host."""

    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    classes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0, 2 for what the user can mend, 130 after Ctrl-C.
    """
    try:
        args = _parser().parse_args(argv)
        args.run(args)
    except Mistake as mistake:
        line = " ".join(line.strip() for line in str(mistake).splitlines())
        print(f"xplayers: error: {line}", file=sys.stderr)
        return 2
    except MemoryError as error:
        advice = "take a smaller --batch-size or --hidden"
        print(f"xplayers: error: out of memory ({error}); {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("xplayers: interrupted", file=sys.stderr)
        return 130
    return 0


# The arguments --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xplayers",
        description="Train a network, and say what there is to compute with.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xplayers {xl.__version__}")
    commands = parser.add_subparsers(metavar="{train,info}", required=True)

    train = commands.add_parser(
        "train",
        help="train a multilayer perceptron and measure it on held-out data",
        description="Train a multilayer perceptron and measure it on held-out data.",
        allow_abbrev=False,
    )
    train.set_defaults(run=_train)
    add = train.add_argument
    add(
        "--backend",
        choices=("auto", "numpy", "cupy", "torch", "jax"),
        default="auto",
        help="library to compute with; auto: CuPy if it finds a GPU, else NumPy "
        "(default: %(default)s)",
    )
    add(
        "--dataset",
        choices=("digits", "mnist", "fashion", "spiral"),
        default="digits",
        help="digits comes with the package; mnist and fashion are downloaded once; spiral is "
        "made up (default: %(default)s)",
    )
    add(
        "--data-dir",
        metavar="FOLDER",
        help="folder with the four IDX files of mnist or fashion (default: the user's cache)",
    )
    add(
        "--epochs",
        type=_positive_integer,
        default=30,
        metavar="N",
        help="passes over the data (default: %(default)s)",
    )
    add(
        "--batch-size",
        type=_positive_integer,
        default=32,
        metavar="N",
        help="samples in a step (default: %(default)s)",
    )
    add(
        "--hidden",
        type=_positive_integer,
        nargs="*",
        default=HIDDEN,
        metavar="N",
        help="widths of the hidden layers; none: a linear model "
        f"(default: {' '.join(map(str, HIDDEN))})",
    )
    add(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        default="adam",
        help="rule of the update (default: %(default)s)",
    )
    rates = ", ".join(f"{name} {make().lr:g}" for name, make in OPTIMIZERS.items())
    add(
        "--lr",
        type=_positive_number,
        metavar="RATE",
        help=f"learning rate (default: that of the optimizer: {rates})",
    )
    add(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="of the initial values and the order of the samples (default: %(default)s)",
    )

    info = commands.add_parser(
        "info",
        help="say which libraries and devices there are, and what is wrong with them",
        description="Say which libraries and devices there are, and what is wrong with them.",
        allow_abbrev=False,
    )
    info.set_defaults(run=_info)
    return parser


def _positive_integer(text: str) -> int:
    return _integer(text, least=1)


def _seed(text: str) -> int:
    return _integer(text, least=0)


def _integer(text: str, least: int) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")


def _positive_number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


# xplayers info --------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> None:
    rows = [
        ("xplayers", xl.__version__, ""),
        ("python", platform.python_version(), ""),
        ("platform", platform.platform(), ""),
    ]
    for found in map(_devices.look, _devices.LIBRARIES):
        if found.why and found.name == "array-api-strict":
            continue  # of use in tests only, so nobody misses it
        version = found.version or "-"
        if found.why:
            rows.append((found.name, version, found.why))
            rows += [("", "", line) for line in textwrap.wrap(f"-> {found.fix}", 66)]
        else:
            note = f" ({found.note})" if found.note else ""
            rows.append((found.name, version, ", ".join(found.devices) + note))
    names = max(len(name) for name, _, _ in rows)
    versions = max(len(version) for _, version, words in rows if words)
    for name, version, words in rows:
        print(f"{name:{names}}  {version:{versions}}  {words}".rstrip())


# xplayers train -------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> None:
    found, why = _devices.choose(args.backend)
    if found.why:
        raise Mistake(f"--backend {args.backend}: {found}; {found.fix}")
    _say(f"xplayers {xl.__version__}, {found}" + (f" ({why})" if why else ""))

    data = _data(args)
    n, n_test = len(data.x), len(data.x_test)
    _say(f"{args.dataset}: {n} samples to train on, {n_test} held out")
    if args.batch_size > n:
        raise Mistake(f"--batch-size is {args.batch_size}; {args.dataset} has {n} samples")

    rng = np.random.default_rng(args.seed)
    sizes = [data.x.shape[1], *args.hidden, data.classes]
    try:
        net = xl.mlp(sizes, rng=rng)
    except ValueError as error:  # more than an array can have
        raise Mistake(f"--hidden {' '.join(map(str, args.hidden))}: {error}") from error
    make = OPTIMIZERS[args.optimizer]
    optimizer = make() if args.lr is None else make(lr=args.lr)
    # Smoothing is worth one percent on the digits: without it 1,438 samples are learnt by heart.
    loss = xl.SoftmaxWithLoss(label_smoothing=0.1)
    widths = " -> ".join(map(str, sizes))
    count = sum(math.prod(p.shape) for p in net.params.values())
    _say(f"network: {widths}, {count} parameters; {args.optimizer}, lr {optimizer.lr:g}; {loss!r}")

    x, t, x_test, t_test = (xl.move(a, xp=found.xp, device=found.device) for a in data[:4])
    start = time.perf_counter()
    _fit(TrainStep(net, loss, optimizer), x, t, args, rng)
    seconds = time.perf_counter() - start
    scores = net.predict(x_test)
    value = float(xl.SoftmaxWithLoss()(scores, t_test))
    accuracy = float(xl.accuracy(scores, t_test))
    _say(f"held out: loss {value:.4f}, accuracy {accuracy:.4f}; trained in {seconds:.1f} s")


def _fit(step: TrainStep, x: Any, t: Any, args: argparse.Namespace, rng: Any) -> None:
    """Train. The losses stay on the device, and one number is fetched each epoch."""
    # A last batch that is smaller is left out: JAX would compile the step again for it.
    steps = x.shape[0] // args.batch_size
    every = math.ceil(args.epochs / MOST_LINES)
    start = time.perf_counter()
    # NumPy would warn of the overflow which is reported here in better words.
    with _bar(args.epochs * steps) as bar, np.errstate(all="ignore"):
        for epoch in range(1, args.epochs + 1):
            total: Any = 0.0
            for batch in xl.minibatches(x, t, args.batch_size, rng, drop_last=True):
                total = total + step(*batch)
                if bar is not None:
                    bar.update()
            value = float(total) / steps
            if not math.isfinite(value):
                raise Mistake(f"the loss is {value} in epoch {epoch}; take a smaller --lr")
            so_far = f"epoch {epoch:{len(str(args.epochs))}}/{args.epochs}  loss {value:.4f}"
            if bar is not None:
                bar.set_postfix_str(so_far)
            elif epoch % every == 0 or epoch == args.epochs:
                _say(f"{so_far}  {time.perf_counter() - start:.1f} s")


def _bar(total: int) -> Any:
    """Return a progress bar, or on what is no terminal and without tqdm a context of None."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext()
    return tqdm(total=total, unit="step", dynamic_ncols=True)


def _data(args: argparse.Namespace) -> Data:
    """Return the data set of the arguments."""
    if args.dataset in FROM_FILES:
        try:
            train, test = FROM_FILES[args.dataset](args.data_dir)
        except (OSError, ValueError) as error:
            hint = " (here: --data-dir FOLDER)" if args.data_dir is None else ""
            raise Mistake(f"--dataset {args.dataset}: {error}{hint}") from error
        if train[0].shape[1] != test[0].shape[1]:
            raise Mistake(f"--dataset {args.dataset}: its two parts have images of different sizes")
        return Data(*train, *test, classes=10)
    if args.data_dir is not None:
        raise Mistake(f"--data-dir goes with --dataset {' or '.join(FROM_FILES)}")
    if args.dataset == "digits":
        train, test = xl.data.load_digits()
        return Data(*train, *test, classes=10)
    x, t = xl.data.spiral(400, 3)
    held_out = np.arange(len(x)) % 5 == 4  # evenly from all arms, and all along them
    return Data(x[~held_out], t[~held_out], x[held_out], t[held_out], classes=3)


def _say(line: str) -> None:
    print(line, flush=True)  # where output is a pipe, progress would come all at the end
