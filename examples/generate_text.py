"""A Llama continues a text: a small one that learns here, or one that others have trained.

    python examples/generate_text.py
    python examples/generate_text.py FOLDER "Once upon a time"

Without arguments a network of two blocks (RMS normalization, rotary positions, two heads of keys
for four of queries, SwiGLU) learns `alice.txt` (see `small_gpt.py`), character by character. A
folder has the files of a model of `transformers`, a GPT-2 or a Llama, as they are downloaded:
`config.json`, `model.safetensors`, and `tokenizer.json`, which the package `tokenizers` reads.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy as xp  # or: import cupy as xp, import torch as xp, import jax.numpy as xp

import xplayers as xl
from xplayers import weights

rng = np.random.default_rng(0)


def downloaded(folder):
    """Return a network, its context, and the functions from a text to its numbers and back."""
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    make = {"gpt2": weights.gpt2, "llama": weights.llama}[config["model_type"]]
    net = weights.from_transformers(make(config), folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    context = config["n_positions" if config["model_type"] == "gpt2" else "max_position_embeddings"]
    return net, context, lambda text: tokenizer.encode(text).ids, tokenizer.decode


def trained(steps=200):
    """Return the same of a network that has learned a text."""
    text = Path(__file__).with_name("alice.txt").read_text(encoding="ascii")
    characters = sorted(set(text))
    codes = np.asarray([characters.index(c) for c in text])
    sizes = {
        "vocab_size": len(characters), "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 32, "initializer_range": 0.1,
    }  # fmt: skip
    net, context = weights.llama(sizes, rng=rng), sizes["max_position_embeddings"]
    rate = xl.schedules.OneCycle(0.01, steps=steps, rise=0.1)
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.AdamW(lr=rate, weight_decay=0.1))
    for i in range(1, steps + 1):
        starts = rng.integers(0, len(codes) - context, 32)
        pieces = xl.move(codes[starts[:, None] + np.arange(context + 1)], xp=xp)
        loss = step(pieces[:, :-1], pieces[:, 1:])
        if i % 100 == 0:
            perplexity = np.exp(float(loss))
            print(f"step {i} of {steps}   perplexity {perplexity:.2f} per character")
    assert perplexity < 10.0
    return (
        net,
        context,
        lambda text: [characters.index(c) for c in text],
        lambda codes: "".join(characters[c] for c in codes),
    )


def continued(net, context, codes, n, temperature=0.7):
    """Return numbers and `n` more: each is drawn from the softmax of the last logits."""
    codes = list(codes)
    for _ in range(n):
        logits = net.predict(xl.move(np.asarray([codes[-context:]]), xp=xp))[0, -1, :]
        noise = rng.gumbel(size=logits.shape[0])  # the largest sum is a draw from the softmax
        codes.append(int(np.argmax(xl.to_numpy(logits) / temperature + noise)))
    return codes


if len(sys.argv) > 1:
    net, context, encode, decode = downloaded(Path(sys.argv[1]))
    given, n = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time", 60
else:
    (net, context, encode, decode), given, n = trained(), "Alice was ", 200
print(decode(continued(net, context, encode(given), n)))
