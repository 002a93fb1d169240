"""Saving and loading of networks, in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import constructor_call, flag, shown
from xplayers.arrays.namespaces import Array, dtype_name
from xplayers.arrays.transfer import asarray
from xplayers.layers.base import Layer
from xplayers.saving.files import AnyPath, in_full
from xplayers.saving.safetensors import Entry, Reader, reading, write

__all__ = ["load", "read_metadata", "save"]

# A checkpoint has the arrays of its network by name, and everything else under this prefix.
APART = "checkpoint/"
RECORD = APART + "record"  # JSON, as an array because it may be longer than a header
# In version 1, which has no version field, Adam had m / (1 - beta1) and v / (1 - beta2).
_KINDS = {
    "version": int, "step": int, "state": dict | None, "rng_state": dict | None, "metadata": dict,
}  # fmt: skip


@explained()
def save(path: AnyPath, net: Layer, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the parameters and buffers of a network to a file, atomically.

    Parameters
    ----------
    path : str or path-like
        The file, as ``net.safetensors``; ``~`` is the home directory. An existing file is replaced
        atomically: an error, a full disk or a kill leaves it unchanged. Its mode is kept, and
        symbolic links are followed.
    net : Layer
        The network; its arrays may be of any library and on any device.
    metadata : mapping, optional
        JSON values and NumPy scalars. Tuples are loaded as lists, keys as strings. NaN and
        infinities are written as by Python's ``json``.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `path` is a directory, a pipe or a device, or the metadata are longer than 2 MiB.
    TypeError
        If `path` is not a path or `net` not a layer, the metadata cannot be converted to JSON, or
        the format does not support a dtype.

    See Also
    --------
    load, Checkpoint

    Notes
    -----
    The format is safetensors, which contains no code. The ``safetensors`` library reads the file:
    ``safetensors.torch.load_file(path)`` is a dict of torch tensors by the names of ``net.params``
    and ``net.buffers``. bfloat16 stays bfloat16. Besides the arrays there are ``repr(net)``, for
    information; a version of the format; and a SHA-256 checksum of names, dtypes, shapes, values
    and metadata. The checksum detects damage; it does not authenticate the file.

    Examples
    --------
    >>> import tempfile, xplayers as xl
    >>> from xplayers.saving.network import load, save
    >>> net, other = xl.mlp([4, 8, 2], rng=0), xl.mlp([4, 8, 2], rng=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.safetensors", net, {"accuracy": 0.98})
    ...     load(f"{folder}/net.safetensors", other)
    {'accuracy': 0.98}
    >>> bool((net.params["0.W"] == other.params["0.W"]).all())
    True
    """
    path = _file("save", path, net)
    write(path, net.arrays, {"net": repr(net), "metadata": to_json(as_dict("save", metadata))})


