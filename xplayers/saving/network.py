"""Networks in files: `save` and `load`, in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from xplayers._checks import constructor_call, flag, shown
from xplayers.arrays.namespaces import Array, asarray, dtype_name
from xplayers.layers.base import Layer
from xplayers.saving.files import AnyPath, in_full
from xplayers.saving.safetensors import Entry, Reader, reading, write

__all__ = ["load", "read_metadata", "save"]

# A checkpoint has the arrays of its network by their names, and everything else below this.
APART = "checkpoint/"
RECORD = APART + "record"  # JSON, in an array since it may be longer than a header
# In version 1, which did not say so, Adam had m / (1 - beta1) and v / (1 - beta2).
_KINDS = {
    "version": int, "step": int, "state": dict | None, "rng_state": dict | None, "metadata": dict,
}  # fmt: skip


def save(path: AnyPath, net: Layer, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the parameters and buffers of a network to a file, atomically.

    Parameters
    ----------
    path : str or path-like
        The file; ``net.safetensors``, for example; ``~`` is a home. One that is there is replaced
        in the instant in which the new one is complete: an error, a full disk or a kill leaves it
        as it was. Its mode stays, and where it is a link, what that leads to is replaced.
    net : Layer
        The network; its arrays may be of any library and on any device.
    metadata : mapping, optional
        What JSON can hold, and NumPy numbers. Tuples come back as lists, keys as strings. NaN and
        infinities are written as Python's ``json`` does.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `path` is a folder, a pipe or a device, or the metadata are longer than 2 MiB.
    TypeError
        If `path` is no path or `net` no layer, JSON has no form for the metadata, or the format
        none for a dtype.

    See Also
    --------
    load, Checkpoint

    Notes
    -----
    The format is safetensors, which holds no code: the ``safetensors`` library reads the file, so
    that ``safetensors.torch.load_file(path)`` is a dict of torch tensors by the names of
    ``net.params`` and ``net.buffers``. bfloat16 stays bfloat16. Beside the arrays there are
    ``repr(net)``, for people; a version of the format; and a SHA-256 sum over names, dtypes,
    shapes, values and metadata. The sum tells damage, not who wrote the file.

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


def load(
    path: AnyPath, net: Layer | None = None, *, cast: bool = False, verify: bool = True
) -> dict[str, Any]:
    """Read the parameters and buffers of a network from a file of `save` or `Checkpoint`.

    Everything is checked before the network is touched. The values come to where the arrays of the
    network are: library, device, and layout in memory. Gradients and pending passes are forgotten.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is a home.
    net : Layer
        A network with the names and shapes of the one that was saved, made by the same code. It has
        to be given.
    cast : bool
        Whether floating-point values may change to the dtype that the network has. Integers, whose
        widths differ between libraries, always may where none of their values is lost.
    verify : bool
        Whether to insist on the checksum. False also reads a safetensors file which xplayers did
        not write.

    Returns
    -------
    dict
        The metadata given to `save`. Of a file of others: its own, a dict of strings.

    Raises
    ------
    ValueError
        If the file is none of the format, damaged, cut off or not written by xplayers; or if names,
        shapes or dtypes do not fit the network: all that do not are listed. It names the file.
    OSError
        If the file cannot be read.
    TypeError
        If `path` is no path, or `net` no layer.

    See Also
    --------
    save, read_metadata

    Notes
    -----
    A network that has no place yet (from ``init``, before the first input) takes the values in the
    dtype of the file, bfloat16 as float32, and follows its first input as before.

    Loading a file runs no code, unlike ``torch.load`` or ``pickle``. Where PyTorch's
    ``load_state_dict`` writes into the tensors of the module, here the network gets new arrays.
    """
    if net is None:
        message = (
            "load: net is missing. A file has arrays and no code: make the network again as it was "
            "made, and call load(path, net)."
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
        arrays = at_home(net, values)
    put(net, arrays)
    return metadata


def read_metadata(path: AnyPath, *, verify: bool = True) -> dict[str, Any]:
    """Return the metadata of a file of `save` or `Checkpoint`, without a network to load it into.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is a home. It is read whole, in pieces, and its checksum is checked.
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
    """
    path = in_full(path, "read_metadata")
    flag("read_metadata", "verify", verify)
    with reading(path, verify=verify) as file:
        return _metadata(file, file.read({RECORD}))


def _file(owner: str, path: Any, net: Any) -> str:
    """Check a network and its file, which people mistake for each other."""
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
        hint = "Pass the network itself, whose arrays these are."
    message = f"{owner}: net is {kind}; expected a layer, as Sequential. {hint}".rstrip()
    raise TypeError(message)


def as_dict(owner: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as a dict."""
    if metadata is not None and not isinstance(metadata, Mapping):
        message = f"{owner}: metadata is a {type(metadata).__name__}; expected a dict."
        raise TypeError(message)
    return dict(metadata or {})


