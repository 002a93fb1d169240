"""Files of users: modes, homes, many processes at once, lines of a log."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import xplayers as xl
from xplayers.saving import files
from xplayers.saving.files import TEMPORARY, append, clean, in_full, replacing

pytestmark = pytest.mark.host

posix = pytest.mark.skipif(os.name != "posix", reason="modes, locks and links of POSIX")


def network(seed=0):
    return xl.mlp([3, 2], rng=seed)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# Replacing


@posix
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o644, 0o664, 0o400, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(bits, tmp_path):
    path = tmp_path / "net.safetensors"
    xl.save(path, network())
    path.chmod(bits)
    before = path.stat()
    xl.save(path, network(1))
    assert mode(path) == bits
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)
    xl.load(path, network())


@posix
def test_nobody_reads_a_private_file_while_it_is_written(tmp_path):
    path = tmp_path / "private"
    path.touch(0o600)
    with replacing(path) as file:
        file.write(b"secret")
        (temporary,) = tmp_path.glob(TEMPORARY)
        assert mode(temporary) == 0o600
    assert path.read_bytes() == b"secret"


@posix
@pytest.mark.parametrize("asked", [(65534, 65534), (0, 65534), (65534, 0)])
def test_the_owner_stays_where_it_can(asked, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o664)
    like = path.stat()
    owners = []
    monkeypatch.setattr(files.os, "fchown", lambda handle, *owner: owners.append(owner))
    other = os.stat_result((like.st_mode, 0, 0, 1, *asked, 0, 0, 0, 0))
    monkeypatch.setattr(files, "_check_regular", lambda path: other)
    with replacing(path):
        pass
    mine = (like.st_uid, like.st_gid)
    assert owners == ([asked, (-1, asked[1])] if asked != mine else [])
    # chown has done nothing here: the group is another one, which may do what everybody may.
    assert mode(path) == (0o644 if asked[1] != like.st_gid else 0o664)


@posix
def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "net", tmp_path / "link"
    link.symlink_to(path)
    xl.save(link, network())  # it leads nowhere yet
    path.chmod(0o600)
    xl.save(link, network())
    assert link.is_symlink()
    assert mode(path) == 0o600
    assert sorted(tmp_path.rglob("*")) == [link, path.parent, path]


def test_what_looks_like_a_folder_is_none(tmp_path):
    with pytest.raises(ValueError, match="new.: ends with a separator; expected a file"):
        xl.save(f"{tmp_path / 'new'}{os.sep}", network())
    for ending in ("", os.sep, f"{os.sep}."):
        with pytest.raises(ValueError, match="is a folder; expected a file"):
            xl.save(f"{tmp_path}{ending}", network())
    assert not list(tmp_path.iterdir())


# Homes


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_tilde_is_a_home_in_every_path(home):
    net = network()
    for kind in (str, Path):
        xl.save(kind("~/net.safetensors"), net)
        assert (home / "net.safetensors").is_file()
        xl.load(kind("~/net.safetensors"), net)
        assert xl.read_metadata(kind("~/net.safetensors")) == {}
        checkpoint = xl.Checkpoint(kind("~/run"))
        assert checkpoint.save(1, net) == home / "run" / "step-000000001.safetensors"
        history = xl.History([{"epoch": 1, "loss": 0.5}])
        history.to_jsonl(kind("~/log.jsonl"))
        assert (home / "log.jsonl").is_file()
        assert xl.History.from_jsonl(kind("~/log.jsonl")) == history
        (home / "idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]))
        assert xl.data.read_idx(kind("~/idx")).tolist() == [3, 4]
        with pytest.raises(FileNotFoundError, match="home.nothing is not a folder"):
            xl.data.load_mnist(kind("~/nothing"))
        assert xl.TensorBoard(kind("~/events")).folder == str(home / "events")
    assert list(home.parent.iterdir()) == [home]


@pytest.fixture
def fonts():
    pytest.importorskip("matplotlib.font_manager")  # before it would look for them anew


def test_pictures_go_home_too(fonts, home):
    history = xl.History([{"epoch": 1, "loss": 0.5}])
    history.plot("~/curve.svg")
    xl.plot_activations(network(), np.ones((4, 3), np.float32), Path("~/activations.svg"))
    xl.plot_confusion_matrix(np.eye(2, dtype=int), "~/matrix.svg")
    xl.plot_mistakes(np.ones((2, 4)), np.eye(2), np.asarray([1, 0]), "~/mistakes.svg")
    assert len(list(home.glob("*.svg"))) == 4
    assert list(home.parent.iterdir()) == [home]


def test_a_tilde_of_nobody_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xl.save("~nobody-of-that-name", network())
    xl.save("a~", network())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a~", "~nobody-of-that-name"]


@pytest.mark.parametrize("path", [None, 3, 3.5, b"net", ["net"], True])
def test_what_is_no_path(path):
    for call in (
        lambda: xl.save(path, network()),
        lambda: xl.load(path, network()),
        lambda: xl.read_metadata(path),
        lambda: xl.Checkpoint(path),
        lambda: xl.History().to_jsonl(path),
        lambda: xl.History.from_jsonl(path),
        lambda: xl.data.read_idx(path),
        lambda: xl.TensorBoard(path),
        lambda: in_full(path, "owner"),
    ):
        with pytest.raises(TypeError, match=r"(path|folder) is .*expected a str or pathlib\.Path"):
            call()


@pytest.mark.parametrize("load", [xl.data.load_mnist, xl.data.load_fashion_mnist])
def test_without_a_home_data_sets_say_where_files_may_be(load, tmp_path, monkeypatch):
    def unknown():
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.setattr(Path, "home", unknown)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match=rf"{load.__name__}: there is no home folder .* set HOME or"):
        load()
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load("~/nothing")  # which stays as it is
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(xl.data.datasets, "_download", lambda *_: pytest.fail("it has a folder"))
    with pytest.raises(pytest.fail.Exception, match="it has a folder"):
        load()


# Many processes

SAVES = """
import sys, xplayers as xl
folder, number, saves = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
net, checkpoint = xl.mlp([3, 2], rng=number), xl.Checkpoint(f"{folder}/run", keep=2)
print("ready", flush=True)
sys.stdin.readline()
for step in range(saves):
    xl.save(f"{folder}/net.safetensors", net, {"of": number})
    try:
        checkpoint.save(step, net, metadata={"of": number})
    except ValueError as error:  # another process is at a later step already
        assert "of another run" in str(error), error
    try:
        checkpoint.restore(xl.mlp([3, 2], rng=0))
    except ValueError as error:
        assert "none of the" in str(error), error