@explained()
def load(
    path: AnyPath, net: Layer | None = None, *, cast: bool = False, verify: bool = True
) -> dict[str, Any]:
    """Read the parameters and buffers of a network from a file of `save` or `Checkpoint`.

    Everything is checked before the network is changed. The arrays keep library, device and memory
    layout of those of the network. Gradients and pending passes are dropped.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is the home directory.
    net : Layer
        A network with the names and shapes of the saved one, created by the same code. It is
        required.
    cast : bool
        Whether floating-point values may be cast to the dtype of the network. Integers, whose
        widths differ between libraries, are always cast if no value is lost.
    verify : bool
        Whether to require the checksum. False also reads safetensors files of other programs.

    Returns
    -------
    dict
        The metadata passed to `save`. For a file of another program: its own, a dict of strings.

    Raises
    ------
    ValueError
        If the file has another format, is damaged, truncated or not written by xplayers; or if
        names, shapes or dtypes do not match the network: all mismatches are listed. The message has
        the name of the file.
    OSError
        If the file cannot be read.
    TypeError
        If `path` is not a path, or `net` not a layer.

    See Also
    --------
    save, read_metadata

    Notes
    -----
    A network that is not materialized yet (from ``init``, before the first input) takes the values
    in the dtype of the file, bfloat16 as float32, and still moves to its first input.

    Loading executes no code, unlike ``torch.load`` or ``pickle``. PyTorch's ``load_state_dict``
    copies into the tensors of the module; here the network gets new arrays.

    Examples
    --------
    >>> import os, tempfile
    >>> import xplayers as xl
    >>> net, other = xl.mlp([4, 3], rng=0), xl.mlp([4, 3], rng=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     xl.save(path, net, metadata={"epochs": 20})
    ...     xl.load(path, other)
    {'epochs': 20}
    >>> bool((net.params["0.W"] == other.params["0.W"]).all())
    True
    """
    if net is None:
        message = (
            "load: net is missing. A file has arrays and no code: create the network by the same "
            "code, and call load(path, net)."
        )
        raise TypeError(message)
    path = _file("load", path, net)
    flag("load", "cast", cast)
    flag("load", "verify", verify)
    with reading(path, verify=verify) as file:
        entries = entries_of_net(file)
        check_fit(net, entries, cast=cast)
        values = file.read({*entries, RECORD})
        metadata = _metadata(file, values)
        arrays = converted_like(net, values)
    put(net, arrays)
    return metadata


def read_metadata(path: AnyPath, *, verify: bool = True) -> dict[str, Any]:
    """Return the metadata of a file of `save` or `Checkpoint`, without loading a network.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is the home directory. All of it is read, in chunks, for the checksum.
    verify : bool
        As in `load`.

    Returns
    -------
    dict
        As from `load`.

    Raises
    ------
    ValueError, OSError
        As from `load`.

    Examples
    --------
    >>> import os, tempfile
    >>> import xplayers as xl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     xl.save(path, xl.mlp([4, 3], rng=0), metadata={"epochs": 20})
    ...     xl.read_metadata(path)
    {'epochs': 20}
    """
    path = in_full(path, "read_metadata")
    flag("read_metadata", "verify", verify)
    with reading(path, verify=verify) as file:
        return _metadata(file, file.read({RECORD}))


def _file(owner: str, path: Any, net: Any) -> str:
    """Check a network and its path, with a hint if they are swapped."""
    swapped: bool = issubclass(type(path), Layer)
    check_layer(owner, net, f"The order is {owner}(path, net)." if swapped else "")
    return in_full(path, owner)


def check_layer(owner: str, net: Any, hint: str = "") -> None:
    """Check that `net` is a network."""
    if isinstance(net, Layer):
        return
    kind = shown(net) if isinstance(net, type) else f"a {type(net).__name__}"
    if isinstance(net, type) and issubclass(net, Layer):
        hint = f"Call the class: {constructor_call(net)}."
    elif isinstance(net, Mapping) and not hint:
        hint = "Pass the network itself, not its arrays."
    message = f"{owner}: net is {kind}; expected a layer, as Sequential. {hint}".rstrip()
    raise TypeError(message)


