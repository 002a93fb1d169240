"""Every kernel, compiled by NVRTC for four generations of GPUs: it needs no GPU and no driver.

``nox -s nvrtc`` brings the compiler; elsewhere these tests are skipped.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from cuda_cases import (
    ARCHITECTURES,
    CASES,
    EXACT,
    GRADIENTS,
    NORMALIZATIONS,
    POOLING,
    SUMS,
    THERE,
    dtype_of,
    in_one,
)

from xplayers.accelerate.cuda import (
    gradients,
    normalization,
    pooling,
    softmax_cross_entropy,
    sums,
)
from xplayers.accelerate.cuda.source import OPTIONS, THREADS, inside, library
from xplayers.optimizers.base import _apply as apply_rule
from xplayers.optimizers.base import _apply_if as apply_if
from xplayers.optimizers.clipping import _times
from xplayers.training.precision import _rounded, _unscaled

# What CuPy adds to the options of a kernel, after them.
OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")

nvrtc = pytest.importorskip(
    "cuda.bindings.nvrtc", reason="NVRTC is not installed: nox -s nvrtc", exc_type=ImportError
)


def checked(returned):
    error, *values = returned
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, error
    return values[0] if values else None


def is_there() -> bool:
    try:
        checked(nvrtc.nvrtcVersion()[:2])
    except RuntimeError:  # the Python package without the library
        return False
    return True


pytestmark = pytest.mark.skipif(not is_there(), reason="NVRTC is not installed: nox -s nvrtc")


@functools.cache
def compiled(text, architecture):
    """Return the PTX of the source and what the assembler says, by kernel."""
    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], []))
    options = [f"-arch={architecture}", *OPTIONS, *OF_CUPY, "--ptxas-options=-v"]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()[:4000]
    assert checked(nvrtc.nvrtcGetCUBINSize(program))
    ptx = b" " * checked(nvrtc.nvrtcGetPTXSize(program))
    checked(nvrtc.nvrtcGetPTX(program, ptx))
    nvrtc.nvrtcDestroyProgram(program)
    entries = re.split(r"(?=\.visible \.entry )", ptx.decode())[1:]
    assembled = re.split(r"Compiling entry function '", log.decode())[1:]
    return (
        {re.match(r"\.visible \.entry (\w+)", e)[1]: e for e in entries},
        {a.partition("'")[0]: a for a in assembled},
    )


def kernels():
    return {
        (case, dtype): case.kernel(dtype, f"{i}_{dtype}")
        for i, case in enumerate(CASES)
        for dtype in THERE
    }


@functools.cache
def everything(architecture):
    text = "\n".join([library(), *[k.body for k in kernels().values()]])
    return compiled(text, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generated_kernels(architecture):
    """They compile, and four blocks fit into the registers of a multiprocessor."""
    entries, assembled = everything(architecture)
    names = {k.name for k in kernels().values()}
    assert names == set(entries) == set(assembled)
    for name, words in assembled.items():
        assert_lean(name, words)


def assert_lean(name, words, registers=65_536 // (4 * THREADS), spilled=64):
    """Some spill a value or two, which the assembler does to let one more block in."""
    assert int(re.search(r"Used (\d+) registers", words)[1]) <= registers, name
    assert int(re.search(r"(\d+) bytes spill stores", words)[1]) <= spilled, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_rows(architecture):
    """Those of what is called so; addresses are read from the arguments, not from a copy."""
    used = [c for c in CASES if c.function in (apply_rule, apply_if, _rounded, _unscaled, _times)]
    kernels = [
        case.kernel(dtype, f"{i}_{dtype}_rows", rows=True)
        for i, case in enumerate(used)
        for dtype in THERE
    ]
    entries, assembled = compiled("\n".join([library(), *[k.body for k in kernels]]), architecture)
    assert {k.name for k in kernels} == set(entries)
    for name, words in assembled.items():
        assert_lean(name, words, registers=80 if "float64" in name else 64)
        assert int(re.search(r"(\d+) bytes stack frame", words)[1]) <= 64, name


WIDE = {"float64": "float64"}  # the others are float32 inside
SOFTMAX = [
    (scores, target, gradient, labels, warps, held, labels and not smooth, weights)
    for scores in THERE
    for target, gradient, labels in (
        ("int32", WIDE.get(scores, "float32"), True),
        ("int64", scores, True),
        ("bool", WIDE.get(scores, "float32"), False),
        (scores, scores, False),
    )
    for warps, held, smooth, weights in (
        (1, 1, False, False), (1, 16, False, False), (8, 4, False, False), (8, 16, False, False),
        (8, 0, False, False), (1, 16, False, True), (8, 16, True, True),
    )
]  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_asked_of_all_gradients(architecture):
    cases = {f"gradients_{i}": case for i, case in enumerate(GRADIENTS)}
    entries, assembled = compiled(in_one(gradients, cases), architecture)
    assert set(entries) == set(cases)
    for name, (_, dtype, _) in cases.items():
        assert_lean(name, assembled[name])
        wide = re.findall(r"ld\.global(?:\.nc)?\.v\d", entries[name])
        assert len(wide) == gradients.CHUNK * dtype.itemsize // (16 * THREADS), name  # all at once


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_softmax_cross_entropy(architecture):
    """Three blocks of 256 threads find room, of float64 two: the kernels ask for that."""
    cases = {
        f"softmax_{i}": (
            *map(dtype_of, case[:3]),
            *case[3:7],
            dtype_of("float32") if weights else None,
        )
        for i, (*case, weights) in enumerate(SOFTMAX)
    }
    entries, assembled = compiled(in_one(softmax_cross_entropy, cases), architecture)
    assert set(entries) == set(cases)
    for name, (scores, *_) in cases.items():
        assert_lean(name, assembled[name], registers=128 if scores == np.float64 else 80)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pooling(architecture):
    """Four blocks find room, three where indices are of 64 bits."""
    cases = {f"pooling_{i}": case for i, case in enumerate(POOLING)}
    entries, assembled = compiled(in_one(pooling, cases), architecture)
    assert set(entries) == set(cases)
    for name, (*_, kind) in cases.items():
        assert_lean(name, assembled[name], registers=80 if kind == "i64" else 64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_normalization(architecture):
    """What a thread keeps of a row lies in registers."""
    cases = {f"normalization_{i}": case for i, case in enumerate(NORMALIZATIONS)}
    entries, assembled = compiled(in_one(normalization, cases), architecture)
    assert set(entries) == set(cases)
    for name, (operation, dtype, *_) in cases.items():
        resident = normalization._RESIDENT[operation, inside(dtype).itemsize]
        assert_lean(name, assembled[name], registers=65_536 // resident)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sums(architecture):
    """Four blocks find room, and a thread asks for four packs at once."""
    cases = {f"sums_{i}": case for i, case in enumerate(SUMS)}
    entries, assembled = compiled(in_one(sums, cases), architecture)
    assert set(entries) == set(cases)
    for name, (width, *_) in cases.items():
        assert_lean(name, assembled[name])
        wide = re.findall(r"ld\.global(?:\.nc)?\.v\d", entries[name])
        assert len(wide) == (4 if width > 1 else 0), name


@pytest.mark.parametrize("case", EXACT, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_exactly_rounded_stays_so(case, dtype):
    """No product and sum become one operation, and no quotient or root is approximate."""
    entry = everything("sm_80")[0][kernels_by_case()[case, dtype].name]
    assert "fma" not in entry
    assert "approx" not in entry


def test_the_options_are_those_of_cupy(monkeypatch):
    compiler = pytest.importorskip("cupy.cuda.compiler")
    seen = []

    class Program:
        def __init__(self, *args, **options):
            self.compile = self.asked

        def asked(self, options, log=None):
            seen.append(options)
            raise compiler.CompileException("seen", "", "", (), "nvrtc")

    monkeypatch.setattr(compiler, "_NVRTCProgram", Program)
    monkeypatch.setattr(
        compiler, "_get_arch_for_options_for_nvrtc", lambda arch: ("-arch=sm_90", "cubin")
    )
    with pytest.raises(compiler.CompileException):
        compiler._compile_using_nvrtc_no_warning("", (*OPTIONS, "-ftz=true"), arch="90")
    own = [o for o in seen[0] if o.startswith("-arch") or o == "--pch"]
    assert [o for o in seen[0] if o not in own] == [*OPTIONS, *OF_CUPY]
    names = compiler._compile_with_cache_cuda.__code__.co_consts
    assert ("-ftz=true",) in names


@functools.cache
def kernels_by_case():
    return kernels()


@pytest.mark.parametrize("dtype", THERE)
@pytest.mark.parametrize("case", [c for c in CASES if not {*"kb"} & {*c.operands}], ids=repr)
def test_accesses_of_16_bytes(case, dtype):
    """Those of each array of floats (of a truth value the compiler may make two loops)."""
    kernel = kernels_by_case()[case, dtype]
    entry = everything("sm_80")[0][kernel.name]
    bits = r"\.global(?:\.nc)?\.v(\d)\.\w(\d+)"
    loads, stores = (
        [int(n) * int(b) for n, b in re.findall(f"{kind}{bits}", entry)] for kind in ("ld", "st")
    )
    arrays = [dtype_of(dtype) for o in case.operands if o in ("x", "p", "r")]
    results = [d for d in kernel.result_dtypes if d != np.bool_]
    assert loads.count(128) == sum(kernel.width * d.itemsize // 16 for d in arrays)
    assert stores.count(128) == sum(kernel.width * d.itemsize // 16 for d in results)
