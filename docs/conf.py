"""The documentation: `nox -s docs` builds it, with all code in its pages run."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# For the kernels that run the pages: the package of this clone, what draws, and how it looks.
paths = [str(HERE.parent), str(HERE / "_ext"), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the networks are small
    os.environ.setdefault(threads, "1")
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the kernel warns of frozen modules

from sphinx.util import inspect  # noqa: E402

import xplayers  # noqa: E402

project = "xplayers"
author = copyright = "The xplayers developers"
version = release = xplayers.__version__

extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_nb",
    "mathml", "example_pages", "public_names", "shared_kernels",
]  # fmt: skip
exclude_patterns = ["_build", "_ext", "**.ipynb"]

html_theme = "furo"
html_title = f"xplayers {release}"
html_static_path = ["_static"]
html_css_files = ["xplayers.css"]
html_math_renderer = "mathml"  # in the page: no script, no network
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

default_role = "py:obj"  # `x` in a docstring: a name of the package, or else code
add_module_names = False
autodoc_typehints = "none"  # the docstrings say what arguments are
autodoc_member_order = "bysource"
autosummary_generate = False  # the tables link to the entries of the same page
numpydoc_show_class_members = False


def signature(app, what, name, obj, options, given, returns):
    """Take the signature of `__init__` for a class whose `__new__` takes anything."""
    if what == "class" and given == "(*args, **kwargs)":
        found = inspect.signature(obj.__init__, bound_method=True)
        return inspect.stringify_signature(found, show_annotation=False), None
    return None


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", signature)
