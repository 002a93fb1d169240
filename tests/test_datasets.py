"""Data sets: what is in them, the IDX format, files in folders, and downloads without a network."""

import gzip
import hashlib
import http.client
import os
import re
import struct
import sys
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from xplayers.data import (
    datasets,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    read_idx,
    spiral,
)

pytestmark = pytest.mark.host

MNIST_T10K = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist-t10k"

COLLECTIONS = {load_mnist: "_MNIST", load_fashion_mnist: "_FASHION_MNIST"}
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FILES = (*TRAIN, *TEST)

rng = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": rng.integers(0, 256, (7, 3, 5), dtype=np.uint8),
    "train-labels-idx1-ubyte": np.array([3, 0, 9, 1, 4, 1, 5], dtype=np.uint8),
    "t10k-images-idx3-ubyte": rng.integers(0, 256, (4, 3, 5), dtype=np.uint8),
    "t10k-labels-idx1-ubyte": np.array([2, 7, 1, 8], dtype=np.uint8),
}


def idx(array):
    """Return `array` as the bytes of an IDX file."""
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    header = struct.pack(
        f">4B{array.ndim}I", 0, 0, codes[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def fill(folder, names=FILES, suffix="", spelling=str):
    """Write the small data set into `folder`, gzipped where the suffix says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = idx(ARRAYS[name])
        (folder / (spelling(name) + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return folder


def one_line(error):
    """Return the message of a pytest.raises context, which must be a single line."""
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def requests(monkeypatch, tmp_path):
    """Keep every test away from the network and the user's cache; list the URLs asked for."""
    asked = []
    urlopen = urllib.request.urlopen

    def only_files(url, **options):
        asked.append(url)
        assert url.startswith("file:"), f"a test asked the network for {url}"
        assert 0 < options.pop("timeout") <= 60
        return urlopen(url, **options)

    monkeypatch.setattr(urllib.request, "urlopen", only_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


@pytest.fixture(params=COLLECTIONS, ids=lambda load: load.__name__)
def load(request):
    return request.param


@pytest.fixture
def mirrors(load, monkeypatch, tmp_path):
    """Two local mirrors in place of those of the data set, which is made the small one."""
    folders = [fill(tmp_path / "mirrors" / name, suffix=".gz") for name in "ab"]
    sums = {}
    for name in FILES:
        data = (folders[0] / f"{name}.gz").read_bytes()
        (folders[1] / f"{name}.gz").write_bytes(data)
        sums[name] = (len(data), hashlib.sha256(data).hexdigest())
    collection = getattr(datasets, COLLECTIONS[load])
    urls = tuple(f"{folder.as_uri()}/" for folder in folders)
    monkeypatch.setattr(datasets, COLLECTIONS[load], collection._replace(mirrors=urls, files=sums))
    return folders


@pytest.fixture
def cache(load, tmp_path):
    return tmp_path / "cache" / "xplayers" / load.__name__[5:].replace("_", "-")


def contents(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


class TestDigits:
    def test_default_form(self):
        (x_train, t_train), (x_test, t_test) = load_digits()
        for x, t, n in ((x_train, t_train, 1438), (x_test, t_test, 359)):
            assert isinstance(x, np.ndarray)
            assert (x.shape, x.dtype) == ((n, 64), np.float32)
            assert (t.shape, t.dtype) == ((n,), np.int64)
            assert (x.min(), x.max()) == (0, 1)
            assert set(t) == set(range(10))

    def test_class_counts(self):
        (_, t_train), (_, t_test) = load_digits()
        assert np.bincount(t_train).tolist() == [
            151, 161, 143, 131, 147, 154, 150, 136, 127, 138,
        ]  # fmt: skip
        assert np.bincount(t_test).tolist() == [27, 21, 34, 52, 34, 28, 31, 43, 47, 42]

    def test_every_fifth_is_held_out_and_no_pixel_is_lost(self):
        (x_train, t_train), (x_test, t_test) = load_digits(normalize=False)
        x, t = np.empty((1797, 64), np.uint8), np.empty(1797, np.uint8)
        held_out = np.arange(1797) % 5 == 4
        x[held_out], x[~held_out] = x_test, x_train
        t[held_out], t[~held_out] = t_test, t_train
        assert hashlib.sha256(x.tobytes() + t.tobytes()).hexdigest() == (
            "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
        )

    def test_is_what_scikit_learn_has(self):
        sklearn = pytest.importorskip("sklearn.datasets")
        data, target = sklearn.load_digits(return_X_y=True)
        (x_train, t_train), (x_test, t_test) = load_digits(normalize=False)
        np.testing.assert_array_equal(x_test, data[4::5])
        np.testing.assert_array_equal(t_test, target[4::5])
        np.testing.assert_array_equal(x_train, np.delete(data, np.s_[4::5], axis=0))
        np.testing.assert_array_equal(t_train, np.delete(target, np.s_[4::5]))

    def test_raw_pixels(self):
        for (raw, _), (x, _) in zip(load_digits(normalize=False), load_digits(), strict=True):
            assert raw.dtype == np.uint8
            assert raw.max() == 16
            np.testing.assert_array_equal(raw.astype(np.float32) / 16, x)

    def test_images(self):
        for (images, _), (rows, _) in zip(load_digits(flatten=False), load_digits(), strict=True):
            assert images.shape[1:] == (1, 8, 8)
            np.testing.assert_array_equal(images.reshape(-1, 64), rows)

    def test_one_hot(self):
        for (_, one_hot), (_, t) in zip(
            load_digits(one_hot_label=True), load_digits(), strict=True
        ):
            assert (one_hot.shape, one_hot.dtype) == ((len(t), 10), np.float32)
            assert (one_hot.sum(axis=1) == 1).all()
            np.testing.assert_array_equal(one_hot.argmax(axis=1), t)

    def test_arguments_by_position_as_in_the_book(self):
        (x, t), _ = load_digits(False, False, True)
        assert x.dtype == np.uint8
        assert x.shape[1:] == (1, 8, 8)
        assert t.shape[1:] == (10,)

    def test_every_call_gives_arrays_of_its_own(self):
        (x, t), _ = load_digits()
        x[:], t[:] = -1, -1
        assert load_digits()[0][0].min() == 0


class TestSpiral:
    def test_form(self):
        x, t = spiral()
        assert (x.shape, x.dtype) == ((300, 2), np.float32)
        assert (t.shape, t.dtype) == ((300,), np.int64)
        assert np.bincount(t).tolist() == [100, 100, 100]
        radius = np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(radius, np.tile(np.arange(100) / 100, 3), atol=1e-6)

    def test_seed_generator_and_none(self):
        x, _ = spiral(rng=7)
        np.testing.assert_array_equal(x, spiral(rng=7)[0])
        np.testing.assert_array_equal(x, spiral(rng=np.random.default_rng(7))[0])
        np.testing.assert_array_equal(spiral(rng=0)[0], spiral()[0])
        assert (x != spiral(rng=8)[0]).any()
        assert (spiral(rng=None)[0] != spiral(rng=None)[0]).any()

    def test_a_generator_goes_on(self):
        source = np.random.default_rng(0)
        assert (spiral(rng=source)[0] != spiral(rng=source)[0]).any()

    @pytest.mark.parametrize("n_classes", [2, 3, 11])
    def test_arms_are_evenly_spaced(self, n_classes):
        x, t = spiral(50, n_classes, noise=0)
        ends = x[49::50].astype(np.float64)
        assert t[49::50].tolist() == list(range(n_classes))
        gaps = np.linalg.norm(ends - np.roll(ends, 1, axis=0), axis=1)
        np.testing.assert_allclose(gaps, 2 * 0.98 * np.sin(np.pi / n_classes), rtol=1e-6)

    def test_numpy_scalars_are_numbers(self):
        numbers: list = [np.int32(4), np.int64(2), np.float32(0.5), np.int64(3)]
        x, _ = spiral(*numbers)
        assert x.shape == (8, 2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_per_class": 0}, "spiral: n_per_class is 0; expected an integer of at least 1."),
            ({"n_per_class": -3}, "n_per_class is -3"),
            ({"n_per_class": 2.5}, "n_per_class is 2.5"),
            ({"n_classes": 0}, "n_classes is 0"),
            ({"n_classes": "3"}, "n_classes is '3'"),
            ({"noise": -0.1}, "noise is -0.1; expected a finite number of at least 0."),
            ({"noise": float("nan")}, "noise is nan"),
            ({"noise": float("inf")}, "noise is inf"),
            ({"noise": "loud"}, "noise is 'loud'"),
            ({"rng": -1}, "rng is -1; expected an integer seed"),
            ({"rng": "zero"}, "rng is 'zero'"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            spiral(**arguments)
        one_line(error)


class TestReadIdx:
    @pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
    def test_every_type(self, tmp_path, dtype, zipped):
        array = (np.arange(24) * 5 - (0 if dtype == "u1" else 60)).reshape(2, 3, 4).astype(dtype)
        if dtype[0] == "f":
            array /= 7
        path = tmp_path / "file"  # no suffix: the bytes tell
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
        read = read_idx(path)
        assert read.dtype == np.dtype(dtype)
        assert read.dtype.isnative
        assert read.flags.writeable
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(read_idx(str(path)), array)

    @pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 28, 28), (3, 0), (1,) * 32])
    def test_every_shape(self, tmp_path, shape):
        path = tmp_path / "file"
        path.write_bytes(idx(np.ones(shape, np.float32)))
        assert read_idx(path).shape == shape

    def test_longer_than_one_piece(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 256, (3, 2**20 + 1), dtype=np.uint8)
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(array), 1))
        np.testing.assert_array_equal(read_idx(path), array)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                idx(np.zeros((2, 3, 4), np.uint8))[:-1],
                "header says (2, 3, 4), 24 bytes; file holds 23.",
            ),
            (idx(np.zeros((2, 3), np.int16))[:-3], "header says (2, 3), 12 bytes; file holds 9."),
            (idx(np.zeros(3, np.uint8)) + b"!", "header says (3,), 3 bytes; file holds more."),
            (idx(np.zeros(3, np.uint8))[:6], "header says 1 axes; file ends before their sizes"),
            (b"", "not an IDX file; it starts with the bytes ''"),
            (b"\0\0\x08", "not an IDX file; it starts with the bytes '00 00 08'"),
            (b"\x89PNG....", "not an IDX file; it starts with the bytes '89 50 4e 47'"),
            (b"\0\0\x0a\1\0\0\0\0", "not an IDX file; it starts with the bytes '00 00 0a 01'"),
            (b"\0\0\x08\xff" + 255 * b"\0\0\0\1", "number of axes (at most 32)"),
        ],
        ids=["short", "short-i2", "long", "header", "empty", "three", "png", "type", "axes"],
    )
    @pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
    def test_bad_files(self, tmp_path, data, message, zipped):
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(gzip.compress(data) if zipped else data)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            read_idx(path)
        assert one_line(error).startswith(f"{path}: ")

    @pytest.mark.parametrize(
        "shape", [(2**32 - 1,), (2**16, 2**15), (2**32 - 1,) * 32, (0, *(2**32 - 1,) * 3)]
    )
    def test_header_that_promises_too_much(self, tmp_path, shape):
        path = tmp_path / "file"
        path.write_bytes(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape))
        with pytest.raises(ValueError, match="expected at most 1073741824 bytes"):
            read_idx(path)

    def peak(self, path):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="header says"):
                read_idx(path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_a_header_alone_takes_no_memory(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2**30) + b"few")
        assert self.peak(path) < 8e6

    def test_a_gzip_bomb_is_not_unpacked(self, tmp_path):
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(np.zeros(4, np.uint8)) + bytes(50_000_000), 1))
        assert self.peak(path) < 8e6

    @pytest.mark.parametrize("n_bytes", [2, 12, -9, -1])
    def test_cut_gzip(self, tmp_path, n_bytes):
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(np.arange(1000, dtype=np.int32)))[:n_bytes])
        with pytest.raises(ValueError, match="damaged gzip file") as error:
            read_idx(path)
        assert one_line(error).startswith(f"{path}: ")

    @pytest.mark.parametrize("at", [2, 20, -5, -1])
    def test_damaged_gzip(self, tmp_path, at):
        data = bytearray(gzip.compress(idx(np.arange(1000, dtype=np.int32))))
        data[at] ^= 0xFF
        path = tmp_path / "file.gz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged gzip file|header says|not an IDX"):
            read_idx(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_idx(tmp_path / "nothing")


class TestFolder:
    """`load_mnist(path)`: files as they are, no network, no sums."""

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize(
        "spelling", [str, lambda name: name.replace("-idx", ".idx")], ids=["dash", "dot"]
    )
    def test_spellings(self, load, tmp_path, suffix, spelling):
        folder = fill(tmp_path / "here", suffix=suffix, spelling=spelling)
        (x_train, t_train), (x_test, t_test) = load(folder, normalize=False, flatten=False)
        np.testing.assert_array_equal(x_train[:, 0], ARRAYS[TRAIN[0]])
        np.testing.assert_array_equal(t_train, ARRAYS[TRAIN[1]])
        np.testing.assert_array_equal(x_test[:, 0], ARRAYS[TEST[0]])
        np.testing.assert_array_equal(t_test, ARRAYS[TEST[1]])

    def test_forms(self, load, tmp_path):
        folder = fill(tmp_path / "here")
        raw = ARRAYS[TRAIN[0]]
        (x, t), _ = load(str(folder))
        assert (x.dtype, t.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(x, raw.reshape(7, 15).astype(np.float32) / 255)
        (x, t), _ = load(folder, False, False, True)
        assert (x.shape, x.dtype) == ((7, 1, 3, 5), np.uint8)
        assert (t.shape, t.dtype) == ((7, 10), np.float32)
        np.testing.assert_array_equal(t.argmax(axis=1), ARRAYS[TRAIN[1]])

    @pytest.mark.parametrize(("subset", "names"), [("train", TRAIN), ("test", TEST)])
    def test_subset_needs_its_two_files_only(self, load, tmp_path, subset, names):
        x, t = load(fill(tmp_path / "here", names), normalize=False, subset=subset)
        np.testing.assert_array_equal(x, ARRAYS[names[0]].reshape(-1, 15))
        np.testing.assert_array_equal(t, ARRAYS[names[1]])

    def test_home_is_understood(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(tmp_path))
        fill(tmp_path / "mnist", TEST)
        assert load_mnist("~/mnist", subset="test")[0].shape == (4, 15)

    def test_empty_data_set(self, tmp_path):
        (tmp_path / TEST[0]).write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
        (tmp_path / TEST[1]).write_bytes(idx(np.zeros(0, np.uint8)))
        for one_hot in (False, True):
            x, t = load_mnist(tmp_path, one_hot_label=one_hot, subset="test")
            assert x.shape == (0, 784)
            assert t.shape == ((0, 10) if one_hot else (0,))

    def test_missing_files_are_all_named(self, load, tmp_path, requests):
        folder = fill(tmp_path / "here", (TRAIN[0], TEST[1]))
        with pytest.raises(FileNotFoundError) as error:
            load(folder)
        text = one_line(error)
        assert text.startswith(f"{load.__name__}: {folder} lacks ")
        assert [name in text for name in FILES] == [False, True, True, False]
        assert requests == []

    def test_a_folder_of_that_name_is_no_file(self, tmp_path):
        folder = fill(tmp_path / "here", (TEST[1],))
        (folder / TEST[0]).mkdir()
        with pytest.raises(FileNotFoundError, match=f"lacks {TEST[0]}"):
            load_mnist(folder, subset="test")

    @pytest.mark.parametrize("make", [Path.touch, lambda path: None], ids=["file", "nothing"])
    def test_no_folder(self, tmp_path, make):
        path = tmp_path / "mnist.zip"
        make(path)
        with pytest.raises(FileNotFoundError, match="is not a folder; expected one with") as error:
            load_mnist(path, subset="test")
        assert all(name in one_line(error) for name in TEST)

    @pytest.mark.parametrize("subset", ["validation", "Train", "", 0, ["train"], True])
    def test_bad_subset(self, load, tmp_path, subset):
        with pytest.raises(ValueError, match="subset is .*; expected 'train', 'test' or") as error:
            load(tmp_path, subset=subset)
        assert one_line(error).startswith(f"{load.__name__}: ")

    @pytest.mark.parametrize(
        ("name", "array", "message"),
        [
            (TEST[0], np.zeros((5, 3, 5), np.uint8), "5 images, {labels} 4 labels; expected one"),
            (TEST[1], np.zeros(3, np.uint8), "4 images, {labels} 3 labels; expected one"),
            (TEST[0], np.zeros((4, 15), np.uint8), "{images} holds uint8 of shape (4, 15); "),
            (TEST[0], np.zeros((4, 3, 5), np.int16), "{images} holds int16 of shape (4, 3, 5); "),
            (TEST[1], np.zeros((4, 1), np.uint8), "{labels} holds uint8 of shape (4, 1); "),
            (TEST[1], np.zeros(4, np.int32), "{labels} holds int32 of shape (4,); expected uint8"),
            (
                TEST[1],
                np.array([0, 9, 10, 3], np.uint8),
                "{labels} holds the label 10; expected 0..9.",
            ),
        ],
    )
    def test_files_that_do_not_fit(self, load, tmp_path, name, array, message):
        folder = fill(tmp_path / "here", TEST)
        (folder / name).write_bytes(idx(array))
        message = message.format(images=folder / TEST[0], labels=folder / TEST[1])
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            load(folder, subset="test")
        assert one_line(error).startswith(f"{load.__name__}: ")

    def test_a_truncated_file_is_named(self, load, tmp_path):
        folder = fill(tmp_path / "here")
        path = folder / TRAIN[0]
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"header says \(7, 3, 5\), 105 bytes; file holds 104"):
            load(folder)


class TestDownload:
    """`load_mnist()`: once, whole and checked, or not at all."""

    def test_all_four_then_none(self, load, mirrors, cache, requests):
        first = load()
        np.testing.assert_array_equal(first[1][1], ARRAYS[TEST[1]])
        assert requests == [f"{mirrors[0].as_uri()}/{name}.gz" for name in FILES]
        assert contents(cache.parent) == sorted([cache.name, *(f"{name}.gz" for name in FILES)])
        again = load()
        assert len(requests) == 4
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])

    def test_subset_fetches_its_two_files(self, load, mirrors, cache, requests):
        load(subset="test")
        assert contents(cache) == sorted(f"{name}.gz" for name in TEST)
        load()
        assert len(requests) == 4

    def test_data_sets_do_not_mix(self):
        assert datasets._MNIST.folder != datasets._FASHION_MNIST.folder

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_files_put_there_by_hand_are_used(self, load, cache, requests, suffix):
        fill(cache, suffix=suffix)
        assert load()[0][0].shape == (7, 15)
        assert requests == []

    def test_a_file_can_be_read_like_any_other_of_the_user(self, load, mirrors, cache):
        load(subset="test")
        (cache / "other").touch()
        assert {path.stat().st_mode for path in cache.iterdir()} == {
            (cache / "other").stat().st_mode
        }

    def test_second_mirror(self, load, mirrors, cache, requests):
        (mirrors[0] / f"{TEST[0]}.gz").unlink()
        load(subset="test")
        assert requests == [
            f"{mirrors[0].as_uri()}/{TEST[0]}.gz",
            f"{mirrors[1].as_uri()}/{TEST[0]}.gz",
            f"{mirrors[0].as_uri()}/{TEST[1]}.gz",
        ]
        assert contents(cache) == sorted(f"{name}.gz" for name in TEST)

    def test_second_mirror_after_a_wrong_file(self, load, mirrors):
        (mirrors[0] / f"{TEST[1]}.gz").write_bytes(b"<html>please log in</html>")
        np.testing.assert_array_equal(load(subset="test")[1], ARRAYS[TEST[1]])

    def test_wrong_sum(self, load, mirrors, cache):
        data = (mirrors[0] / f"{TEST[0]}.gz").read_bytes()
        changed = data[:-1] + bytes([data[-1] ^ 1])
        for folder in mirrors:
            (folder / f"{TEST[0]}.gz").write_bytes(changed)
        with pytest.raises(OSError, match="could not download") as error:
            load(subset="test")
        text = str(error.value)
        assert f"got {len(data)} bytes with SHA-256 {hashlib.sha256(changed).hexdigest()}" in text
        assert f"expected {len(data)} bytes" in text
        assert f"with SHA-256 {hashlib.sha256(data).hexdigest()}" in text
        assert contents(cache) == []

    def test_an_endless_answer_is_cut(self, load, mirrors, cache):
        size = (mirrors[0] / f"{TEST[0]}.gz").stat().st_size
        for folder in mirrors:
            (folder / f"{TEST[0]}.gz").write_bytes(bytes(10 * size))
        with pytest.raises(OSError, match=f"got {size + 1} bytes"):
            load(subset="test")
        assert contents(cache) == []

    @pytest.mark.parametrize(
        ("failure", "said"),
        [
            (urllib.error.URLError("Name or service not known"), "Name or service not known"),
            (TimeoutError("timed out"), "timed out"),
            (TimeoutError(), "TimeoutError"),
            (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
            (http.client.IncompleteRead(b"123", 4), "IncompleteRead(3 bytes read, 4 more"),
            (http.client.BadStatusLine("?"), "?"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_offline(self, load, cache, monkeypatch, failure, said):
        def urlopen(url, timeout):
            raise failure

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        with pytest.raises(
            OSError, match=f"{load.__name__}: could not download {TRAIN[0]}.gz"
        ) as e:
            load()
        text = str(e.value)
        for mirror in getattr(datasets, COLLECTIONS[load]).mirrors:
            assert f"{mirror}{TRAIN[0]}.gz: " in text
        assert text.count(said) >= 2
        assert f"into {cache} by hand" in text
        assert all(f"{name}.gz" in text for name in FILES)
        assert f"{load.__name__}(path)" in text
        assert "load_digits() needs no network" in text
        assert contents(cache) == []

    @pytest.mark.parametrize("failure", [OSError("disk is full"), KeyboardInterrupt()])
    def test_nothing_stays_when_writing_fails(self, load, mirrors, cache, monkeypatch, failure):
        def replace(source, target):
            assert Path(source).stat().st_size > 0
            assert not Path(target).exists()
            raise failure

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises((OSError, KeyboardInterrupt)):
            load(subset="test")
        assert contents(cache) == []

    def test_nothing_stays_when_reading_is_interrupted(self, load, mirrors, cache, monkeypatch):
        class Response:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def read(self, n):
                raise KeyboardInterrupt

        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Response())
        with pytest.raises(KeyboardInterrupt):
            load()
        assert contents(cache) == []

    def test_what_is_there_survives_a_failure(self, load, mirrors, cache, requests):
        load(subset="test")
        for folder in mirrors:
            (folder / f"{TRAIN[1]}.gz").unlink()
        with pytest.raises(OSError, match=TRAIN[1]):
            load()
        assert contents(cache) == sorted(f"{name}.gz" for name in (*TEST, TRAIN[0]))
        assert load(subset="test")[0].shape == (4, 15)

    def test_a_cache_that_cannot_be_made(self, load, mirrors, tmp_path, requests):
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(OSError, match="could not download") as error:
            load(subset="test")
        assert f"{load.__name__}(path)" in str(error.value)
        assert requests == []  # what could not be kept is not fetched


class TestTables:
    """The sums and mirrors that the package believes in."""

    @pytest.mark.parametrize("name", COLLECTIONS.values())
    def test_well_formed(self, name):
        collection = getattr(datasets, name)
        assert tuple(collection.files) == FILES
        assert len({sum_ for _, sum_ in collection.files.values()}) == 4
        for size, sum_ in collection.files.values():
            assert 4_000 < size < 30_000_000
            assert re.fullmatch("[0-9a-f]{64}", sum_)
        assert len(collection.mirrors) >= 2
        assert all(re.fullmatch("https?://.*/", mirror) for mirror in collection.mirrors)

    @pytest.mark.parametrize(
        ("platform", "environment", "expected"),
        [
            ("linux", {}, "{home}/.cache/xplayers"),
            ("linux", {"XDG_CACHE_HOME": "{home}/x"}, "{home}/x/xplayers"),
            ("linux", {"XDG_CACHE_HOME": "relative"}, "{home}/.cache/xplayers"),
            ("linux", {"XDG_CACHE_HOME": ""}, "{home}/.cache/xplayers"),
            ("darwin", {}, "{home}/Library/Caches/xplayers"),
            ("win32", {}, "{home}/AppData/Local/xplayers"),
            ("win32", {"LOCALAPPDATA": "{home}/local"}, "{home}/local/xplayers"),
        ],
    )
    def test_cache_folder(self, monkeypatch, tmp_path, platform, environment, expected):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(home=tmp_path))
        assert datasets._cache_folder() == Path(expected.format(home=tmp_path))


@pytest.mark.skipif(not MNIST_T10K.is_dir(), reason="the MNIST test images are not here")
class TestRealMnist:
    def test_test_images(self, requests):
        x, t = load_mnist(MNIST_T10K, subset="test")
        assert (x.shape, x.dtype) == ((10_000, 784), np.float32)
        assert (x.min(), x.max()) == (0, 1)
        assert np.bincount(t).tolist() == [
            980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
        ]  # fmt: skip
        assert requests == []

    def test_the_table_knows_these_files(self):
        for name in TEST:
            data = (MNIST_T10K / f"{name}.gz").read_bytes()
            assert datasets._MNIST.files[name] == (len(data), hashlib.sha256(data).hexdigest())

    def test_the_training_images_are_missed_by_name(self):
        if (MNIST_T10K / f"{TRAIN[0]}.gz").exists():
            pytest.skip("they are here")
        with pytest.raises(FileNotFoundError, match=", ".join(TRAIN)):
            load_mnist(MNIST_T10K)
