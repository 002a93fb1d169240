"""Arrays that go from one library, device or dtype to another, when somebody asks for it."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from xplayers._checks import shown
from xplayers.arrays.checks import check_dtype, converted
from xplayers.arrays.namespaces import (
    DTYPES,
    Array,
    DType,
    Namespace,
    as_namespace,
    dtype_name,
    has_other_arithmetic,
    is_floating,
    library_name,
    named_dtype,
    namespace,
)
from xplayers.arrays.namespaces import device as device_of


def as_plain(a: Array) -> Array:
    """Return an array of a subclass of NumPy's that computes as those do as the array that it is.

    As of a file that is mapped to memory. Bodies and replays know arrays by their type.
    """
    if type(a) is np.ndarray or not isinstance(a, np.ndarray):
        return a
    own = type(a).__array_ufunc__ is not np.ndarray.__array_ufunc__
    return a if own or has_other_arithmetic(a) else a.view(np.ndarray)


def to_numpy(x: Array) -> np.ndarray:
    """Return the values of `x`, of any library, as a NumPy array on the host (a transfer).

    bfloat16, which NumPy does not have, comes as float32.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x = np.asarray([1.0, 2.0])  # or a tensor of PyTorch, an array of JAX or CuPy
    >>> xl.to_numpy(x)
    array([1., 2.])
    """
    if type(x) is np.ndarray:
        return x
    xp = namespace(x, "to_numpy")
    if isinstance(x, np.ndarray):
        return x
    if array_api_compat.is_torch_array(x):
        x = x.detach()
    if dtype_name(x.dtype) == "bfloat16":
        x = xp.astype(x, xp.float32)
    if array_api_compat.is_cupy_array(x):
        return x.get()
    if array_api_compat.is_torch_array(x):
        return x.cpu().numpy()
    if hasattr(x, "unwrap_numpy"):  # of ndonnx, where the values are known
        return x.unwrap_numpy()
    try:
        return np.asarray(x)
    except (RuntimeError, TypeError):  # array-api-strict away from its CPU device, dpnp
        return np.from_dlpack(x, device="cpu")


def asarray(values: np.ndarray, like: Array, dtype: DType = None) -> Array:
    """Return host `values` as an array of the library and device of `like` (an upload)."""
    return _upload(values, namespace(like), device_of(like), dtype or like.dtype)


def move(
    x: Array, *, like: Array = None, xp: Namespace = None, device: Any = None, dtype: DType = None
) -> Array:
    """Return a copy of `x` in another library, on another device or of another dtype.

    Parameters
    ----------
    x : array
        Of any library.
    like : array, optional
        Take library and device from this array, and its dtype where both are floating-point.
    xp : module, optional
        The library to go to, for example ``numpy``, ``cupy``, ``torch`` or ``jax.numpy``.
    device : optional
        A device of that library.
    dtype : optional
        A dtype of that library, or its name.

    Returns
    -------
    array
        Never shares memory with `x`.

    Notes
    -----
    The values go through the host, which is right for every pair of libraries. DLPack would save
    a copy, but it shares memory where a copy was asked for (``jnp.from_dlpack(copy=True)``) and
    aborts the process on negative strides (``torch.from_dlpack``).

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x = np.asarray([1, 2, 3])
    >>> y = xl.move(x, dtype="float32")
    >>> y, np.shares_memory(x, y)
    (array([1., 2., 3.], dtype=float32), False)
    """
    namespace(x, "move")
    if dtype_name(x.dtype) not in DTYPES:
        message = f"move: x is {x.dtype}; expected numbers. {converted('x', x.dtype, 'float32')}"
        raise TypeError(message)
    floating = is_floating(x)
    if like is not None:
        namespace(like, "move", "like")
        xp, device = (
            namespace(like),
            device if device is not None else device_of(like),
        )
        if dtype is None and floating and is_floating(like):
            dtype = like.dtype
    target = namespace(x) if xp is None else as_namespace(xp)
    if device is None and target is namespace(x):
        device = array_api_compat.device(x)
    if dtype is None and dtype_name(x.dtype) == "bfloat16":
        dtype = named_dtype(target, "bfloat16") or target.float32  # the host values are float32
    if isinstance(dtype, str):
        known = named_dtype(target, dtype) if dtype in DTYPES else None
        if known is None:
            message = f"move: {library_name(target)} has no dtype {dtype!r}."
            raise TypeError(message)
        dtype = known
    elif dtype is not None:
        check_dtype("move", dtype)
    return _upload(to_numpy(x), target, device, dtype)


def _upload(values: np.ndarray, xp: Namespace, device: Any, dtype: DType) -> Array:
    """Return host `values` as a new array of `xp`; `dtype` None: as `values` (JAX: its 32 bits)."""
    name = None if dtype is None else dtype_name(dtype)
    if name not in (None, "bfloat16"):  # on the host: the device may not have the dtype of `values`
        values = np.asarray(values, dtype=name)
    if dtype_name(values.dtype) == "bfloat16":  # of ml_dtypes, which not every library reads
        values = values.astype(np.float32)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if any(stride < 0 for stride in values.strides) or not values.flags.writeable:
        values = values.copy()  # torch refuses the first and warns of the second
    if device not in (None, "cpu") and xp is np:
        message = (
            f"numpy has no device {shown(device)}; name the library of the device: "
            f"xp=torch, device={shown(device)}."
        )
        raise TypeError(message)
    there = xp.asarray(values, device=device, copy=True)
    return there if dtype is None or there.dtype == dtype else xp.astype(there, dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that there is no more memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:  # of Python, NumPy and CuPy; of PyTorch's GPUs
        return True
    said = (
        "RESOURCE_EXHAUSTED",
        "can't allocate memory",
        "not enough memory",
    )  # JAX; PyTorch's CPU
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
