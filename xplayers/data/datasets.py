"""Small data sets as NumPy arrays: one in the package, two from files or downloads, one synthetic.

Every function returns host arrays. Move them to a device once, before training
(``x_train = xp.asarray(x_train)``); the parameters of a network move to the first input.
"""

import math
import os
import sys
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from xplayers.data.idx import read_idx
from xplayers.saving.files import AnyPath, in_full, replacing

__all__ = ["load_digits", "load_fashion_mnist", "load_mnist", "spiral"]

Split = tuple[np.ndarray, np.ndarray]


# Ready-made data ------------------------------------------------------------------------------


def load_digits(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False
) -> tuple[Split, Split]:
    """Load 1,797 handwritten digits of 8 x 8 pixels, which are part of the package.

    Parameters
    ----------
    normalize : bool
        True: pixels are float32 in [0, 1]. False: uint8 in 0..16, as published.
    flatten : bool
        True: images are rows, ``(n, 64)``. False: images are ``(n, 1, 8, 8)``.
    one_hot_label : bool
        True: labels are float32 rows with a single 1, ``(n, 10)``. False: int64, ``(n,)``.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : tuple of tuple of ndarray
        1,438 training samples and 359 held-out ones: every fifth one (``index % 5 == 4``).

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (the test part). https://doi.org/10.24432/C50P49. Licence: CC BY 4.0.

    Examples
    --------
    >>> import xplayers as xl
    >>> (x, t), (x_test, t_test) = xl.data.load_digits()
    >>> x.shape, str(x.dtype), x_test.shape
    ((1438, 64), 'float32', (359, 64))
    >>> t[:10]
    array([0, 1, 2, 3, 5, 6, 7, 8, 0, 1])
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"]
    held_out = np.arange(len(labels)) % 5 == 4
    train, test = (
        _formatted(images[rows], labels[rows], 16, normalize, flatten, one_hot_label)
        for rows in (~held_out, held_out)
    )
    return train, test


@overload
def load_mnist(
    path=None, normalize=True, flatten=True, one_hot_label=False, subset: None = None
) -> tuple[Split, Split]: ...
@overload
def load_mnist(
    path=None, normalize=True, flatten=True, one_hot_label=False, *, subset: str
) -> Split: ...
def load_mnist(
    path: AnyPath | None = None,
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    subset: str | None = None,
) -> tuple[Split, Split] | Split:
    """Load MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels.

    Parameters
    ----------
    path : str or path-like, optional
        Directory with the four IDX files, gzipped (``train-images-idx3-ubyte.gz``) or not. None:
        the user's cache directory, to which missing files are downloaded once and checked by
        SHA-256.
    normalize : bool
        True: pixels are float32 in [0, 1]. False: uint8 in 0..255, as published.
    flatten : bool
        True: images are rows, ``(n, 784)``. False: images are ``(n, 1, 28, 28)``.
    one_hot_label : bool
        True: labels are float32 rows with a single 1, ``(n, 10)``. False: int64, ``(n,)``.
    subset : {"train", "test"}, optional
        Load only this part; the two files of the other part are not required then.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : tuple of tuple of ndarray
        Or one pair ``x, t`` with `subset`.

    Raises
    ------
    FileNotFoundError
        If files are missing in the directory `path`.
    OSError
        If a file is neither in the cache nor can be downloaded.
    ValueError
        If a file is damaged or has other contents, or an argument is out of range.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, xplayers as xl
    >>> def idx(a):
    ...     sizes = b"".join(n.to_bytes(4, "big") for n in a.shape)
    ...     return bytes([0, 0, 8, a.ndim]) + sizes + a.astype("uint8").tobytes()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, a in [("images-idx3", np.zeros((5, 28, 28))), ("labels-idx1", np.arange(5))]:
    ...         _ = pathlib.Path(folder, f"t10k-{name}-ubyte").write_bytes(idx(a))
    ...     x, t = xl.data.load_mnist(folder, subset="test")
    >>> x.shape, t
    ((5, 784), array([0, 1, 2, 3, 4]))
    """
    return _load(_MNIST, path, subset, normalize, flatten, one_hot_label)


@overload
def load_fashion_mnist(
    path=None, normalize=True, flatten=True, one_hot_label=False, subset: None = None
) -> tuple[Split, Split]: ...
@overload
def load_fashion_mnist(
    path=None, normalize=True, flatten=True, one_hot_label=False, *, subset: str
) -> Split: ...
def load_fashion_mnist(
    path: AnyPath | None = None,
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    subset: str | None = None,
) -> tuple[Split, Split] | Split:
    """Load Fashion-MNIST: 60,000 + 10,000 images of clothes, of 28 x 28 pixels.

    Arguments, results (shapes, dtypes) and errors are those of `load_mnist`. The labels 0..9 are
    T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag and ankle boot.

    References
    ----------
    H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
    Machine Learning Algorithms", 2017. https://arxiv.org/abs/1708.07747. Licence: MIT.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, xplayers as xl
    >>> images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28)
    >>> labels = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "t10k-images-idx3-ubyte").write_bytes(images)
    ...     _ = pathlib.Path(folder, "t10k-labels-idx1-ubyte").write_bytes(labels)
    ...     x, t = xl.data.load_fashion_mnist(folder, flatten=False, subset="test")
    >>> x.shape, t
    ((2, 1, 28, 28), array([7, 1]))
    """
    return _load(_FASHION_MNIST, path, subset, normalize, flatten, one_hot_label)


def spiral(
    n_per_class: int = 100,
    n_classes: int = 3,
    noise: float = 0.2,
    rng: "int | np.random.Generator | None" = 0,  # quoted: numpy.random is imported on use
) -> Split:
    """Generate points in the plane on spiral arms, one arm per class: not linearly separable.

    The arms start at the origin, end at radius 1 and turn by 4 radians; they are evenly spaced, so
    any number of classes is separable.

    Parameters
    ----------
    n_per_class : int
        Points on each arm.
    n_classes : int
        Number of arms.
    noise : float
        Standard deviation of the angle, in radians.
    rng : int or numpy.random.Generator or None
        Seed or generator of the noise. None: different points in every call.

    Returns
    -------
    x : ndarray of float32, shape (n_per_class * n_classes, 2)
        The points, ordered by arm: shuffle them before splitting.
    t : ndarray of int64, shape (n_per_class * n_classes,)
        The number of the arm.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x, t = xl.data.spiral(n_per_class=100, n_classes=3)
    >>> x.shape, t.shape
    ((300, 2), (300,))
    >>> bool(np.hypot(*x.T).max() <= 1.0)
    True
    """
    for name, value in (("n_per_class", n_per_class), ("n_classes", n_classes)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"spiral: {name} is {value!r}; expected an integer of at least 1.")
    if not isinstance(noise, Real) or not 0 <= noise < math.inf:
        raise ValueError(f"spiral: noise is {noise!r}; expected a finite number of at least 0.")
    try:
        rng = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        expected = "an integer seed of at least 0, a numpy Generator or None"
        raise ValueError(f"spiral: rng is {rng!r}; expected {expected}.") from error

    radius = np.arange(n_per_class) / n_per_class
    start = np.arange(n_classes)[:, None] * (2 * np.pi / n_classes)
    angle = start + 4 * radius + noise * rng.standard_normal((n_classes, n_per_class))
    x = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)
    t = np.repeat(np.arange(n_classes, dtype=np.int64), n_per_class)
    return x.reshape(-1, 2).astype(np.float32), t


# MNIST and Fashion-MNIST ----------------------------------------------------------------------


_SUBSETS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class _Collection(NamedTuple):
    """Four IDX files: their mirrors and checksums."""

    loader: str  # the public function, for messages
    folder: str  # in the cache
    mirrors: tuple[str, ...]
    files: dict[str, tuple[int, str]]  # name without .gz -> bytes and SHA-256 of the gzipped file


def _files(*sums):
    """Return sizes and checksums by the names of the four files."""
    return dict(zip((*_SUBSETS["train"], *_SUBSETS["test"]), sums, strict=True))


_MNIST = _Collection(
    "load_mnist",
    "mnist",
    (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    _files(
        (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)

_FASHION_MNIST = _Collection(
    "load_fashion_mnist",
    "fashion-mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    _files(
        (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)

_N_CLASSES = 10
_TIMEOUT = 15  # seconds


def _load(collection, path, subset, *form):
    if subset not in (None, *_SUBSETS):
        raise ValueError(
            f"{collection.loader}: subset is {subset!r}; expected 'train', 'test' or None."
        )
    subsets = list(_SUBSETS) if subset is None else [subset]
    path = None if path is None else in_full(path, collection.loader)
    try:
        folder = _cache_folder() / collection.folder if path is None else Path(path)
    except RuntimeError as error:  # neither an entry for the user nor HOME
        raise OSError(
            f"{collection.loader}: there is no home folder for a cache. Pass the folder of the "
            f"files, {collection.loader}(path), or set HOME or XDG_CACHE_HOME."
        ) from error
    files = {name: _find(folder, name) for each in subsets for name in _SUBSETS[each]}
    missing = [name for name, file in files.items() if file is None]
    if missing and path is not None:
        fault = "lacks" if folder.is_dir() else "is not a folder; expected one with"
        raise FileNotFoundError(
            f"{collection.loader}: {folder} {fault} {', '.join(missing)} (or the same with .gz)."
        )
    for name in missing:
        files[name] = _download(collection, name, folder)

    loaded = {}
    for each in subsets:
        images, labels = _read_pair(collection.loader, *(files[name] for name in _SUBSETS[each]))
        loaded[each] = _formatted(images, labels, 255, *form)
    return (loaded["train"], loaded["test"]) if subset is None else loaded[subset]


def _find(folder, name):
    """Return the path of the file `name` under one of its spellings, or None."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for file in (folder / spelling, folder / f"{spelling}.gz"):
            if file.is_file():
                return file
    return None