def as_dict(owner: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as a dict."""
    if metadata is not None and not isinstance(metadata, Mapping):
        message = f"{owner}: metadata is a {type(metadata).__name__}; expected a dict."
        raise TypeError(message)
    return dict(metadata or {})


def to_json(value: Any) -> str:
    """Return `value` as JSON; NumPy scalars become numbers."""
    return json.dumps(value, default=_to_python)


def _to_python(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    message = (
        f"save: metadata has a {type(value).__name__}, which is not a JSON type; "
        "expected numbers, strings, lists and dicts."
    )
    raise TypeError(message)


def _metadata(file: Reader, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if RECORD in values:
        return read_record(values)["metadata"]
    if not file.own:
        return dict(file.strings)
    metadata = json.loads(file.strings.get("metadata", "{}"))
    if not isinstance(metadata, dict):
        message = "has metadata that are not a dict."
        raise ValueError(message)
    return metadata


def read_record(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the record of a checkpoint: version, step, state, rng_state and metadata."""
    record = json.loads(values[RECORD].tobytes()) if RECORD in values else None
    record = {"version": 1, **record} if isinstance(record, dict) else {}
    if record.keys() != _KINDS.keys() or not all(
        isinstance(record[name], kind) for name, kind in _KINDS.items()
    ):
        message = "is not a checkpoint."
        raise ValueError(message)
    return record


def entries_of_net(file: Reader) -> dict[str, Entry]:
    """Return the entries of the network, without those that only a checkpoint has."""
    checkpoint = RECORD in file.entries
    return {k: e for k, e in file.entries.items() if not (checkpoint and k.startswith(APART))}


def check_fit(net: Layer, entries: Mapping[str, Entry], *, cast: bool = False) -> None:
    """Check that a file has the arrays of a network; the error lists all mismatches."""
    arrays, faults = net.arrays, []
    both = [name for name in arrays if name in entries]
    missing = [name for name in arrays if name not in entries]
    unexpected = [name for name in entries if name not in arrays]
    if missing:
        faults.append(f"missing in the file: {', '.join(missing)}")
    if unexpected:
        faults.append(f"not in the network: {', '.join(unexpected)}")
    for name in both:
        saved, expected = entries[name].shape, tuple(arrays[name].shape)
        if saved != expected:
            faults.append(f"{name} has shape {saved} in the file, {expected} in the network")
    mismatches = []
    for name in both:
        saved, expected = entries[name].dtype, dtype_name(arrays[name].dtype)
        if not _castable(saved, expected, cast or not is_materialized(net, name)):
            mismatches.append((saved, expected))
            faults.append(f"{name} is {saved} in the file, {expected} in the network")
    if any(_kind(saved) == _kind(expected) for saved, expected in mismatches):
        faults.append("call net.to(dtype=...) before, or load(path, net, cast=True)")
    if faults:
        message = f"does not match the network: {'; '.join(faults)}."
        raise ValueError(message)


def _castable(saved: str, expected: str, cast: bool) -> bool:
    """Whether values of the dtype `saved` may be cast to `expected`."""
    kind = _kind(saved)
    return saved == expected or (kind == _kind(expected) and (kind == "integer" or cast))


def _kind(dtype: str) -> str:
    return "floating" if "float" in dtype else "integer" if "int" in dtype else dtype


def is_materialized(net: Layer, name: str) -> bool:
    """Whether an array of the network is materialized; else it will move to the first input."""
    return net._all_variables[name.rpartition(".")[0]].materialized


def converted_like(net: Layer, values: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return `values` with library, device and layout of the arrays of a network."""
    arrays = {}
    for name, old in net.arrays.items():
        new, dtype = _with_layout(values[name], old), dtype_name(old.dtype)
        if _kind(dtype) == "integer":
            if np.any(new.astype(dtype) != new):
                message = f"{name} has values beyond the {dtype} of the network."
                raise ValueError(message)
            new = new.astype(dtype)
        arrays[name] = asarray(new, old) if is_materialized(net, name) else new
    return arrays


def _with_layout(values: np.ndarray, old: Array) -> np.ndarray:
    """Return `values` with the memory layout (order of axes) of `old`.

    Matrix products depend on it in the last bits, and so would a resumed run.
    """
    stride = getattr(old, "stride", None)  # a method of tensors; JAX has no strides
    strides = stride() if stride else getattr(old, "strides", (0,) * len(old.shape))
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return np.asarray(values.transpose(order), order="C").transpose(np.argsort(order))


def put(net: Layer, arrays: Mapping[str, Array]) -> None:
    """Set the arrays of a network."""
    net.params.update({name: arrays[name] for name in net.params})
    net.buffers.update({name: arrays[name] for name in net.buffers})
    net.zero_grads()
