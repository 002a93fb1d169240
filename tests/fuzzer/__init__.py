"""A differential fuzzer of the training step: random networks with random histories.

A case is a network, a loss, an optimizer, and a list of events: steps, and what people do between
steps. It is played in three worlds that start the same: `TrainStep` as everyone gets it (which is
replayed), with ``compile=False``, and the loop that is written by hand. After every event all that
can be seen has to be the same, bit by bit.

Everything is drawn from ``[seed, number of the case]``, and every part of a case has a seed of its
own, so that a part can be dropped without a change to the others.

`networks` has the table of layers, `settings` those of losses, optimizers and what else a step is
made of, `batches` that of memory layouts, `events` that of events; `worlds` are the three ways to
train, `histories` draws, plays and shrinks cases.
"""
