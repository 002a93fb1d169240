"""Names of other libraries, and their counterparts here, for the messages of AttributeError.

They are looked up only for missing attributes, so existing names always take precedence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from xplayers._calls import call_signature, wrong_call


def _by_name(table: Mapping[str, str]) -> dict[str, str]:
    """Return the hints by foreign name, from the foreign names by hint."""
    return {name: hint for hint, names in table.items() for name in names.split()}


# Names of the package, in lower case and without underscores.
PACKAGE = _by_name(
    {
        "Affine": "linear dense fullyconnected fc linearlayer",
        "Affine(W), without a bias,": "matmul",
        "Affine(W, b, flatten=False)": "timeaffine",
        "Dropout": "timedropout",
        "Lstm.init(n_in, n_hidden, bidirectional=True)": "timebilstm bilstm bidirectional",
        "Convolution": "conv conv1d conv2d conv3d convolution2d",
        "ConvolutionTranspose": (
            "convtranspose1d convtranspose2d convtranspose3d conv2dtranspose deconv"
        ),
        "MaxPooling": "maxpool maxpool1d maxpool2d maxpool3d maxpooling2d pooling",
        "AveragePooling": "avgpool avgpool1d avgpool2d avgpool3d averagepooling2d avgpooling",
        "GlobalAveragePooling": (
            "adaptiveavgpool2d globalaveragepooling2d globalavgpool globalavgpooling"
        ),
        "BatchNormalization": "batchnorm batchnorm1d batchnorm2d batchnorm3d",
        "GroupNormalization": "groupnorm instancenorm instancenorm2d",
        "RmsNormalization": "rmsnorm",
        "LayerNormalization": "layernorm",
        "Rnn": "simplernn rnncell timernn",
        "Lstm": "lstmcell timelstm",
        "Gru": "grucell timegru",
        "GatedMlp": "swiglu geglu glu",
        "RotaryEmbedding": "rope rotary",
        "MultiHeadAttention": "attention selfattention mha",
        "Map": "timedistributed vmap",
        "Silu": "swish",
        "SoftmaxWithLoss": (
            "crossentropyloss crossentropy softmaxcrossentropy softmaxcrossentropyloss "
            "categoricalcrossentropy sparsecategoricalcrossentropy nllloss "
            "softmaxcrossentropywithlogits logsoftmaxloss timesoftmaxwithloss"
        ),
        "SigmoidWithLoss": "bce bceloss bcewithlogitsloss binarycrossentropy sigmoidcrossentropy",
        "MeanSquaredError": "mse mseloss l2loss meansquarederrorloss",
        "MeanAbsoluteError": "mae maeloss l1loss meanabsoluteerrorloss",
        "Huber": "huberloss smoothl1loss",
        "Sequential": "model network neuralnetwork net",
        "Layer": "module function",
        "mlp": "multilayerperceptron multilayernet multilayernetextend twolayernet",
        "Trainer(net, loss, optimizer).fit(x, t)": "fit train training",
        "TrainStep": "compile jit trainstate",
        "Batches": "dataloader dataset tensordataset batch",
        "clip_by_norm": "clipgradnorm clipgradients clipbyglobalnorm clipgrads",
        "check_gradients": "gradcheck gradientcheck checkgrad",
        "Trainer(net, loss, optimizer, patience=3)": "earlystopping",
        "Checkpoint": "modelcheckpoint",
        "MixedPrecision": "lossscaler gradscaler autocast amp",
        'Parallel(*layers, combine="concatenate")': "concat concatenate",
        "Adam(lr=0.001), or another optimizer,": "optim optimizers",
        "Affine, xplayers.Relu and other layers": "nn",
        "Residual": "add skip skipconnection",
        "save": "savemodel savenetwork",
        "load": "loadnetwork",
        "accuracy": "accuracyscore",
        "data.load_digits": "loaddigits digits",
        "data.load_mnist": "loadmnist mnist datasets",
        "schedules.Step": "steplr multisteplr",
        "schedules.Exponential": "exponentiallr exponentialdecay",
        "schedules.Cosine": "cosineannealinglr cosinedecay",
        "schedules.OneCycle": "onecyclelr",
        "schedules.Schedule": "lrscheduler scheduler learningratescheduler",
        "functional.cross_entropy_error": "crossentropyerror",
        "functional.relu_derivative": "relugrad",
        "functional.sigmoid_derivative": "sigmoidgrad",
        'MeanSquaredError(reduction="sum"), without the factor 1/2,': "sumsquarederror",
        "functional.log_softmax": "logsoftmax",
        "initializers.xavier_uniform": "glorotuniform xavieruniform",
        "initializers.xavier_normal": "glorotnormal xaviernormal",
        "initializers.he_normal": "kaimingnormal henormal",
        "initializers.he_uniform": "kaiminguniform heuniform",
    }
)

NETWORK = _by_name(
    {
        "xplayers.Trainer(net, loss, optimizer).fit(x, t) trains it.": (
            "fit train_on_batch fit_generator"
        ),
        "There is no mode: forward is for training, predict for everything else.": (
            "train eval training"
        ),
        "xplayers.TrainStep(net, loss, optimizer) is the whole step, compiled.": "compile",
        "xplayers.evaluate(net, loss, x, t) does it.": "evaluate",
        "xplayers.summary(net, input_shape) is one, as summary(net, (1, 28, 28)).": "summary",
        "xplayers.summary(net, input_shape) counts them.": "count_params",
        "net.params is a mapping of the parameters, by name.": (
            "parameters named_parameters weights get_weights trainable_weights trainable_variables "
            "variables get_params"
        ),
        "net.params.update(arrays) sets them.": "set_weights load_state_dict",
        "net.arrays has parameters and buffers by name.": "state_dict",
        "xplayers.save(path, net) writes it to a file, xplayers.load(path, net) reads one.": (
            "save load save_weights load_weights"
        ),
        "net.zero_grads() drops them; the backward after a forward overwrites them.": "zero_grad",
        "net.grads has them by name, as net.params.": "grad gradients gradient",
        "net.to(xp=..., device=..., dtype=...) moves it, net.to(like=x) to the device of x.": (
            "cuda cpu half float double device gpu"
        ),
        "net[0], net['name'] and iter(net) are the layers of a Sequential.": (
            "layers modules children get_layer"
        ),
        "Sequential(*layers) takes all its layers at once.": "add append",
        "The weights are W, their gradient dW.": "weight kernel",
        "The bias is b, its gradient db.": "bias",
        "predict(x) does it: a fitted Standardize is a layer.": "transform fit_transform",
        "xplayers.functional.softmax(net.predict(x)) are the probabilities.": "predict_proba",
        "forward returns the output and keeps only what backward needs.": "x y t out loss mask idx",
        "It is padding.": "pad",
        "It is rate.": "dropout_ratio",
        "The state is an argument: forward(x, *state), with state = layer.final_state().": (
            "reset_state set_state stateful h c"
        ),
    }
)

# Keyword arguments.
ARGUMENTS = _by_name(
    {
        "It is padding.": "pad",
        "It is rate.": "dropout_ratio dropout_rate p drop_prob",
        "It is size.": "pool_h pool_w pool_size kernel_size filter_size",
        "It is stride.": "strides",
        "It is lr.": "learning_rate",
        "It is b.": "bias",
        "It is W.": "weight weights kernel",
        "It is axis.": "dim",
        "It is eps.": "epsilon",
        "It is beta1.": "beta_1",
        "It is beta2.": "beta_2",
        "It is decay_rate.": "decay rho alpha",
        "Set it later: layer.running_mean = array, layer.running_var = array.": (
            "running_mean running_var"
        ),
        "The state is an argument: forward(x, *state), with state = layer.final_state().": (
            "stateful return_sequences"
        ),
        "It is train: forward(x, train=False), the same as predict(x).": "train_flg training",
        "It is validation.": "validation_data validation_split",
        "It is grads.": "gradients",
        "It is params.": "parameters",
        "It is sample_weight.": "sample_weights",
        "rng=0 shuffles, with 0 as the seed.": "shuffle",
        "Trainer(net, loss, optimizer, batch_size=32, epochs=10) has it.": "batch_size epochs",
    }
)

TRAINER = _by_name(
    {
        "Its network does it: net.predict(x).": "predict forward",
        "Its network does it: functional.softmax(net.predict(x)).": "predict_proba",
        "xplayers.Trainer(net, loss, optimizer).fit(x, t) trains.": "fit train",
        "Trainer(net, loss, optimizer) has it all.": "compile",
        "step(x, t) is all of it.": "step backward update zero_grad",
        "xplayers.evaluate(net, loss, x, t) does it.": "evaluate score",
        "xplayers.save(path, net) writes the network to a file.": "save save_weights",
    }
)

OPTIMIZER = _by_name(
    {
        "The backward after a forward overwrites gradients; net.zero_grads() drops them.": (
            "zero_grad"
        ),
        "It is lr.": "learning_rate",
        "The learning rate is lr; update(net.params, net.grads) updates all.": "param_groups",
        "update(net.params, net.grads) takes a step.": "apply_gradients minimize apply",
        "It is state, a dict, None at first.": "state_dict load_state_dict",
    }
)


class Foreign:
    """Descriptor of a name that layers do not have; a ``__getattr__`` would slow down all others.

    Attributes of an object and of a subclass take precedence.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        raise missing_attribute(owner if obj is None else obj, self.name, NETWORK, "attribute")

    def __repr__(self) -> str:
        return f"<missing. {NETWORK[self.name]}>"


