"""What happens in a history: a table of events, steps and what people do between steps.

An event is a function of a world and of random numbers, which are the same in all worlds. What it
returns, or the error that it raises, has to be the same in all of them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

from fuzzer.optimizers import (
    attribute,
    bad_state,
    by_global,
    checkpoint,
    go_back,
    in_place,
    masked,
    new_optimizer,
    option,
    overlapping,
    penalty,
    state_anew,
    write_state,
)
from fuzzer.options import (
    loss_weights,
    new_loss,
    new_parts,
    new_precision,
    new_reduction,
    reduction_fails,
    reductions_anew,
)
from fuzzer.parameters import (
    assign,
    assign_attribute,
    assign_otherwise,
    load,
    move,
    remember,
    restore,
    swap,
    tie,
    untie,
    views_of_one,
    write,
    write_buffer,
)
from fuzzer.passes import (
    another_step,
    by_hand,
    close,
    collect,
    copied,
    evaluate,
    interrupted,
    modes_of_torch,
    passes,
    predict,
    shared_layer,
    update_in_between,
    zero_grads,
)
from fuzzer.steps import (
    all_sizes,
    at_the_same_time,
    decay_anew,
    in_a_thread,
    many,
    mistake,
    one_buffer,
    overflow,
    rate_given,
    same_batch,
    steps,
    weighted,
)
from fuzzer.worlds import World


@dataclasses.dataclass(frozen=True)
class Row:
    """An event; `still`: it does not end replays."""

    happen: Callable[[World, Generator], Any]
    often: float = 1.0
    still: bool = False


EVENTS: dict[str, Row] = {
    "steps": Row(steps, 25, still=True),
    "same batch": Row(same_batch, 4, still=True),
    "one buffer": Row(one_buffer, 1, still=True),
    "at the same time": Row(at_the_same_time, 0.5),
    "all sizes": Row(all_sizes, 1),
    "many": Row(many, 1),
    "rate given": Row(rate_given, 1, still=True),
    "weighted": Row(weighted, 3, still=True),
    "in a thread": Row(in_a_thread, 0.5, still=True),
    "decay anew": Row(decay_anew, 1, still=True),
    "assign": Row(assign, 2),
    "assign attribute": Row(assign_attribute, 2),
    "assign otherwise": Row(assign_otherwise, 2),
    "swap": Row(swap),
    "views of one": Row(views_of_one),
    "write": Row(write),
    "write buffer": Row(write_buffer),
    "remember": Row(remember, still=True),
    "restore": Row(restore),
    "load": Row(load),
    "move": Row(move),
    "tie": Row(tie, 0.5),
    "untie": Row(untie, 0.3),
    "new optimizer": Row(new_optimizer),
    "attribute": Row(attribute, 2),
    "in place": Row(in_place),
    "option": Row(option),
    "penalty": Row(penalty, 0.5),
    "masked": Row(masked, 0.5),
    "by global": Row(by_global, 0.3),
    "overlapping": Row(overlapping, 0.5),
    "state anew": Row(state_anew),
    "write state": Row(write_state),
    "checkpoint": Row(checkpoint, still=True),
    "go back": Row(go_back),
    "bad state": Row(bad_state, 0.3),
    "new reduction": Row(new_reduction),
    "reductions anew": Row(reductions_anew, 0.5),
    "reduction fails": Row(reduction_fails),
    "new loss": Row(new_loss),
    "loss weights": Row(loss_weights, 0.5),
    "new precision": Row(new_precision, 0.3),
    "new parts": Row(new_parts, 0.5),
    "passes": Row(passes, 2),
    "predict": Row(predict, 2, still=True),
    "evaluate": Row(evaluate, 0.5, still=True),
    "update in between": Row(update_in_between, 0.5),
    "another step": Row(another_step),
    "shared layer": Row(shared_layer),
    "by hand": Row(by_hand),
    "interrupted": Row(interrupted, 0.5),
    "modes of torch": Row(modes_of_torch, 0.5, still=True),
    "copied": Row(copied, 2),
    "close": Row(close, 0.5),
    "collect": Row(collect, 0.5, still=True),
    "zero grads": Row(zero_grads, 0.5, still=True),
    "mistake": Row(mistake, 2),
    "overflow": Row(overflow, 0.5),
}
