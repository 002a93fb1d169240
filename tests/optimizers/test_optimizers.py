"""The contract of an optimizer, for every row of the table on every library."""

from __future__ import annotations

import inspect
import pickle
import tracemalloc

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_arrays, assert_same_bits, values
from optimizer_cases import OPTIMIZERS, gradients, start

import xplayers as xl
from xplayers.arrays.namespaces import dtype_name, namespace
from xplayers.arrays.transfer import to_numpy

EVERY = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda c: c.id)
STEPS = 10


def reference(case):
    params, states = start(), {"W": {}, "b": {}}
    for i in range(STEPS):
        for k, g in gradients(i).items():
            params[k] = case.reference(params[k], g, states[k], i + 1)
    return params


def test_the_table_has_every_optimizer():
    shown = {type(c.make()) for c in OPTIMIZERS}
    public = {v for v in vars(xl).values() if inspect.isclass(v) and issubclass(v, xl.Optimizer)}
    assert public - {xl.Optimizer} <= shown


@EVERY
@pytest.mark.doubles
def test_ten_steps_are_those_of_the_reference(case, xpv):
    expected = reference(case)
    for dtype in xpv.floats:
        optimizer = case.make()
        params = {k: xpv.asarray(v, dtype) for k, v in start().items()}
        first = dict(params)
        for i in range(STEPS):
            grads = {k: xpv.asarray(v, dtype) for k, v in gradients(i).items()}
            optimizer.update(params, grads)
        for k, p in params.items():
            assert_at_home(p, first[k])
            assert_close(p, expected[k], {"float64": 1e-13, "float32": 1e-6}.get(dtype, 0.03), k)
        wide = "float64" if dtype == "float64" else "float32"
        for m in optimizer.moments:
            for k, moment in optimizer.state[m].items():
                assert_at_home(moment, first[k], dtype=getattr(namespace(first[k]), wide))


@EVERY
@pytest.mark.only("numpy", "torch")
def test_torch_agrees(case, xpv):
    torch = pytest.importorskip("torch")
    if case.torch is None:
        pytest.skip("torch has not this form")
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in start().items()}
    theirs = case.torch(torch, list(tensors.values()))
    params, optimizer = {k: xpv.asarray(v, "float64") for k, v in start().items()}, case.make()
    for i in range(STEPS):
        for k, g in gradients(i).items():
            tensors[k].grad = torch.tensor(g)
        theirs.step()
        optimizer.update(params, {k: xpv.asarray(g, "float64") for k, g in gradients(i).items()})
    for k, p in params.items():
        assert_close(p, tensors[k].detach().numpy(), 1e-12, k)


@EVERY
def test_step_is_pure(case, xpv):
    optimizer = case.make()
    params = {k: xpv.asarray(v, "float32") for k, v in start().items()}
    grads = {k: xpv.asarray(v, "float32") for k, v in gradients(0).items()}
    state = optimizer.init(params)
    _, state = optimizer.step(params, grads, state)  # so that the moments are not zero
    moments = {(m, k): to_numpy(a).copy() for m in optimizer.moments for k, a in state[m].items()}
    before = {k: to_numpy(a).copy() for k, a in (params | grads).items()}
    new, after = optimizer.step(params, grads, state)
    again, _ = optimizer.step(params, grads, state)
    assert_same_arrays((params | grads), before)
    for (m, k), a in moments.items():
        assert_same_bits(state[m][k], a, m)
    for k in params:
        assert_same_bits(new[k], again[k], k)
    assert int(after["count"]) == int(state["count"]) + 1 == 2


@EVERY
@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("rate", ["of the optimizer", "array", "schedule"])
def test_update_is_step(case, size, rate, xpv):
    """Also where one goes through NumPy and the other does not, and whatever the processor."""

    def start():
        return {"W": values((size, 4), 1, 1.0), "b": values((4,), 2, 1.0)}

    def gradients(i):
        return {"W": values((size, 4), 10 + i, 1.0), "b": values((4,), 20 + i, 1.0)}

    optimizer = case.make()
    if rate == "array":
        optimizer.lr = xpv.asarray(0.003, "float32")
    elif rate == "schedule":
        optimizer.lr = xl.schedules.Cosine(0.003, steps=10)
    params = {k: xpv.asarray(v, "float32") for k, v in start().items()}
    pure, state = dict(params), optimizer.init(params)
    for i in range(3):
        grads = {k: xpv.asarray(v, "float32") for k, v in gradients(i).items()}
        pure, state = optimizer.step(pure, grads, state)
    mine = {k: xpv.asarray(v, "float32") for k, v in start().items()}
    for i in range(3):
        optimizer.update(mine, {k: xpv.asarray(v, "float32") for k, v in gradients(i).items()})
    for k in pure:
        assert_same_bits(mine[k], pure[k], k)


