"""Downloads without a network: once, whole and checked, or not at all."""

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from idx_files import ARRAYS, COLLECTIONS, FILES, TEST, TRAIN, contents, fill

from xplayers.data import datasets

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("requests")]


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
        assert f"into {cache} manually" in text
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
