"""Arrays in files of other programs: `.safetensors` and `.npz`."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from xplayers.saving.files import AnyPath, in_full, opened
from xplayers.saving.safetensors import naming, reading

_PICKLES = {
    ".pt": "torch.load(path, weights_only=True)", ".pth": "torch.load(path, weights_only=True)",
    ".bin": "torch.load(path, weights_only=True)", ".ckpt": "torch.load(path, weights_only=True)",
    ".h5": "model.load_weights(path), and pass the model", ".keras":
    "keras.saving.load_model(path), and pass the model",
}  # fmt: skip


def foreign_arrays(owner: str, path: AnyPath) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, in its order; bfloat16 as float32.

    Raises
    ------
    ValueError
        If it is of another kind, damaged, or a file of `save`. The message has the name of the
        file.
    OSError
        If it cannot be read.
    """
    path = in_full(path, owner)
    suffix = os.path.splitext(path)[1].lower()
    with naming(path):
        if suffix == ".npz":
            return _npz(path)
        if suffix == ".safetensors":
            with reading(path, verify=False) as file:
                if file.own:
                    message = "was written by xplayers; xplayers.load(path, net) reads it."
                    raise ValueError(message)
                arrays = file.read()
                return {name: arrays[name] for name in file.entries}
        message = f"{owner}: expected a file .safetensors or .npz."
        if suffix in _PICKLES:
            message += f" Read it with its own library: {_PICKLES[suffix]}."
        raise ValueError(message)


def _npz(path: str) -> dict[str, np.ndarray]:
    with opened(path) as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (zipfile.BadZipFile, EOFError, AttributeError) as error:
            message = f"is not an .npz file, or damaged: {error}."
            raise ValueError(message) from error