@EVERY
def test_weight_decay_is_a_part_of_the_gradient_or_before_the_step(case):
    base = type(case.make())
    params, grads = start(), gradients(0)
    if base.decoupled:
        shrunk = {k: p - base().lr * 0.5 * p for k, p in params.items()}
        expected, _ = base(weight_decay=0.0).step(shrunk, grads, base().init(params))
    else:
        with_decay = {k: g + 0.5 * params[k] for k, g in grads.items()}
        expected, _ = base(weight_decay=0.0).step(params, with_decay, base().init(params))
    got, _ = base(weight_decay=0.5).step(params, grads, base().init(params))
    for k in params:
        assert_same_bits(got[k], expected[k], k)


@EVERY
def test_the_learning_rate_is_an_argument(case, xpv):
    optimizer = case.make()
    params = {k: xpv.asarray(v, "float32") for k, v in start().items()}
    grads = {k: xpv.asarray(v, "float32") for k, v in gradients(0).items()}
    state = optimizer.init(params)
    by_number, _ = optimizer.step(params, grads, state, lr=0.25)
    lr = xpv.asarray(np.asarray(0.25), "float32")
    by_array, _ = optimizer.step(params, grads, state, lr=lr)
    default, _ = optimizer.step(params, grads, state)
    for k in params:
        assert_close(by_array[k], to_numpy(by_number[k]), 1e-6, k)
        assert not np.array_equal(to_numpy(by_number[k]), to_numpy(default[k]))


def test_large_parameters_go_through_the_blocks_in_place():
    """NumPy's blocked path gives the bits of the plain rule, and writes where the parameter is."""
    n = 700_001
    p, g = values((n,), 0).astype("float32"), values((n,), 1).astype("float32")
    for case in OPTIMIZERS:
        optimizer = case.make()
        mine, plain = {"p": p.copy()}, {"p": p.copy()}
        before, state = mine["p"], optimizer.init(plain)
        for _ in range(2):
            optimizer.update(mine, {"p": g})
            plain, state = optimizer.step(plain, {"p": g}, state)
        assert mine["p"] is before
        assert_same_bits(mine["p"], plain["p"], case.id)
        fresh, moments = case.make(), [np.zeros_like(p) for _ in optimizer.moments]
        constants = [float(c) for c in (fresh.lr, *fresh.constants(np.float64(1.0)))]
        decay = 0.0 if fresh.decoupled else fresh.weight_decay
        once = fresh.rule(np, p, g + decay * p if decay else g, *moments, *constants)[0]
        new, _ = fresh.step({"p": p}, {"p": g}, fresh.init({"p": p}))
        assert_same_bits(new["p"], once, case.id)


def test_the_book_s_aliased_parameters_are_trained():
    """In the book a dict and the layers hold the same arrays; both must see the update."""
    params = {"W1": values((4, 3)), "b1": np.zeros(3)}
    layer = xl.Affine(params["W1"], params["b1"])
    layer.forward(values((5, 4), 2))
    layer.backward(values((5, 3), 3))
    before = params["W1"].copy()
    xl.SGD(lr=0.1).update(params, {"W1": layer.dW, "b1": layer.db})
    assert np.array_equal(layer.W, params["W1"])
    assert not np.array_equal(before, layer.W)


def test_update_through_the_net_is_seen_by_the_layers(xpv):
    net = xl.mlp([4, 3, 2], rng=0)
    x, t = xpv.asarray(values((5, 4)), "float32"), xpv.asarray([0, 1, 0, 1, 1])
    loss, optimizer = xl.SoftmaxWithLoss(), xl.SGD(lr=0.5)
    first = float(loss.forward(net.forward(x), t))
    net.backward(loss.backward())
    W = to_numpy(net[0].W).copy()
    optimizer.update(net.params, net.grads)
    assert not np.array_equal(to_numpy(net[0].W), W)
    assert float(loss(net(x), t)) < first


