"""SciPy takes arrays of other libraries only if this is said before it is imported."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")