def _read_pair(loader, images_file, labels_file):
    """Read and check images and their labels."""
    images, labels = read_idx(images_file), read_idx(labels_file)
    for file, array, axes in (
        (images_file, images, "(n, rows, columns)"),
        (labels_file, labels, "(n,)"),
    ):
        if array.dtype != np.uint8 or array.ndim != len(axes.split()):
            raise ValueError(
                f"{loader}: {file} holds {array.dtype} of shape {array.shape}; "
                f"expected uint8 of shape {axes}."
            )
    if len(images) != len(labels):
        raise ValueError(
            f"{loader}: {images_file} holds {len(images)} images, "
            f"{labels_file} {len(labels)} labels; expected equal numbers."
        )
    if labels.max(initial=0) >= _N_CLASSES:
        raise ValueError(
            f"{loader}: {labels_file} holds the label {labels.max()}; expected 0..{_N_CLASSES - 1}."
        )
    return images, labels


def _formatted(images, labels, white, normalize, flatten, one_hot_label):
    """Return ``x, t`` in the requested form."""
    n, rows, columns = images.shape
    x = images.reshape((n, rows * columns) if flatten else (n, 1, rows, columns))
    if normalize:
        x = np.divide(x, white, dtype=np.float32)  # without an intermediate float copy
    t = np.eye(_N_CLASSES, dtype=np.float32)[labels] if one_hot_label else labels.astype(np.int64)
    return x, t