def to_json(value: Any) -> str:
    """Return `value` as JSON; NumPy's numbers are numbers."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    message = (
        f"save: metadata has a {type(value).__name__}, which JSON cannot hold; "
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
        message = "has metadata that are no dict."
        raise ValueError(message)
    return metadata


def read_record(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a checkpoint has beside arrays: step, state, rng_state and metadata."""
    record = json.loads(values[RECORD].tobytes()) if RECORD in values else None
    record = {"version": 1, **record} if isinstance(record, dict) else {}
    if record.keys() != _KINDS.keys() or not all(
        isinstance(record[name], kind) for name, kind in _KINDS.items()
    ):
        message = "is no checkpoint."
        raise ValueError(message)
    return record


def entries_of_net(file: Reader) -> dict[str, Entry]:
    """Return the entries of a file without those that a checkpoint has beside the network."""
    checkpoint = RECORD in file.entries
    return {k: e for k, e in file.entries.items() if not (checkpoint and k.startswith(APART))}


def check_fit(net: Layer, entries: Mapping[str, Entry], *, cast: bool = False) -> None:
    """Check that a file holds the arrays of a network, and list all that does not fit."""
    arrays, faults = net.arrays, []
    both = [name for name in arrays if name in entries]
    missing = [name for name in arrays if name not in entries]
    unexpected = [name for name in entries if name not in arrays]
    if missing:
        faults.append(f"missing in the file: {', '.join(missing)}")
    if unexpected:
        faults.append(f"not in the network: {', '.join(unexpected)}")
    for name in both:
        there, here = entries[name].shape, tuple(arrays[name].shape)
        if there != here:
            faults.append(f"{name} has shape {there} in the file, {here} in the network")
    other = []
    for name in both:
        there, here = entries[name].dtype, dtype_name(arrays[name].dtype)
        if not _may_become(here, there, cast or not is_placed(net, name)):
            other.append((here, there))
            faults.append(f"{name} is {there} in the file, {here} in the network")
    if any(_kind(here) == _kind(there) for here, there in other):
        faults.append("call net.to(dtype=...) before, or load(path, net, cast=True)")
    if faults:
        message = f"does not fit the network: {'; '.join(faults)}."
        raise ValueError(message)


def _may_become(here: str, there: str, cast: bool) -> bool:
    """Whether values of the dtype `there` may become those of `here`."""
    kind = _kind(here)
    return here == there or (kind == _kind(there) and (kind == "integer" or cast))


def _kind(dtype: str) -> str:
    return "floating" if "float" in dtype else "integer" if "int" in dtype else dtype


def is_placed(net: Layer, name: str) -> bool:
    """Whether an array of the network has its place; else it will follow the first input."""
    return net._stores[name.rpartition(".")[0]].materialized


def at_home(net: Layer, values: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return the arrays of a network with the host `values`, where the present ones are."""
    arrays = {}
    for name, old in net.arrays.items():
        new, dtype = _laid_out(values[name], old), dtype_name(old.dtype)
        if _kind(dtype) == "integer":
            if np.any(new.astype(dtype) != new):
                message = f"{name} has values beyond the {dtype} of the network."
                raise ValueError(message)
            new = new.astype(dtype)
        arrays[name] = asarray(new, old) if is_placed(net, name) else new
    return arrays


def _laid_out(values: np.ndarray, old: Array) -> np.ndarray:
    """Return `values` with their axes in memory in the order of `old`.

    Products of a matrix in another order differ in the last bits, and so would training that goes
    on from a file.
    """
    strides = old.stride() if callable(getattr(old, "stride", None)) else _strides(old)
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return np.asarray(values.transpose(order), order="C").transpose(np.argsort(order))


def _strides(old: Array) -> tuple[int, ...]:
    return getattr(old, "strides", (0,) * len(old.shape))  # JAX has none


def put(net: Layer, arrays: Mapping[str, Array]) -> None:
    """Give a network new arrays."""
    net.params.update({name: arrays[name] for name in net.params})
    net.buffers.update({name: arrays[name] for name in net.buffers})
    net.zero_grads()
