"""Data-parallel training: many processes, each on its part of every batch, as if they were one.

Start the same script several times, as ``mpiexec -n 4 python train.py``, with one more argument ::

    group = xl.parallel.group()  # of all processes; of this one, where it was started alone
    trainer = xl.Trainer(net, loss, optimizer, batch_size=512, group=group)
    trainer.fit(x, t, validation=(x_val, t_val))

or, in a loop, ``step = TrainStep(net, loss, optimizer, group=group)`` with the batches of
``minibatches(x, t, 512, rng=epoch, group=group)``.

Every process makes the same network, options and data, and takes its part of each batch; the first
step begins with the arrays of rank 0, after what differs has been refused by name. In each update
one sum over the ranks is made of one flat array: gradients and loss, times the weight of their
samples, running statistics, and the weights. Divided by the sum of the weights these are the
gradients and the loss of the whole batch, whatever the sizes of the parts, class weights and
ignored labels. So all ranks take the same step, bit by bit, which is that of one process up to
rounding. Clipping and ``reduce_grads`` see the gradients of the whole batch. `Dropout` draws other
masks on each rank. Evaluations are shared out too, and exact.

`BatchNormalization` normalizes by the statistics of its part, as in PyTorch, and the running ones
are averaged. With ``group(synchronized=True)`` these are sums over the ranks too, two in a forward
pass of each layer and one in its backward, and the step is that of one process there also: for
parts of few samples. That is PyTorch's ``SyncBatchNorm``, ``BatchNormalization(synchronized=True)``
of Keras and ``sync_batchnorm`` of Lightning.

Stopping early, the best epoch, Ctrl-C and a loss that is not finite are decided on all ranks at the
same step. Rank 0 writes checkpoints, which all read, and shows progress. A run resumes with the
same bits on as many ranks, and up to rounding on another number.

An exception that nobody catches ends all processes of the job. ``sys.exit`` on one rank does so
only under ``python -m mpi4py train.py``.

A group needs `rank`, `size` and four methods, so engines other than MPI fit in: see `Group`. MPI
comes with ``pip install "xplayers[mpi]"`` from a cluster, or ``pip install mpich``; it starts
processes for CuPy arrays too, which are summed by NCCL. With PyTorch
``torchrun --nproc-per-node 4 train.py`` does it too.
"""

from __future__ import annotations

from xplayers.parallel.groups import Group, RanksLost, SelfGroup, group
from xplayers.parallel.mpi import MPIGroup
from xplayers.parallel.nccl import NcclGroup
from xplayers.parallel.pytorch import TorchGroup

__all__ = [
    "Group", "MPIGroup", "NcclGroup", "RanksLost", "SelfGroup", "TorchGroup", "group",
]  # fmt: skip
