"""The emulated cuBLASLt has the numbers and the signatures of nvmath-python's bindings."""

from __future__ import annotations

import numpy as np
import pytest
from emulator.emulated_gpu import EmulatedCublasLt

from xplayers.accelerate.cuda import layouts


def test_the_numbers_are_those_of_nvidia():
    """They are written down twice: what is sent, and what the emulated library understands."""
    pytest.importorskip("nvmath")
    from nvmath import CudaDataType
    from nvmath.bindings import cublas, cublasLt

    for name in ("MatmulDescAttribute", "MatrixLayoutAttribute", "MatmulPreferenceAttribute",
                 "Epilogue"):  # fmt: skip
        theirs = getattr(cublasLt, name)
        for ours in getattr(EmulatedCublasLt, name):
            assert theirs[ours.name] == ours, f"{name}.{ours.name}"
    for kind in layouts.EPILOGUES.values():
        assert kind.name in EmulatedCublasLt.Epilogue.__members__
        assert kind.name in cublasLt.Epilogue.__members__
    lt = EmulatedCublasLt()
    for name in ("matmul_desc", "matrix_layout", "matmul_preference"):
        words = "".join(word.capitalize() for word in name.split("_"))
        dtype = f"get_{name}_attribute_dtype"
        for attribute in getattr(EmulatedCublasLt, f"{words}Attribute"):
            mine = getattr(lt, dtype)(attribute)
            assert np.dtype(mine) == np.dtype(getattr(cublasLt, dtype)(attribute)), attribute
    theirs = cublasLt.matmul_heuristic_result_dtype
    assert theirs == lt.matmul_heuristic_result_dtype
    types = {"float32": "R_32F", "float64": "R_64F", "float16": "R_16F", "bfloat16": "R_16BF"}
    for dtype, number in layouts.DATA_TYPES.items():
        assert CudaDataType[f"CUDA_{types[dtype]}"] == number
    names = {
        "float32": "COMPUTE_32F", "float64": "COMPUTE_64F", "tf32": "COMPUTE_32F_FAST_TF32",
        "bfloat16": "COMPUTE_32F_FAST_16BF",
    }  # fmt: skip
    for (_, compute), number in layouts.COMPUTE_TYPES.items():
        assert cublas.ComputeType[names[compute]] == number


def test_the_calls_have_the_arguments_of_the_bindings():
    """Compiled bindings show their signatures in their docstrings alone."""
    pytest.importorskip("nvmath")
    from nvmath.bindings import cublasLt

    for name in dir(EmulatedCublasLt):
        function = getattr(EmulatedCublasLt, name)
        if name.startswith("_") or not callable(function) or isinstance(function, type):
            continue
        theirs = getattr(cublasLt, name).__doc__.partition("(")[2].partition(")")[0]
        ours = function.__code__.co_argcount - 1
        assert ours == len([a for a in theirs.split(",") if a.strip()]), name
