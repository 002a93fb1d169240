"""Mistakes, and what is said about each: the layer, what was expected, what came, the fix."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import needs_values, says, values

import xplayers as xl
from xplayers.arrays.namespaces import namespace


def affine(xpv, n_in=784, n_out=100):
    return xl.Affine.init(n_in, n_out, rng=0, like=xpv.asarray([0.0], "float32"))


def x32(xpv, shape):
    return xpv.asarray(np.ones(shape), "float32")


class TestShapes:
    def test_wrong_width(self, xpv):
        message = says("Affine(784 -> 100): x has shape (32, 783); expected (n, 784).") + "$"
        with pytest.raises(ValueError, match=message):
            affine(xpv).forward(x32(xpv, (32, 783)))

    @pytest.mark.parametrize("shape", [(32, 2, 28, 27), (32, 56, 27)])
    def test_wrong_width_of_images(self, xpv, shape):
        message = says(
            f"Affine(784 -> 100): x has shape {shape}, which flattens to (32, 1512); "
            "expected (n, 784)."
        )
        with pytest.raises(ValueError, match=message):
            affine(xpv).predict(x32(xpv, shape))

    @pytest.mark.parametrize("shape", [(784,), ()])
    def test_a_single_sample(self, xpv, shape):
        message = (
            says(f"x has shape {shape}; expected (n, 784). A single sample is x[None, :].") + "$"
        )
        with pytest.raises(ValueError, match=message):
            affine(xpv).forward(x32(xpv, shape))

    def test_sequences_of_the_wrong_width(self):
        layer = xl.Affine.init(5, 3, flatten=False)
        with pytest.raises(ValueError, match=says("x has shape (2, 4, 6); expected (..., 5).")):
            layer.forward(np.ones((2, 4, 6), "float32"))

    def test_wrong_upstream_gradient(self, xpv):
        layer = xl.Relu()
        layer.forward(x32(xpv, (2, 3)))
        message = says("Relu.backward: dy has shape (2, 1); expected (2, 3).")
        with pytest.raises(ValueError, match=message):
            layer.backward(x32(xpv, (2, 1)))

    def test_a_bias_of_another_shape(self, xpv):
        W = x32(xpv, (4, 3))
        for shape in [(1, 3), (4,), (), (3, 1)]:
            message = says(f"Affine: b has shape {shape}; expected (3,) for W.")
            with pytest.raises(ValueError, match=message):
                xl.Affine(W, x32(xpv, shape))

    def test_weights_of_another_number_of_axes(self, xpv):
        message = says("Affine: W has shape (4,); expected (n_in, n_out).")
        with pytest.raises(ValueError, match=message):
            xl.Affine(x32(xpv, (4,)), x32(xpv, (4,)))

    def test_flatten_of_a_scalar(self, xpv):
        with pytest.raises(ValueError, match=says("Flatten: x has shape (); expected (n, ...).")):
            xl.Flatten().forward(x32(xpv, ()))


class TestKinds:
    @pytest.mark.parametrize("x", [[[1.0, 2.0]], 3.0, 1, None, "x", (1.0,), np.float64(2.0)])
    def test_lists_and_scalars(self, x):
        kind = type(x).__name__
        with pytest.raises(TypeError, match=f"Relu: x is a {kind}; expected an array of numpy"):
            xl.Relu().forward(x)
        with pytest.raises(TypeError, match=f"x is a {kind}; expected an array"):
            xl.mlp([2, 1]).predict(x)

    def test_integers(self, xpv):
        x = xpv.asarray(np.ones((2, 3), "int32"))
        for layer in (xl.Relu(), xl.Sigmoid(), xl.mlp([3, 2], rng=0)):
            with pytest.raises(TypeError, match="int32; expected floating-point values. Convert"):
                layer.forward(x)
        with pytest.raises(TypeError, match=r"SoftmaxWithLoss: scores is .*int32; expected float"):
            xl.SoftmaxWithLoss().forward(x, xpv.asarray([0, 1]))
        with pytest.raises(TypeError, match="Affine: W is .*int32; expected floating-point"):
            xl.Affine(x, xpv.asarray(np.ones(3, "int32")))

    def test_bool(self, xpv):
        with pytest.raises(TypeError, match="bool; expected floating-point"):
            xl.Relu().forward(xpv.asarray(np.asarray([True])))

    @pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix itself
    @pytest.mark.parametrize("make", [np.matrix, np.ma.masked_array])
    def test_arrays_that_compute_otherwise(self, make):
        with pytest.raises(TypeError, match=r"Relu: x is a .*; pass a plain array: np\.asarray"):
            xl.Relu().forward(make([[1.0]]))

    def test_mixed_dtypes(self, xpv):
        if "float64" not in xpv.floats:
            pytest.skip("no float64 here")
        layer = affine(xpv, 3, 2)
        message = r"Affine\(3 -> 2\): x is .*float64, W is .*float32\. Pass x as .*float32, or call"
        with pytest.raises(TypeError, match=message):
            layer.forward(xpv.asarray(np.ones((2, 3)), "float64"))
        with pytest.raises(TypeError, match=r"Affine: b is .*float64, W is .*float32; they must"):
            xl.Affine(x32(xpv, (3, 2)), xpv.asarray(np.ones(2), "float64"))
        layer.forward(x32(xpv, (2, 3)))
        with pytest.raises(TypeError, match=r"dy is .*float64; the output of forward was"):
            layer.backward(xpv.asarray(np.ones((2, 2)), "float64"))

    def test_mixed_libraries(self, xpv):
        if xpv.xp is np:
            pytest.skip("needs another library than NumPy")
        here, numpy = x32(xpv, (2, 3)), np.ones((2, 3), "float32")
        layer = affine(xpv, 3, 2)
        message = r"Affine\(3 -> 2\): x is a numpy array on the CPU, W is a .* array on .*layer\.to"
        with pytest.raises(TypeError, match=message):
            layer.forward(numpy)
        layer.forward(here)
        with pytest.raises(TypeError, match=r"Affine\(3 -> 2\)\.backward: dy is a numpy array"):
            layer.backward(np.ones((2, 2), "float32"))
        with pytest.raises(TypeError, match="Affine: b is a numpy array.*W is a"):
            xl.Affine(here, np.ones(3, "float32"))
        with pytest.raises(TypeError, match="SoftmaxWithLoss: target is a numpy array.*scores is"):
            xl.SoftmaxWithLoss().forward(here, np.asarray([0, 1]))
        with pytest.raises(TypeError, match="minibatches: t is a numpy array"):
            xl.minibatches(here, np.asarray([0, 1]), 1)
        with pytest.raises(TypeError, match="accuracy: t is a numpy array"):
            xl.accuracy(here, np.asarray([0, 1]))

    @pytest.mark.only("strict")
    def test_mixed_devices(self, xpv):
        strict = namespace(x32(xpv, (1,)))
        other = strict.Device("device2")
        layer = affine(xpv, 3, 2)
        x = xl.move(x32(xpv, (2, 3)), device=other)
        with pytest.raises(TypeError, match=r"array_api_strict array on device2, W is a"):
            layer.forward(x)
        y = layer.forward(x32(xpv, (2, 3)))
        with pytest.raises(TypeError, match="dy is a array_api_strict array on device2"):
            layer.backward(xl.move(y, device=other))
        with pytest.raises(TypeError, match="target is a array_api_strict array on device2"):
            xl.SoftmaxWithLoss().forward(y, xl.move(xpv.asarray([0, 1]), device=other))

    @pytest.mark.only("torch")
    def test_torch_tensors_on_the_tape(self, xpv):
        x = x32(xpv, (2, 3)).requires_grad_()
        with pytest.raises(TypeError, match=r"x is a torch tensor that requires grad.*x\.detach\("):
            xl.Relu().forward(x)
        layer = xl.Relu()
        layer.forward(x.detach())
        with pytest.raises(TypeError, match=r"dy is a torch tensor that requires grad.*dy\.detach"):
            layer.backward(x)
        with pytest.raises(TypeError, match=r"W is a torch tensor that requires grad"):
            xl.Affine(x, x32(xpv, (3,)))


class TestLabels:
    def loss(self, xpv, target, shape=(32, 10), **options):
        return xl.SoftmaxWithLoss(**options).forward(x32(xpv, shape), xpv.asarray(target))

    def test_a_column_of_labels(self, xpv):
        message = says(
            "SoftmaxWithLoss: labels have shape (32, 1); expected (32,) integers or (32, 10) "
            "probabilities. Use labels[:, 0]."
        )
        with pytest.raises(ValueError, match=message):
            self.loss(xpv, np.zeros((32, 1), "int64"))

    def test_float_labels(self, xpv):
        with pytest.raises(
            TypeError, match="SoftmaxWithLoss: labels are .*float32; expected integ"
        ):
            self.loss(xpv, np.zeros(32, "float32"))

    @pytest.mark.parametrize(("label", "classes"), [(10, 10), (-1, 10), (255, 3)])
    def test_labels_out_of_range(self, xpv, label, classes):
        target = np.zeros(32, "int64")
        target[7] = label
        message = (
            f"label {label} is out of range; expected 0 to {classes - 1} for {classes} classes"
        )
        with pytest.raises(ValueError, match=message):
            xl.check_labels(xpv.asarray(target), classes)
        needs_values(xpv)
        with pytest.raises(ValueError, match=message):
            self.loss(xpv, target, (32, classes))

    @pytest.mark.only("cupy")
    def test_labels_out_of_range_on_a_gpu(self, xpv):
        assert np.isnan(float(self.loss(xpv, np.full(32, 10))))

    def test_an_ignored_label_is_in_range(self, xpv):
        needs_values(xpv)
        self.loss(xpv, np.full(32, -100), ignore_index=-100)
        with pytest.raises(ValueError, match="label -1 is out of range"):
            self.loss(xpv, np.full(32, -1), ignore_index=-100)

    def test_another_number_of_samples(self, xpv):
        message = says("labels have shape (31,); expected (32,) integers or (32, 10)")
        with pytest.raises(ValueError, match=message):
            self.loss(xpv, np.zeros(31, "int64"))

    def test_scores_of_one_sample(self, xpv):
        message = says("scores have shape (10,); expected (n, c). A single sample is x[None, :].")
        with pytest.raises(ValueError, match=message):
            self.loss(xpv, np.asarray(3), shape=(10,))

    def test_ignore_index_goes_with_labels(self, xpv):
        with pytest.raises(ValueError, match="ignore_index goes with integer labels"):
            self.loss(xpv, np.ones((32, 10), "float32"), ignore_index=0)

    def test_class_weights_of_another_length(self, xpv):
        with pytest.raises(ValueError, match=says("class_weights has shape (3,); expected (10,)")):
            self.loss(xpv, np.zeros(32, "int64"), class_weights=[1.0, 2.0, 3.0])

    def test_lists(self):
        with pytest.raises(TypeError, match="target is a list; expected an array"):
            xl.SoftmaxWithLoss().forward(np.ones((1, 2)), [0])
        with pytest.raises(TypeError, match="scores is a list; expected an array"):
            xl.SoftmaxWithLoss().forward([[0.0, 1.0]], np.asarray([0]))

    def test_targets_of_another_shape(self, xpv):
        message = says("MeanSquaredError: target has shape (4, 1); expected (4, 2)")
        with pytest.raises(ValueError, match=message):
            xl.MeanSquaredError().forward(x32(xpv, (4, 2)), x32(xpv, (4, 1)))

    def test_upstream_gradients_of_another_shape(self, xpv):
        loss = xl.SoftmaxWithLoss(reduction="none")
        loss.forward(x32(xpv, (4, 2)), xpv.asarray([0, 1, 0, 1]))
        with pytest.raises(ValueError, match=says("dout has shape (4, 2); expected () or (4,)")):
            loss.backward(x32(xpv, (4, 2)))


class TestOptions:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: xl.Gelu("erf"), "approximate is 'erf'; expected 'tanh' or 'none'"),
            (
                lambda: xl.SoftmaxWithLoss(reduction="avg"),
                "reduction is 'avg'; expected 'mean', 'sum' or",
            ),
            (
                lambda: xl.SoftmaxWithLoss(label_smoothing=1.5),
                "label_smoothing is 1.5; expected 0",
            ),
            (lambda: xl.Huber(0.0), "delta is 0.0; expected a positive number"),
        ],
    )
    def test_options_that_there_are_not(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestJustWorks:
    def test_the_upstream_gradient_of_a_broadcast(self):
        """A read-only view with strides of 0, as ``broadcast_to`` gives."""
        layer = xl.Relu()
        layer.forward(values((3, 4)))
        dy = np.broadcast_to(np.asarray(1.0), (3, 4))
        assert set(np.unique(layer.backward(dy))) <= {0.0, 1.0}

    def test_memory_mapped_arrays(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, values((6, 4)).astype("float32"))
        x = np.load(path, mmap_mode="r")
        net = xl.mlp([4, 2], rng=0)
        net.backward(net.forward(x))
        assert net.grads["0.W"].shape == (4, 2)


class TestGpus:
    """Where there are two."""

    @pytest.fixture
    def pair(self, xpv):
        cupy = xpv.xp
        if cupy.cuda.runtime.getDeviceCount() < 2:
            pytest.skip("there is one GPU")
        arrays = []
        for i in range(2):
            with cupy.cuda.Device(i):
                arrays.append(cupy.ones((4, 20), "float32"))
        return arrays

    @pytest.mark.only("cupy")
    @pytest.mark.parametrize("compile", ["auto", "graph"])
    def test_the_current_one_is_another(self, xpv, pair, compile):
        here, there = xpv.device.id, 1 - xpv.device.id
        message = says(
            f"Sequential: x is a cupy array on cuda:{there}, and CuPy would compute on cuda:{here}."
            f" Compute inside of `with cupy.cuda.Device({there}):`."
        )
        net = xl.mlp([20, 3], rng=0)
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(), compile=compile)
        with xpv.xp.cuda.Device(there):
            t = xpv.xp.zeros(4, int)
        with pytest.raises(ValueError, match="y is a cupy array .* and CuPy would compute on"):
            xl.accuracy(pair[there], t)
        for call in (net.forward, net.predict, lambda x: step(x, t)):
            with pytest.raises(ValueError, match=f"^{message}$"):
                call(pair[there])
        with pytest.raises(ValueError, match="scores is a cupy array .* and CuPy would compute on"):
            step.loss(pair[there], t)
        with xpv.xp.cuda.Device(there):  # nothing has been placed by what failed
            assert float(step(pair[there], t)) > 0
            assert net.params["0.W"].device.id == there
        step.close()

    @pytest.mark.only("cupy")
    def test_arrays_on_both(self, xpv, pair):
        here, there = xpv.device.id, 1 - xpv.device.id
        net = xl.mlp([20, 3], rng=0)
        net.predict(pair[here])
        with xpv.xp.cuda.Device(there):
            t = xpv.xp.zeros(4, int)
            message = f"x is a cupy array on cuda:{there}, 0.W is a cupy array on cuda:{here}. Call"
            with pytest.raises(TypeError, match=says(message)):
                net.predict(pair[there])
        message = f"SoftmaxWithLoss: t is a cupy array on cuda:{there}, x is a cupy array on cuda:"
        with pytest.raises(TypeError, match=says(message)):
            xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam())(pair[here], t)


def test_a_gradient_of_another_shape_is_refused(xpv):
    for p, g in [((3,), (2, 3)), ((2, 3), (3,))]:
        params = {"W": xpv.asarray(np.zeros(p), "float32")}
        with pytest.raises(ValueError, match="the gradient of W has shape .*; expected"):
            xl.SGD().update(params, {"W": xpv.asarray(np.ones(g), "float32")})


@pytest.mark.only("torch")
def test_a_target_on_the_tape_is_refused(xpv):
    x, t = (xpv.asarray(values((4, 2), s), "float32") for s in (0, 1))
    t.requires_grad_()
    with pytest.raises(TypeError, match="target is a torch tensor that requires grad"):
        xl.MeanSquaredError().forward(x, t)
    step = xl.TrainStep(xl.mlp([2, 2], rng=0), xl.MeanSquaredError(), xl.SGD())
    with pytest.raises(TypeError, match="t is a torch tensor that requires grad"):
        step(x, t)
