"""Data-parallel training: many processes, each on its part of every batch, as if they were one.

Start the same script several times, as ``mpiexec -n 4 python train.py``, with one more argument ::

    group = xl.parallel.group()  # of all processes; of this one, where it was started alone
    step = xl.TrainStep(net, loss, optimizer, group=group)
    for x, t in batches:
        step(x[group.rank :: group.size], t[group.rank :: group.size])

Every process makes the same network and options, and takes its part of each batch. In each update
one sum over the ranks is made of one flat array: gradients and loss, times the weight of their
samples, running statistics, and the weights. Divided by the sum of the weights these are the
gradients and the loss of the whole batch, whatever the sizes of the parts, class weights and
ignored labels. So all ranks take the same step, bit by bit, which is that of one process up to
rounding. Clipping and ``reduce_grads`` see the gradients of the whole batch. `BatchNormalization`
normalizes by the statistics of its part; the running ones are averaged. `Dropout` draws other masks
on each rank.

An exception that nobody catches ends all processes of the job. ``sys.exit`` on one rank does so
only under ``python -m mpi4py train.py``.

A group needs `rank`, `size` and four methods, so engines other than MPI fit in: see `Group`. MPI
comes with ``pip install "xplayers[mpi]"`` from a cluster, or ``pip install mpich``.
"""

from __future__ import annotations

from xplayers.parallel.groups import Group, SelfGroup, group
from xplayers.parallel.mpi import MPIGroup

__all__ = ["Group", "MPIGroup", "SelfGroup", "group"]