def test_update_without_gradients_says_what_to_call(xpv):
    net = xl.mlp([2, 1], rng=0).to(like=xpv.asarray([0.0], "float32"))
    with pytest.raises(ValueError, match=r"Adam: no gradient for 0\.W, 0\.b\. Call backward"):
        xl.Adam().update(net.params, net.grads)
    with pytest.raises(ValueError, match="SGD: no parameter for the gradient c"):
        xl.SGD().update({}, {"c": xpv.asarray([0.0], "float32")})


@pytest.mark.parametrize(
    ("sizes", "dtype", "what"),
    [
        ([4, 6, 3], "float32", r"m of 2\.W is \S+ of shape \(5, 3\), and 2\.W .* shape \(6, 3\)"),
        ([4, 5, 3, 2], "float32", r"it has no m of 4\.b"),
        (
            [4, 5],
            "float32",
            r"it has m of 2\.W, 2\.b too\. Create a new optimizer, or reset it by",
        ),
        ([4, 5, 3], "float64", r"2\.b is \S*float64 of shape \(3,\)"),
    ],
)
def test_the_state_of_another_network(sizes, dtype, what, xpv):
    if dtype not in xpv.floats:
        pytest.skip(f"no {dtype} here")
    optimizer = xl.Adam()

    def update(net):
        optimizer.update(net.params, {k: p * 0 for k, p in net.params.items()})

    update(xl.mlp([4, 5, 3], rng=0).to(like=xpv.asarray([0.0], "float32")))
    net = xl.mlp(sizes, rng=0).to(like=xpv.asarray([0.0], dtype))
    before = {k: to_numpy(p).copy() for k, p in net.params.items()}
    with pytest.raises(ValueError, match=rf"Adam: its state does not match the parameters.*{what}"):
        update(net)
    assert_same_arrays(net.params, before)
    optimizer.state = None
    update(net)


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda c: c.id)
def test_a_parameter_of_no_axes(case, xpv):
    """Steps as those of the same value in an array of one axis."""
    scalars = []
    for shape in ((), (1,)):
        optimizer, p = case.make(), {"s": xpv.asarray(np.full(shape, 1.25), "float32")}
        for k in range(3):
            optimizer.update(p, {"s": xpv.asarray(np.full(shape, 0.5 - k), "float32")})
        assert p["s"].shape == shape
        assert dtype_name(p["s"].dtype) == "float32"
        scalars.append(to_numpy(p["s"]).reshape(()))
    assert_close(*scalars, 1e-6)


def test_the_state_of_another_optimizer():
    params = start()
    with pytest.raises(ValueError, match="Adam: its state has no m, but v; it is that of another"):
        xl.Adam().step(params, gradients(0), xl.Momentum().init(params))


def test_init_without_parameters_raises():
    with pytest.raises(ValueError, match="there are no parameters"):
        xl.Adam().init({})


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda c: c.id)
def test_repr_is_code_and_a_pickle_goes_on(case):
    optimizer = case.make()
    assert repr(eval(repr(optimizer), vars(xl).copy())) == repr(optimizer)
    params = {k: v.copy() for k, v in start().items()}
    optimizer.update(params, gradients(0))
    other, others = pickle.loads(pickle.dumps(optimizer)), {k: v.copy() for k, v in params.items()}
    optimizer.update(params, gradients(1))
    other.update(others, gradients(1))
    for k in params:
        assert_same_bits(params[k], others[k])


def test_read_only_parameters_are_replaced():
    params = {"W": values((3, 4))}
    params["W"].flags.writeable = False
    before = params["W"]
    xl.Adam().update(params, {"W": values((3, 4), 1)})
    assert params["W"] is not before
    assert np.array_equal(before, values((3, 4)))


