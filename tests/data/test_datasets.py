"""Data sets: what is in them, and files in folders."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from idx_files import ARRAYS, FILES, TEST, TRAIN, fill, idx, one_line

from xplayers.data import datasets, load_digits, load_mnist, spiral

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("requests")]

MNIST_T10K = ROOT.parent / "shared" / "data" / "mnist-t10k"


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
            (TEST[0], np.zeros((5, 3, 5), np.uint8), "5 images, {labels} 4 labels; expected equ"),
            (TEST[1], np.zeros(3, np.uint8), "4 images, {labels} 3 labels; expected equ"),
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
