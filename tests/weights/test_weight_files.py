"""What is loaded, of which file, and what is refused: all or nothing, and everything is said."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_arrays, says, values

import xplayers as xl
from xplayers import weights


def net():
    return xl.Sequential(
        xl.Affine.init(4, 3, rng=0), xl.Relu(), out=xl.Sequential(xl.Affine.init(3, 2, rng=1))
    )


def state(**others):
    """A state dict of PyTorch for it, with entries that are replaced, or None: left out."""
    arrays = {
        "0.weight": values((3, 4)), "0.bias": values((3,)),
        "out.0.weight": values((2, 3)), "out.0.bias": values((2,)),
    }  # fmt: skip
    arrays |= {name.replace("_", "."): a for name, a in others.items()}
    return {name: a for name, a in arrays.items() if a is not None}


def refused(given, *said, error=ValueError, **options):
    """Check that an error says all this, and that nothing is set."""
    layer = net()
    before = dict(layer.arrays)
    with pytest.raises(error) as caught:
        weights.from_torch(layer, given, **options)
    for words in said:
        assert words in str(caught.value), caught.value
    assert all(layer.arrays[name] is a for name, a in before.items())


class TestStates:
    @pytest.mark.parametrize("names", [None, {}])
    def test_all_faults_are_said_at_once(self, names):
        given = state(**{"0_weight": values((4, 3)), "out_0_bias": None, "fc_bias": values((2,))})
        refused(
            given,
            "from_torch: the weights do not fit the network, and nothing is loaded; ",
            "missing: out.0.bias; unexpected: fc.bias; "
            "not fit: 0.weight has shape (4, 3), expected (3, 4).",
            names=names,
        )

    def test_a_hint_where_names_may_help(self):
        refused(state(out_0_bias=None), "names={ours: theirs} says which module")

    def test_other_names_in_another_order(self):
        """By the order of modules only where each has what ours asks for."""
        given = {f"b.{k[2:]}" if k[0] == "0" else f"a.{k[6:]}": a for k, a in state().items()}
        assert_same_arrays(
            weights.from_torch(net(), given).arrays, weights.from_torch(net(), state()).arrays
        )
        turned = dict(reversed(given.items()))
        refused(turned, "a.weight has shape (2, 3), expected (3, 4), ", "names={ours: theirs}")

    def test_a_name_that_both_have_is_not_given_to_another(self):
        square = xl.Sequential(a=xl.Affine.init(2, 2), b=xl.Affine.init(2, 2))
        given = {f"{m}.{k}": values((2, 2)[: 1 + (k == "weight")]) for m in "ca"
                 for k in ("weight", "bias")}  # fmt: skip
        with pytest.raises(ValueError, match=r"missing: b.weight, b.bias; unexpected: c.weight"):
            weights.from_torch(square, given)

    def test_many_faults_are_counted(self):
        given = {f"layer{i}.kernel": values((1,)) for i in range(50)}
        refused(given, "unexpected: layer0.kernel, layer1.kernel, ", "layer19.kernel and 30 more")

    @pytest.mark.parametrize("kind", ["int8", "bool", "int64", "complex64"])
    def test_kinds_of_numbers(self, kind):
        given = state(**{"0_bias": np.ones(3, kind)})
        refused(given, f"0.bias is {kind}, expected floating-point values")

    @pytest.mark.parametrize("given", [3, None, [np.ones(3)], "net", xl.mlp([2, 2])])
    def test_what_is_no_state(self, given):
        error = ValueError if isinstance(given, str) else TypeError
        with pytest.raises(error, match="from_torch: |expected a file .safetensors or .npz"):
            weights.from_torch(net(), given)

    def test_values_that_are_no_arrays(self):
        refused(state(**{"0_bias": [1.0, 2.0, 3.0]}), "from_torch", "0.bias", error=TypeError)
        refused({1: np.ones(3)}, "a name is 1; expected a str", error=TypeError)

    def test_names(self):
        refused(state(), "names has 'fc', which is no part; there are 0, out.0", names={"fc": "a"})
        refused(state(), "a name of names is 3; expected a str", error=TypeError, names={"out": 3})
        refused(state(), "names is ['out']; expected a mapping", error=TypeError, names=["out"])

    def test_no_network(self):
        with pytest.raises(TypeError, match=says("from_torch: net is a dict; expected a layer")):
            weights.from_torch(state(), net())

    def test_a_layer_without_a_rule(self):
        class Scale(xl.Layer):
            s = xl.Parameter()

            def __init__(self):
                self.s = np.ones(3, "float32")

        layers = xl.Sequential(xl.Relu(), scale=Scale())
        for door in (lambda: weights.from_torch(layers, {}), lambda: weights.to_keras(layers)):
            with pytest.raises(TypeError, match=r"Scale \(part 'scale'\) has no counterpart in"):
                door()

    def test_gradients_and_passes_are_dropped_and_dropout_stays(self, xpv):
        layers = xl.Sequential(xl.Affine.init(4, 3), xl.Dropout(0.5, seed=1))
        x = xpv.asarray(values((2, 4)), "float32")
        layers.backward(layers.forward(x))
        given = {name: a for name, a in state().items() if name[0] == "0"}
        weights.from_torch(layers, given)
        assert not layers.grads
        assert int(layers.buffers["1.count"][0]) == 1
        assert layers.params["0.W"].dtype == x.dtype
        layers.predict(x)

    def test_one_layer_at_two_places_and_tied_parameters(self):
        shared = xl.Affine.init(3, 3)
        layers = xl.Sequential(a=shared, b=xl.Sequential(shared))
        given = {"a.weight": values((3, 3)), "a.bias": values((3,))}
        weights.from_torch(layers, given)
        np.testing.assert_array_equal(layers.params["a.W"], given["a.weight"].T)
        table = xl.Embedding.init(5, 3)
        tied = xl.Sequential(table=table, head=xl.Affine(table.W.T))
        both = {"table.weight": values((5, 3)), "head.weight": values((5, 3))}
        for given in (both, {"table.weight": both["table.weight"]}):
            weights.from_torch(tied, given)
            np.testing.assert_array_equal(tied["head"].W, both["table.weight"].T)
            assert list(tied.params) == ["table.W"]


@pytest.mark.host
class TestFiles:
    def test_safetensors_and_npz(self, tmp_path):
        from safetensors.numpy import save_file

        save_file(state(), tmp_path / "a.safetensors")
        np.savez(tmp_path / "b.npz", **state())
        expected = weights.from_torch(net(), state()).arrays
        for name in ("a.safetensors", "b.npz"):
            for path in (tmp_path / name, str(tmp_path / name)):
                assert_same_arrays(weights.from_torch(net(), path).arrays, expected)

    def test_the_entries_of_safetensors_have_no_order(self, tmp_path):
        from safetensors.numpy import save_file

        given = {name.replace("out.0", "1"): a for name, a in state().items()}
        weights.from_torch(net(), given)
        save_file(given, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"missing: out.0.weight, .*names=\{ours"):
            weights.from_torch(net(), tmp_path / "a.safetensors")
        weights.from_torch(net(), tmp_path / "a.safetensors", {"out.0": "1"})

    @pytest.mark.parametrize(
        ("name", "said"),
        [("a.pt", "torch.load(path, weights_only=True)"), ("a.bin", "torch.load"),
         ("a.h5", "model.load_weights"), ("a.keras", "keras.saving.load_model"),
         ("a.txt", "expected a file .safetensors or .npz"), ("a", "expected a file")],
    )  # fmt: skip
    def test_other_files(self, tmp_path, name, said):
        (tmp_path / name).write_bytes(b"1234")
        refused(tmp_path / name, name, said)

    def test_files_of_ours(self, tmp_path):
        xl.save(tmp_path / "a.safetensors", net())
        refused(tmp_path / "a.safetensors", "was written by xplayers; xplayers.load(path, net)")

    def test_damaged_files(self, tmp_path):
        np.savez(tmp_path / "a.npz", **state())
        data = (tmp_path / "a.npz").read_bytes()
        for damaged in (b"", data[:30], data[: len(data) // 2], b"\x80\x04K\x01."):
            (tmp_path / "a.npz").write_bytes(damaged)
            refused(tmp_path / "a.npz", "a.npz")
        for damaged in (b"", b"12345678", b"\x10" + 9 * b"\0"):
            (tmp_path / "a.safetensors").write_bytes(damaged)
            refused(tmp_path / "a.safetensors", "a.safetensors")
        refused(tmp_path / "none.npz", error=FileNotFoundError)
        (tmp_path / "folder.npz").mkdir()
        refused(tmp_path / "folder.npz", "is a folder; expected a file")

    def test_pickles_inside_are_not_opened(self, tmp_path):
        np.savez(tmp_path / "a.npz", **{**state(), "0.bias": np.asarray([{"code": 1}])})
        refused(tmp_path / "a.npz", "a.npz", "allow_pickle")

    def test_files_whose_meaning_is_not_known(self, tmp_path):
        np.savez(tmp_path / "a.npz", mean=np.ones(3), components=np.ones((2, 2)))
        refused(tmp_path / "a.npz", "unexpected: mean, components")


@pytest.mark.host
class TestTransformers:
    @pytest.mark.parametrize(
        ("options", "said"),
        [({"n_embd": None}, "gpt2: n_embd is None; expected an integer of at least 1"),
         ({"activation_function": "relu"}, "activation_function is"),
         ({"model_type": "llama"}, "model_type is 'llama'; this network computes 'gpt2'"),
         ({"scale_attn_weights": False}, "scale_attn_weights is False"),
         ({"add_cross_attention": True}, "add_cross_attention")],
    )  # fmt: skip
    def test_configurations_of_gpt2(self, options, said):
        sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
        with pytest.raises((TypeError, ValueError), match=says(said)):
            weights.gpt2({**sizes, **options})
        for name in sizes:
            with pytest.raises(ValueError, match=f"gpt2: config has no {name}; there are "):
                weights.gpt2({k: v for k, v in sizes.items() if k != name})

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this network computes 'silu'"),
         ({"head_dim": 16}, "head_dim is 16; this network computes 4"),
         ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
         ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
         ({"num_key_value_heads": 3}, "n_kv_heads is 3; expected a divisor of the 2 heads")],
    )  # fmt: skip
    def test_configurations_of_llama(self, options, said):
        sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12,
                 "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
        with pytest.raises(ValueError, match=says(said)):
            weights.llama({**sizes, **options})
        with pytest.raises(TypeError, match="llama: config is "):
            weights.llama("config.json")

    def test_other_networks(self):
        for door in (lambda: weights.from_transformers(net(), {}),
                     lambda: weights.to_transformers(net())):  # fmt: skip
            with pytest.raises(TypeError, match="net is none that gpt2 or llama has made"):
                door()
