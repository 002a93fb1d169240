"""A warning, which fails the build, for each public name without an entry in the reference."""

from sphinx.util import logging

import xplayers
from xplayers import cuda, data, functional, initializers, models, onnx, parallel, schedules

MODULES = (functional, initializers, schedules, data, models, parallel, cuda, onnx)


def check(app, env):
    """Compare what the modules offer with what the pages document."""
    documented = set(env.get_domain("py").objects)
    public = {f"xplayers.{name}" for name in xplayers.__all__}
    public |= {
        f"{module.__name__}.{name}"
        for module in MODULES
        for name in module.__all__
        if not hasattr(xplayers, name)  # the package has it too, and that is documented
    }
    for name in sorted(public - documented):
        logging.getLogger(__name__).warning("%s is public, and no page documents it.", name)


def setup(app):
    """Check once all pages are read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
