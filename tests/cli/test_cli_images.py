"""Folders of images, the images of each class in a folder of its name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, refusal, refused, train

import xplayers as xl
from xplayers.cli import datasets

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.host

CNN = (*TINY, "--model", "cnn", "--channels", "4", "--save", "m.safetensors")


def images(size=(8, 8), n=20, mode="RGB", suffix=".png"):
    """Write n images of each of two classes: of blue, and of red."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("blue", "red")):
        Path("own", name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (*size, 3), np.uint8)
            pixels[..., 2 - 2 * c] += 120
            Image.fromarray(pixels).convert(mode).save(Path("own", name, f"{i:03}{suffix}"))


def predictions(capsys, path):
    assert main(["predict", "m.safetensors", path, "--backend", "numpy"]) == 0
    return [line.split(",") for line in capsys.readouterr().out.splitlines()]


def test_from_training_to_predictions(capsys, home):
    images()
    out = train(capsys, *CNN, "--dataset", "own", "--epochs", "20", "--lr", "0.01")
    assert "own: 32 samples to train on, 8 held out\nnetwork: 3x8x8 -> convolution 4 ->" in out
    assert xl.load_model("m.safetensors").classes == ("blue", "red")
    assert main(["evaluate", "m.safetensors", "--backend", "numpy"]) == 0
    assert "own, held out: 8 samples" in capsys.readouterr().out
    header, *rows = predictions(capsys, "own/red")
    assert header == ["file", "class"]
    assert rows == [[f"{i:03}.png", "red"] for i in range(20)]
    assert predictions(capsys, "own/blue/003.png")[1:] == [["003.png", "blue"]]


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 3), ("P", 3)])
def test_pixels_are_those_of_the_files(home, mode, channels):
    images((6, 4), 3, mode)
    data = datasets.read("own")
    assert data.x.shape[1:] == (channels, 6, 4)
    expected = [
        np.asarray(Image.open(p).convert("L" if channels == 1 else "RGB"))
        for p in sorted(Path("own").glob("*/*"))
    ]
    got = {x.tobytes() for x in (*data.x, *data.x_test)}
    assert got == {np.moveaxis(np.atleast_3d(p), -1, 0).tobytes() for p in expected}


def test_sizes(capsys, home):
    images()
    Image.new("RGB", (10, 6)).save("own/red/wide.png")
    line = refused(capsys, "train", *CNN, "--dataset", "own")
    assert (
        "own/red/wide.png has 6 x 10 pixels, others 8 x 8; `xplayers train --image-size 8 8`"
        in line
    )
    train(capsys, *CNN, "--dataset", "own", "--image-size", "8", "12")
    assert xl.load_model("m.safetensors").shape == (3, 8, 12)
    assert main(["evaluate", "m.safetensors", "--backend", "numpy"]) == 0
    capsys.readouterr()
    assert len(predictions(capsys, "own/red")) == 22


def test_images_as_the_camera_was_held(home):
    for name in ("a", "b"):
        Path("own", name).mkdir(parents=True)
        image = Image.new("L", (6, 4))
        exif = image.getexif()
        exif[0x0112] = 6  # rotate by 90 degrees
        image.save(f"own/{name}/1.jpg", exif=exif)
        image.save(f"own/{name}/2.jpg", exif=exif)
    assert datasets.read("own").x.shape[1:] == (1, 6, 4)


def test_mistakes(capsys, home, monkeypatch):
    images()
    Path("own/red/002.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    line = refused(capsys, "train", *CNN, "--dataset", "own")
    assert "own/red/002.png is no image that Pillow reads: " in line
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("own/red/002.png")
    line = refused(capsys, "train", *CNN, "--dataset", "own")
    assert "own/red/002.png has more than 8 bits for a pixel" in line
    assert "own/red is a folder; expected an .npz file" in refusal(
        capsys, "train", "--dataset", "own/red"
    )
    line = refusal(capsys, "train", "--image-size", "8", "8")
    assert "--image-size goes with data of your own, not with digits" in line
    monkeypatch.setitem(sys.modules, "PIL", None)
    line = refusal(capsys, "train", "--dataset", "own")
    assert 'images need Pillow: pip install "xplayers[images]"' in line


def test_images_for_a_model_of_others(capsys, home):
    images()
    train(capsys, *TINY, "--dataset", "digits", "--save", "m.safetensors")
    line = refusal(capsys, "predict", "m.safetensors", "own/red")
    assert "own/red has images; m.safetensors was not trained on a folder of images" in line
