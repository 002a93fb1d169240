"""GPT-2 and Llama: networks of the configurations and weights of `transformers`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers._checks import generator, instance, integer
from xplayers.initializers import Rng, normal
from xplayers.layers import (
    Affine,
    Dropout,
    Embedding,
    GatedMlp,
    Gelu,
    Layer,
    LayerNormalization,
    MultiHeadAttention,
    PositionalEmbedding,
    Residual,
    RmsNormalization,
    Sequential,
)
from xplayers.saving.files import AnyPath
from xplayers.saving.network import check_layer
from xplayers.weights.matching import Form, Relation, given, load, packed, same, transposed
from xplayers.weights.pytorch import RULES, tensors, with_bias


def gpt2(config: Mapping[str, Any], *, rng: Rng = None, dtype: str = "float32") -> Sequential:
    """Make the network of a GPT-2, of integers ``(n, time)`` to logits ``(n, time, vocab_size)``.

    Parameters
    ----------
    config : mapping
        The ``config.json`` of a model, or ``config.to_dict()`` of ``transformers.GPT2Config``:
        ``vocab_size``, ``n_positions``, ``n_embd``, ``n_layer``, ``n_head``; the others have the
        values of GPT-2 where they are left out.
    rng : int, numpy.random.Generator or None
        The source of the initial values: normal, of standard deviation ``initializer_range``.
    dtype : str
        Floating dtype of the parameters.

    Returns
    -------
    Sequential
        With the names of parts that `from_transformers` asks for. The last map is tied to the
        embedding, unless ``tie_word_embeddings`` is False.

    Raises
    ------
    ValueError
        If the configuration lacks a size, or asks for what the network does not compute.
    TypeError
        If it is not a mapping.

    See Also
    --------
    from_transformers, llama

    References
    ----------
    Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask
    Learners", OpenAI 2019, section 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers import weights
    >>> sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    >>> weights.gpt2(sizes, rng=0)(np.asarray([[1, 2, 3]])).shape
    (1, 3, 50)
    """
    get = _Config("gpt2", config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
                  add_cross_attention=False)  # fmt: skip
    vocabulary, positions, width, layers, heads = (
        get.size(name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    )
    hidden = get("n_inner", None) or 4 * width
    activation = get.choice("activation_function", "gelu_new", _GELUS)
    make = _Maker(get, generator("gpt2", "rng", rng), dtype)
    dropped = make.dropout("resid_pdrop")

    def block() -> Sequential:
        attention = MultiHeadAttention.init(
            width, heads, causal=True, dropout=get("attn_pdrop", 0.1), seed=make.seed(),
            **make.options,
        )  # fmt: skip
        mlp = Sequential(
            c_fc=make.affine(width, hidden), act=Gelu(activation), c_proj=make.affine(hidden, width)
        )
        return Sequential(
            Residual(ln_1=make.layer_norm(width), attn=attention, **dropped()),
            Residual(ln_2=make.layer_norm(width), mlp=mlp, **dropped()),
        )

    wte = Embedding.init(vocabulary, width, **make.options)
    return Sequential(
        wte=wte,
        wpe=PositionalEmbedding.init(positions, width, **make.options),
        **make.dropout("embd_pdrop")(),
        h=Sequential(*[block() for _ in range(layers)]),
        ln_f=make.layer_norm(width),
        lm_head=make.head(wte),
    )


_GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


def llama(config: Mapping[str, Any], *, rng: Rng = None, dtype: str = "float32") -> Sequential:
    """Make the network of a Llama, of integers ``(n, time)`` to logits ``(n, time, vocab_size)``.

    Parameters
    ----------
    config : mapping
        The ``config.json`` of a model, or ``config.to_dict()`` of ``transformers.LlamaConfig``:
        ``vocab_size``, ``hidden_size``, ``intermediate_size``, ``num_hidden_layers``,
        ``num_attention_heads``; the others have the values of Llama where they are left out.
    rng, dtype
        As of `gpt2`.

    Returns
    -------
    Sequential
        As of `gpt2`. The last map has weights of its own, unless ``tie_word_embeddings`` is True.

    Raises
    ------
    ValueError
        If the configuration lacks a size, or asks for what the network does not compute, as scaled
        rotary positions or heads of another size than ``hidden_size / num_attention_heads``.
    TypeError
        If it is not a mapping.

    See Also
    --------
    from_transformers, gpt2

    References
    ----------
    Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971,
    section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers import weights
    >>> sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12,
    ...          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    >>> weights.llama(sizes, rng=0)(np.asarray([[1, 2, 3]])).shape
    (1, 3, 50)
    """
    get = _Config("llama", config, hidden_act="silu")
    vocabulary, width, hidden, layers, heads = (
        get.size(name)
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                     "num_attention_heads")
    )  # fmt: skip
    get.same("head_dim", width // heads)
    make = _Maker(get, generator("llama", "rng", rng), dtype)
    theta, eps = get.rope_theta(), get("rms_norm_eps", 1e-6)
    kv_heads = get("num_key_value_heads", None) or heads

    def norm() -> RmsNormalization:
        return RmsNormalization.init(width, eps=eps, dtype=dtype)

    def block() -> Sequential:
        attention = MultiHeadAttention.init(
            width, heads, causal=True, n_kv_heads=kv_heads, rope_theta=theta,
            bias=get("attention_bias", False), dropout=get("attention_dropout", 0.0),
            seed=make.seed(), **make.options,
        )  # fmt: skip
        mlp = GatedMlp.init(width, hidden, bias=get("mlp_bias", False), **make.options)
        return Sequential(
            Residual(input_layernorm=norm(), self_attn=attention),
            Residual(post_attention_layernorm=norm(), mlp=mlp),
        )

    embedding = Embedding.init(vocabulary, width, **make.options)
    return Sequential(
        embed_tokens=embedding,
        layers=Sequential(*[block() for _ in range(layers)]),
        norm=norm(),
        lm_head=make.head(embedding, tied=False),
    )


def from_transformers(net: Layer, weights: Mapping[str, Any] | AnyPath | Any) -> Layer:
    """Set the parameters of a `gpt2` or `llama` to those of a model of ``transformers``.

    Everything is checked before anything is set.

    Parameters
    ----------
    net : Layer
        What `gpt2` or `llama` has made of the configuration of the model.
    weights : mapping, torch.nn.Module or path
        The ``state_dict()`` of ``GPT2LMHeadModel`` or ``LlamaForCausalLM``, or the model, or a
        file ``model.safetensors`` of one.

    Returns
    -------
    Layer
        `net` itself.

    Raises
    ------
    ValueError
        If entries are missing, unexpected or of another shape: all are listed, and nothing is set.
    TypeError
        If `net` is another network, or `weights` has the wrong type.
    OSError
        If the file cannot be read.

    See Also
    --------
    to_transformers, gpt2, llama

    Notes
    -----
    Masks and frequencies that old files contain have no meaning here, and are passed over. Where
    the last map is tied to the embedding, it may be missing.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers import weights
    >>> sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    >>> trained, net = weights.gpt2(sizes, rng=0), weights.gpt2(sizes, rng=1)
    >>> net = weights.from_transformers(net, weights.to_transformers(trained))
    >>> bool((net(np.asarray([[1, 2, 3]])) == trained(np.asarray([[1, 2, 3]]))).all())
    True
    """
    form, names = _of(net, "from_transformers")
    weights = getattr(weights, "state_dict", lambda: weights)()
    state, _ = given("from_transformers", weights)
    load("from_transformers", net, state, form, names, ordered=False)
    return net


def to_transformers(net: Layer) -> dict[str, Any]:
    """Return the parameters of a `gpt2` or `llama` as a state dict of ``transformers``.

    Parameters
    ----------
    net : Layer
        What `gpt2` or `llama` has made.

    Returns
    -------
    dict of str to torch.Tensor
        New tensors on the CPU, for ``model.load_state_dict``.

    Raises
    ------
    TypeError
        If `net` is another network.
    ImportError
        If PyTorch is not installed.

    See Also
    --------
    from_transformers

    Examples
    --------
    >>> from xplayers import weights
    >>> sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    >>> state = weights.to_transformers(weights.gpt2(sizes, rng=0))
    >>> state["transformer.wte.weight"].shape
    torch.Size([50, 8])
    """
    form, names = _of(net, "to_transformers")
    return tensors("to_transformers", net, form, names)


class _Config:
    """A configuration: options with their defaults; what the network does not compute is refused.

    `fixed` are options that have one value here.
    """

    def __init__(self, owner: str, config: Any, **fixed: Any) -> None:
        expected = "a mapping, as config.json has one"
        self._owner, self._config = owner, instance(owner, "config", config, Mapping, expected)
        self.same("model_type", owner)
        for name, value in fixed.items():
            self.same(name, value)

    def __call__(self, name: str, default: Any) -> Any:
        return self._config.get(name, default)

    def same(self, name: str, expected: Any) -> None:
        """Check that an option has a value, or none."""
        self.choice(name, expected, {expected: expected, None: expected})

    def choice(self, name: str, default: Any, choices: Mapping[Any, Any]) -> Any:
        """Return what an option stands for."""
        value = self(name, default)
        if value not in choices:
            known = " or ".join(repr(c) for c in choices if c is not None)
            message = f"{self._owner}: {name} is {value!r}; this network computes {known}."
            raise ValueError(message)
        return choices[value]

    def size(self, name: str) -> int:
        """Return an option that has no default."""
        if name not in self._config:
            message = f"{self._owner}: config has no {name}; there are {', '.join(self._config)}."
            raise ValueError(message)
        return integer(self._owner, name, self._config[name])

    def rope_theta(self) -> float:
        """Return the base of rotary positions, which newer versions keep in a mapping."""
        rope = self("rope_parameters", None) or {}
        scaling = self("rope_scaling", None) or {}
        kind = {**rope, **scaling}.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            message = f"{self._owner}: rope_type is {kind!r}; this network computes 'default'."
            raise ValueError(message)
        return rope.get("rope_theta", self("rope_theta", 10000.0))


class _Maker:
    """Layers with the initial values and options of a configuration."""

    def __init__(self, get: _Config, rng: np.random.Generator, dtype: str) -> None:
        self._get, self._seed = get, 0
        initializer = functools.partial(normal, std=get("initializer_range", 0.02))
        self.options: dict[str, Any] = {"initializer": initializer, "rng": rng, "dtype": dtype}

    def affine(self, n_in: int, n_out: int, **options: Any) -> Affine:
        return Affine.init(n_in, n_out, flatten=False, **self.options, **options)

    def layer_norm(self, width: int) -> LayerNormalization:
        eps = self._get("layer_norm_epsilon", 1e-5)
        return LayerNormalization.init(width, eps=eps, dtype=self.options["dtype"])

    def seed(self) -> int:
        """Return a seed that no other layer has."""
        self._seed += 1
        return self._seed

    def dropout(self, name: str) -> Callable[[], dict[str, Layer]]:
        """Return what makes a part that drops values, or none where the rate is 0."""
        rate = self._get(name, 0.1)
        return lambda: {"drop": Dropout(rate, self.seed())} if rate else {}

    def head(self, embedding: Embedding, *, tied: bool = True) -> Affine:
        """Return the map to the logits: the embedding transposed, or weights of its own."""
        W = embedding.W.T
        if not self._get("tie_word_embeddings", tied):
            return self.affine(*W.shape, bias=False)
        return Affine(W, flatten=False)._materialize_at(None)


# The weights of transformers


def _of(net: Layer, owner: str) -> tuple[Form, dict[str, str]]:
    """Return the form of a network of ours, and their names of its parts."""
    check_layer(owner, net)
    if hasattr(net, "wte"):
        form, prefix = _GPT2, "transformer"
    elif hasattr(net, "embed_tokens"):
        form, prefix = _LLAMA, "model"
    else:
        message = f"{owner}: net is none that gpt2 or llama has made; from_torch is for others."
        raise TypeError(message)
    names = {}
    for leaf in form.leaves(owner, net):
        theirs = re.sub(r"(\.\d+)\.[01]\.", r"\1.", leaf.name)  # of a block's two parts
        theirs = re.sub(r"\.(gate|up|down)$", r".\1_proj", theirs)
        names[leaf.name] = theirs if theirs == "lm_head" else f"{prefix}.{theirs}"
    return form, names


def _gpt2_affine(layer: Affine) -> list[Relation]:
    """Its ``Conv1D`` has rows for inputs, as ours; only the last map, without a bias, has none."""
    if layer.b is None:
        return [transposed("weight", "W")]
    return with_bias(same("weight", "W"), layer)


def _gpt2_attention(layer: MultiHeadAttention) -> list[Relation]:
    return [
        packed("c_attn.weight", ("Wq", "Wk", "Wv")), packed("c_attn.bias", ("bq", "bk", "bv")),
        same("c_proj.weight", "Wo"), same("c_proj.bias", "bo"),
    ]  # fmt: skip


def _llama_attention(layer: MultiHeadAttention) -> list[Relation]:
    relations = []
    for name in "qkvo":
        weight = transposed(f"{name}_proj.weight", f"W{name}")
        relations += with_bias(weight, layer, f"{name}_proj.bias", f"b{name}")
    return relations


def _with_prefix(prefix: str, passed_over: str) -> Callable[[str], str | None]:
    """Return what names entries: models without a head have no prefix; some say nothing here."""

    def normal(key: str) -> str | None:
        if re.search(passed_over, key):
            return None
        return key if key.startswith((f"{prefix}.", "lm_head.")) else f"{prefix}.{key}"

    return normal


_GPT2 = Form(
    "GPT-2",
    {**RULES, Affine: _gpt2_affine, MultiHeadAttention: _gpt2_attention},
    normal=_with_prefix("transformer", r"\.attn\.(masked_)?bias$"),
)
_LLAMA = Form(
    "Llama",
    {**RULES, MultiHeadAttention: _llama_attention},
    normal=_with_prefix("model", r"\.rotary_emb\.inv_freq$"),
)
