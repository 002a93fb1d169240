"""A trained network as an ONNX file, which other programs run.

With onnxruntime installed it computes what the file says, for a batch of another size.
"""

import tempfile
from pathlib import Path

import onnx

import xplayers as xl
from xplayers.onnx import export

(x, t), (x_test, t_test) = xl.data.load_digits(flatten=False)
net = xl.Sequential(
    xl.Convolution.init(1, 16, 3, padding=1, rng=0),
    xl.BatchNormalization.init(16),
    xl.Relu(),
    xl.MaxPooling(2),
    xl.Affine.init(16 * 4 * 4, 10, rng=1),
)
trainer = xl.Trainer(
    net, xl.SoftmaxWithLoss(), xl.Adam(lr=0.01), batch_size=100, epochs=5, seed=0, progress=False
)
trainer.fit(x, t)

# With probabilities instead of scores, for batches of any size.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.onnx"
    export(xl.Sequential(*net, xl.Softmax()), path, x[:1])
    file = path.read_bytes()
graph = onnx.load_from_string(file).graph
sizes = graph.input[0].type.tensor_type.shape.dim
print("input:", " x ".join(str(size.dim_param or size.dim_value) for size in sizes))
print("nodes:", ", ".join(node.op_type for node in graph.node))

try:
    import onnxruntime
except ImportError:
    print("not computed: onnxruntime is not installed")
else:
    (y,) = onnxruntime.InferenceSession(file).run(None, {"x": x_test})
    print("accuracy of onnxruntime on held-out digits:", round(float(xl.accuracy(y, t_test)), 3))
    difference = abs(y - xl.functional.softmax(net.predict(x_test))).max()
    print(f"largest difference from the network: {difference:.0e}")
