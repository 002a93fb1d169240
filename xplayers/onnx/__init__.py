"""Networks as ONNX files, which many programs run: `export`; and training steps: `export_step`.

The extra is ``xplayers[onnx]``. Layers of your own are written by rules of your own, or traced.
"""

try:
    from onnx import checker  # noqa: F401
except ImportError as error:
    message = 'xplayers.onnx needs onnx: pip install "xplayers[onnx]"'
    raise ImportError(message) from error

from xplayers.onnx.exporting import export
from xplayers.onnx.graph import Graph, Value
from xplayers.onnx.training import export_step

__all__ = ["Graph", "Value", "export", "export_step"]