def test_wide_copies_of_16_bit_parameters_are_one_at_a_time():
    n, count = 200_000, 12
    params = {str(i): np.ones(n, "float16") for i in range(count)}
    optimizer = xl.SGD()
    state = optimizer.init(params)
    tracemalloc.start()
    try:
        optimizer.step(params, params, state, donate=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    results, one = 2 * n * count, 4 * n
    assert peak < results + 6 * one, f"{(peak - results) / one:.1f} wide arrays"


def test_eps_of_the_second_form_is_times_the_root():
    optimizer = xl.Adam(eps=1e-8, eps_hat=False)
    root = np.sqrt(-np.expm1(np.float64(3) * np.log(0.999)))
    assert optimizer.constants(np.float64(3))[3] == 1e-8 * root


def test_adam_without_memory_and_with_nonsense(xpv):
    params = {"W": xpv.asarray([1.0, 2.0], "float32")}
    grads = {"W": xpv.asarray([0.5, -0.5], "float32")}
    for betas in ({"beta1": 0.0}, {"beta2": 0.0}):
        new, _ = xl.Adam(**betas).step(params, grads, xl.Adam().init(params))
        assert np.allclose(to_numpy(new["W"]), [0.999, 2.001], atol=1e-6)
    with pytest.raises(ValueError, match="Adam: beta1 is 1.0; expected 0 to less than 1"):
        xl.Adam(beta1=1.0)


# The state as PyTorch has it: the optimizer there and here, and for each moment its name and factor
STATES = {
    "Momentum": (
        lambda t, p: t.optim.SGD(p, lr=0.01, momentum=0.8),
        lambda: xl.Momentum(0.01, 0.8),
        {"v": ("momentum_buffer", -0.01)},
    ),
    "AdaGrad": (lambda t, p: t.optim.Adagrad(p), xl.AdaGrad, {"h": ("sum", 1.0)}),
    "RMSprop": (lambda t, p: t.optim.RMSprop(p), xl.RMSprop, {"h": ("square_avg", 1.0)}),
    **{
        f"{theirs}{betas}": (
            lambda t, p, theirs=theirs, b=betas: getattr(t.optim, theirs)(p, betas=b),
            lambda mine=mine, b=betas: mine(0.001, *b, eps=1e-8, eps_hat=False),
            {"m": ("exp_avg", 1.0), "v": ("exp_avg_sq", 1.0)},
        )
        for theirs, mine in (("Adam", xl.Adam), ("AdamW", xl.AdamW))
        for betas in ((0.9, 0.999), (0.0, 0.5), (0.5, 0.0), (0.3, 0.99))
    },
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_is_that_of_torch(name, xpv):
    torch = pytest.importorskip("torch")
    theirs, mine, moments = STATES[name]
    for dtype in set(xpv.floats) & {"float32", "float64"}:
        tensors = {k: torch.tensor(v.astype(dtype), requires_grad=True) for k, v in start().items()}
        other, optimizer = theirs(torch, list(tensors.values())), mine()
        params = {k: xpv.asarray(v, dtype) for k, v in start().items()}
        for i in range(5):
            grads = gradients(i)
            for k, g in grads.items():
                tensors[k].grad = torch.tensor(g.astype(dtype))
            other.step()
            optimizer.update(params, {k: xpv.asarray(g, dtype) for k, g in grads.items()})
            assert optimizer.state.keys() == {*moments, "count"}
            assert int(optimizer.state["count"]) == i + 1
            for m, (there, factor) in moments.items():
                for k, p in tensors.items():
                    moment = to_numpy(optimizer.state[m][k])
                    expected = factor * other.state[p][there].numpy()
                    few_ulp = 4 * np.finfo("float32").eps if dtype == "float32" else 1e-12
                    most = few_ulp * np.abs(expected).max()  # terms of opposite signs cancel
                    assert (np.abs(moment - expected) <= most).all(), (dtype, i, m, k)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_moments_in_their_order_of_operations(beta1, xpv):
    g, m, v = (xpv.asarray(values((5,), i) ** 2, "float32") for i in range(3))
    state = {"m": {"p": m}, "v": {"p": v}, "count": xpv.asarray(np.asarray(3, "int32"))}
    _, after = xl.Adam(beta1=beta1).step({"p": g}, {"p": g}, state)
    assert_same_bits(after["m"]["p"], to_numpy(m + (g - m) * (1.0 - beta1)))
    assert_same_bits(after["v"]["p"], to_numpy(v * 0.999 + g * (1.0 - 0.999) * g))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_infinite_square_leaves_the_parameter_where_it_is(xpv):
    """And does not become NaN in the steps after it."""
    params, optimizer = {"p": xpv.asarray([1.0, 2.0], "float32")}, xl.Adam()
    for g in (1e30, 1.0, 1.0):
        optimizer.update(params, {"p": xpv.asarray([g, 0.0], "float32")})
    assert np.array_equal(to_numpy(params["p"]), [1.0, 2.0])
    assert np.array_equal(to_numpy(optimizer.state["v"]["p"]), [np.inf, 0.0])