def check_arguments(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raise an error if a method takes no such arguments, with the counterparts of foreign ones.

    `name` is what people call; the first parameter of the function, ``self``, is left out.
    """
    signature = inspect.Signature()
    if function is not object.__init__:
        signature = call_signature(function, bound=True)
    wrong = wrong_call(signature, args, kwargs)
    if wrong:
        message = f"{name}: {wrong}; expected {name}{signature}. {foreign(signature, kwargs)}"
        raise TypeError(message.strip())


def foreign(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> str:
    """Return the counterparts of foreign names of arguments among those of a signature."""
    hints = dict.fromkeys(ARGUMENTS.get(n, "") for n in kwargs if n not in signature.parameters)
    ours = [h for h in hints if h[6:-1] in signature.parameters or not h.startswith("It is ")]
    return " ".join(filter(None, ours))


def with_checked_arguments(init: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `init` of a layer with errors of `check_arguments` for wrong arguments."""

    @functools.wraps(init)
    def checked(cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return init(cls, *args, **kwargs)
        except TypeError:
            check_arguments(f"{cls.__name__}.init", init, args, kwargs)
            raise

    return checked


def missing_in_package(
    name: str, public: Iterable[str], functions: Iterable[str]
) -> AttributeError:
    """Return the error for a name that the package does not have, but perhaps `functional`."""
    key = name.replace("_", "").lower()
    own = {n.replace("_", "").lower(): n for n in public}
    counterpart = ""
    if not name.startswith("_"):
        import difflib  # only imported for errors

        close = difflib.get_close_matches(key, own, 1, 0.8) or [""]
        counterpart = own.get(key) or PACKAGE.get(key) or own.get(close[0])
    if name in functions:
        counterpart = f"functional.{name}" + (
            f", or the layer xplayers.{own[key]}" if key in own else ""
        )
    hint = f" It is xplayers.{counterpart} here." if counterpart else ""
    return AttributeError(f"module 'xplayers' has no attribute {name!r}.{hint}", name=name)


def missing_function(name: str) -> NoReturn:
    """Raise the error for a name that `xplayers.functional` does not have."""
    ours = PACKAGE.get(name.replace("_", "").lower())
    hint = f" It is xplayers.{ours} here." if ours else ""
    message = f"module 'xplayers.functional' has no attribute {name!r}.{hint}"
    raise AttributeError(message)


def missing_attribute(obj: Any, name: str, hints: Mapping[str, str], what: str) -> AttributeError:
    """Return the error for a missing attribute of an object; `what` names it, as "attribute"."""
    hint = f" {hints[name]}" if name in hints else ""
    kind = obj if isinstance(obj, type) else type(obj)
    message = f"{kind.__name__} has no {what} {name!r}.{hint}"
    return AttributeError(message, name=name, obj=obj)