"""


def test_many_processes_save_at_the_same_time(tmp_path):
    command = [sys.executable, "-W", "error", "-c", SAVES, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([*command, str(i), "25"], **pipes) for i in range(4)]
    try:
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            run.stdin.write("go\n")
            run.stdin.flush()
        assert [run.wait(120) for run in runs] == [0] * 4
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert xl.load(tmp_path / "net.safetensors", network())["of"] in range(4)
    assert xl.Checkpoint(tmp_path / "run").restore(network()).step == 24
    assert not list(tmp_path.rglob(TEMPORARY))


@posix
def test_cleaning_leaves_the_files_of_others(tmp_path, monkeypatch):
    left = tmp_path / TEMPORARY.replace("*", "0123")
    left.write_bytes(b"half")
    with replacing(tmp_path / "net") as file:
        file.write(b"whole")
        clean(tmp_path)
        assert not left.exists()
        assert len(list(tmp_path.glob(TEMPORARY))) == 1
    assert (tmp_path / "net").read_bytes() == b"whole"
    # Where files cannot be locked, age has to tell.
    left.write_bytes(b"half")

    def unable(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", unable)
    with replacing(tmp_path / "net") as file:
        file.write(b"new")
    clean(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 90_000,) * 2)
    clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net").read_bytes() == b"new"


@posix
def test_a_file_that_is_cleaned_before_it_is_locked(tmp_path, monkeypatch):
    """Another process may come between the making of a file and its lock."""
    lock, times = files.fcntl.flock, []

    def late(handle, how):
        times.append(handle)
        if len(times) == 1:
            next(tmp_path.glob(TEMPORARY)).unlink()
        if len(times) == 2:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        return lock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with replacing(tmp_path / "net") as file:
        file.write(b"whole")
    assert len(times) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


# Lines of a log


def test_lines_are_added(tmp_path):
    path = tmp_path / "log"
    append(path, "one")
    append(path, "zwei ä")
    assert path.read_bytes() == "one\nzwei ä\n".encode()
    path.write_bytes(b"half")  # of a process that was killed
    append(path, "whole")
    assert path.read_bytes() == b"half\nwhole\n"


@pytest.mark.parametrize("room", [0, 1, 5, 9])
def test_a_full_disk_leaves_no_half_of_a_line(room, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "log"
    append(path, "before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 + room, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append(path, "a long line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    append(path, "after")
    assert path.read_bytes() == b"before\nafter\n"


def test_a_table_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "log.jsonl"
    earlier = xl.History([{"epoch": 1, "loss": 0.5}])
    earlier.to_jsonl(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            xl.History({"epoch": i} for i in range(1000)).to_jsonl(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert xl.History.from_jsonl(path) == earlier
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_devices_are_written_to():
    append("/dev/null", "line")
    with pytest.raises(OSError, match="No space left"):
        append("/dev/full", "line")
    table = xl.History([{"epoch": 1}])
    table.to_jsonl("/dev/null")
    with pytest.raises(OSError, match="No space left"):
        table.to_jsonl("/dev/full")
