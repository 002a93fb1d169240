"""Folders of images: the images of each class in a folder of its name, read by Pillow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xplayers.cli.messages import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Size(NamedTuple):
    """Channels, height and width that images are brought to."""

    channels: int
    height: int
    width: int


def images_in(folder: Path) -> list[Path]:
    """Return the images that lie in a folder, in the order of their names."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in files if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]


def classes_in(folder: str) -> dict[str, list[Path]]:
    """Return the images of each class: those in the folders of a folder, by name."""
    path = Path(folder)
    subfolders = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    by_class = {p.name: images_in(p) for p in subfolders if not p.name.startswith(".")}
    return {name: files for name, files in by_class.items() if files}


def read_classes(
    folder: str, size: Sequence[int] | None, channels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a folder, ``(n, channels, height, width)`` bytes, and their classes.

    With a `size`, height and width, they are scaled to it; else all have to have the same. By
    default there is one channel if all images are gray, else three.
    """
    by_class = classes_in(folder)
    files = [file for part in by_class.values() for file in part]
    t = np.repeat(np.asarray([*by_class]), [len(part) for part in by_class.values()])
    if channels is None:
        channels = 1 if all(image.mode in ("1", "L", "LA") for _, image in opened(files)) else 3
    height, width = size or next(upright(*pair).size[::-1] for pair in opened(files))
    return read(files, Size(channels, height, width), scale=size is not None), t


def read(files: Sequence[Path], size: Size, *, scale: bool) -> np.ndarray:
    """Return images as bytes of shape ``(n, *size)``; with `scale` they may have other sizes."""
    x = np.empty((len(files), *size), np.uint8)
    for i, (file, header) in enumerate(opened(files)):
        image = upright(file, header)
        if image.size != (size.width, size.height):
            if not scale:
                (width, height), n = image.size, f"{size.height} x {size.width}"
                message = (
                    f"{file} has {height} x {width} pixels, others {n}; `xplayers train "
                    f"--image-size {size.height} {size.width}` scales all to one size"
                )
                raise UsageError(message)
            image = image.resize((size.width, size.height))
        pixels = np.asarray(image.convert("L" if size.channels == 1 else "RGB"))
        x[i] = np.moveaxis(pixels.reshape(size.height, size.width, size.channels), -1, 0)
    return x


def opened(files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """Yield each file and its image, of which the header is read."""
    try:
        from PIL import Image
    except ImportError as error:
        message = 'images need Pillow: pip install "xplayers[images]"'
        raise UsageError(message) from error
    for file in files:
        with _reading(file):
            image = Image.open(file)
        with image:
            if image.mode.startswith(("I", "F")):
                message = f"{file} has more than 8 bits for a pixel; save images of 8 bits"
                raise UsageError(message)
            yield file, image


def upright(file: Path, image: Any) -> Any:
    """Return the pixels of an image, upright as the camera was held."""
    from PIL import ImageOps

    with _reading(file):
        turned = ImageOps.exif_transpose(image)
        turned.load()
        return turned


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow's plugins raise anything
        message = f"{file} is no image that Pillow reads: {error}"
        raise UsageError(message) from error
