"""GPT-2 and Llama of transformers, made at random: the same logits, gradients, and back."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from helpers import ROOT, assert_close, assert_same_arrays, python

import xplayers as xl
from xplayers import weights
from xplayers.arrays.transfer import to_numpy

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

GPT2 = {"vocab_size": 60, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4,
        "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
LLAMA = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
         "num_attention_heads": 8, "num_key_value_heads": 2}  # fmt: skip
ROWS = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-options": (
        "GPT2",
        {**GPT2, "n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 1e-3,
         "tie_word_embeddings": False},
    ),
    "llama": ("Llama", LLAMA),
    "llama-options": (
        "Llama",
        {**LLAMA, "num_key_value_heads": 8, "rope_parameters": {"rope_theta": 300.0,
         "rope_type": "default"}, "rms_norm_eps": 1e-3, "tie_word_embeddings": True,
         "attention_bias": True, "mlp_bias": True},
    ),
    "llama-one-head-of-keys": ("Llama", {**LLAMA, "num_key_value_heads": 1}),
}  # fmt: skip
EACH = pytest.mark.parametrize("row", ROWS)


def pair(row):
    """Their model with values that matter, and our network."""
    kind, options = ROWS[row]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    heads = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}
    model = getattr(transformers, heads[kind])(config).eval()
    with torch.no_grad():
        for a in model.parameters():
            a.add_(0.1 * torch.randn_like(a))
    config = json.loads(json.dumps(config.to_dict()))  # as in config.json
    return model, getattr(weights, kind.lower())(config, rng=0)


def tokens(n=2, time=11):
    return np.random.default_rng(1).integers(0, 60, (n, time))


@EACH
def test_the_logits_are_the_same(row, xpv):
    model, net = pair(row)
    x = xpv.asarray(tokens())
    weights.from_transformers(net, model.state_dict())
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens())).logits.numpy()
    if xpv.backend != "numpy":
        net.to(like=xpv.asarray(np.zeros(1), "float32"))
    y = net.predict(x)
    assert_close(y, expected, 1e-5)
    assert np.abs(to_numpy(y) - expected).max() < 1e-4


@EACH
def test_the_gradients_are_the_same(row):
    """Of the loss of the next token, in float64, but for their angles; without dropout."""
    model, _ = pair(row)
    model, x = model.double(), torch.from_numpy(tokens())
    logits = model(x).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, x[:, 1:].flatten()).backward()
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    net = getattr(weights, row.partition("-")[0])({**model.config.to_dict(), **quiet})
    weights.from_transformers(net.to(xp=np, dtype="float64"), model)
    loss, y = xl.SoftmaxWithLoss(), net.forward(tokens())
    loss.forward(y[:, :-1], tokens()[:, 1:])
    dy = np.zeros_like(y)
    dy[:, :-1] = loss.backward()
    net.backward(dy)
    net.params.update(net.grads)  # to have their names
    ours = weights.to_transformers(net)
    for name, gradient in [(name, a.grad) for name, a in model.named_parameters()]:
        if "c_attn.bias" in name:  # a third of it, that of the keys, is noise there
            ours[name], gradient = ours[name][:24], gradient[:24]
        assert_close(ours[name], gradient, 1e-9 if "gpt2" in row else 1e-5, name)


@EACH
def test_back_and_forth_nothing_changes(row):
    model, net = pair(row)
    weights.from_transformers(net, model)
    state = weights.to_transformers(net)
    assert_same_arrays(state, model.state_dict())
    model.load_state_dict(state)


@pytest.mark.parametrize("row", ["gpt2", "llama"])
def test_the_example_continues_a_text(row, tmp_path):
    """From the files of a model, as they are downloaded."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{i}": i for i in range(60)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model, _ = pair(row)
    model.save_pretrained(tmp_path)
    run = python(ROOT / "examples" / "generate_text.py", tmp_path, "w5 w7", cwd=ROOT)
    assert run.returncode == 0, run.stderr
    said = run.stdout.split()
    assert said[:2] == ["w5", "w7"]
    assert len(said) == 62
    assert set(said) <= words.keys()


@EACH
def test_files_of_save_pretrained(row, tmp_path):
    model, _ = pair(row)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    net = getattr(weights, row.partition("-")[0])(config)
    weights.from_transformers(net, tmp_path / "model.safetensors")
    assert_same_arrays(weights.to_transformers(net), model.state_dict())


def test_entries_without_a_meaning_and_without_a_prefix():
    """The files of the first GPT-2 have masks, and no name for the whole."""
    model, net = pair("gpt2")
    state = model.transformer.state_dict()
    state["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    state["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    weights.from_transformers(net, state)
    assert_same_arrays(weights.to_transformers(net), model.state_dict())
    model, net = pair("llama")
    state = {**model.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    weights.from_transformers(net, state)


def test_what_is_not_tied_there():
    model, net = pair("gpt2")
    state = dict(model.state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1.0
    with pytest.raises(ValueError, match=r"lm_head.weight is tied to wte.W in the network,"):
        weights.from_transformers(net, state)


def test_a_step_of_training_lowers_the_loss(xpv):
    for row in ("gpt2", "llama"):
        _, net = pair(row)
        x = xpv.asarray(tokens())
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=0.01))
        losses = [float(step(x[:, :-1], x[:, 1:])) for _ in range(8)]
        assert losses[-1] < 0.9 * losses[0]
