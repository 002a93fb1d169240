"""The bodies of NumPy."""

from typing import Any

import numpy as np

from xplayers.accelerate.host import (
    activations,
    convolution,
    dropout,
    elementwise,
    embedding,
    indexing,
    normalization,
    pooling,
    recurrent,
    softmax,
    sums,
)
from xplayers.accelerate.replay.replayed import Replayed


def compiled(x: Any, step: Any) -> Any:
    """Return what takes the steps: replays, unless something else is asked for."""
    auto = type(x) is np.ndarray and step.compile == "auto" and step.gemm is None
    return Replayed(step) if auto else NotImplemented


BODIES = {
    "compiled": compiled,
    "evaluate": elementwise.evaluate,
    "zero_unless": elementwise.zero_unless,
    "relu_and_sign": activations.relu_and_sign,
    "product": sums.product,
    "column_sums": sums.column_sums,
    "channel_sums": sums.channel_sums,
    "channel_products": sums.channel_products,
    "sum_of_squares": sums.sum_of_squares,
    "sums_by_index": embedding.sums_by_index,
    "positions": indexing.positions,
    "samples": indexing.samples,
    "taken": indexing.taken,
    "put": indexing.put,
    "correlate": convolution.correlate,
    "correlate_transposed": convolution.correlate_transposed,
    "filter_gradient": convolution.filter_gradient,
    "max_pooling_gradient": pooling.max_pooling_gradient,
    "average_pooling_gradient": pooling.average_pooling_gradient,
    "normalized_channels": normalization.normalized_channels,
    "normalized_rows": normalization.normalized_rows,
    "normalized_rows_gradient": normalization.normalized_rows_gradient,
    "batch_normalization": normalization.batch_normalization,
    "batch_normalization_gradient": normalization.batch_normalization_gradient,
    "group_normalization": normalization.group_normalization,
    "group_normalization_gradient": normalization.group_normalization_gradient,
    "layer_normalization": normalization.layer_normalization,
    "layer_normalization_gradient": normalization.layer_normalization_gradient,
    "rms_normalization": normalization.rms_normalization,
    "rms_normalization_gradient": normalization.rms_normalization_gradient,
    "drop": dropout.drop,
    "masked": dropout.masked,
    "lstm_cell": recurrent.lstm_cell,
    "lstm_cell_gradient": recurrent.lstm_cell_gradient,
    "attention_weights": softmax.attention_weights,
    "softmax_along": softmax.softmax_along,
    "softmax_gradient": softmax.softmax_gradient,
    "cross_entropy_of_labels": softmax.cross_entropy_of_labels,
    "cross_entropy_of_targets": softmax.cross_entropy_of_targets,
}