def _cache_folder():
    """Return the user's cache directory for this package."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification says to ignore relative paths
        base = Path(xdg)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "xplayers"


def _download(collection, name, folder):
    """Download a file from the first mirror that has it, and return its path."""
    from http.client import HTTPException  # see _fetch

    file, failures = folder / f"{name}.gz", []
    mirrors = collection.mirrors
    try:  # before the download
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mirrors, failures = (), [f"  {folder}: {error.strerror or error}"]
    for mirror in mirrors:
        url = mirror + file.name
        try:
            _fetch(url, file, *collection.files[name])
        except (OSError, HTTPException) as error:
            failures.append(f"  {url}: {str(error) or type(error).__name__}")
        else:
            return file
    names = ", ".join(f"{each}.gz" for each in collection.files)
    hint = (
        f"Put {names} into {folder} manually, or pass the folder that has them: "
        f"{collection.loader}(path). load_digits() needs no network."
    )
    raise OSError(
        "\n".join([f"{collection.loader}: could not download {file.name}.", *failures, hint])
    )


def _fetch(url, file, size, sha256):
    """Download `url` to `file`, checked and atomically."""
    # Imported on demand: they would take a large part of the time of `import xplayers`.
    import hashlib
    import urllib.request

    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        data = response.read(size + 1)
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise OSError(
            f"got {len(data)} bytes with SHA-256 {got}; expected {size} bytes with SHA-256 {sha256}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as out:
        out.write(data)
