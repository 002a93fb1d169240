"""Logging for TensorBoard."""

from __future__ import annotations

from typing import Any

from xplayers.reports.events import Event
from xplayers.saving.files import AnyPath, in_full

__all__ = ["TensorBoard"]


class TensorBoard:
    """A callback that writes the loss of each step and the rows of the history for TensorBoard.

    The loss of each step is ``step/loss``; columns of the history keep their names, at the last
    step of the epoch. Losses are written when they are fetched from the device, in blocks.

    Parameters
    ----------
    folder : path
        The directory of the event files (``~`` is the home directory), for
        ``tensorboard --logdir FOLDER``.

    Raises
    ------
    ImportError
        At the start of training, if neither tensorboardX nor PyTorch's writer is installed.

    Examples
    --------
    >>> import os
    >>> import xplayers as xl
    >>> board = xl.TensorBoard("runs/first")  # a writer is needed when training begins
    >>> os.path.basename(board.folder)
    'first'
    >>> net, loss = xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss()
    >>> trainer = xl.Trainer(net, loss, xl.Adam(), callbacks=[board])
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = in_full(folder, "TensorBoard", "folder")
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._writer = _writer()(self.folder)
        elif event.losses is not None:
            first = event.step - len(event.losses) + 1
            for i, loss in enumerate(event.losses.tolist()):
                self._writer.add_scalar("step/loss", loss, first + i)
        elif event.row is not None:
            for name, value in event.row.items():
                if name not in ("epoch", "step"):
                    self._writer.add_scalar(name, value, event.step)
            self._writer.flush()
        elif event.kind == "end" and self._writer is not None:
            self._writer.close()
            self._writer = None


def _writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            message = "TensorBoard: no writer is installed: pip install tensorboardX."
            raise ImportError(message) from error
    return SummaryWriter
