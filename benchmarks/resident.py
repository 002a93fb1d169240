"""The resident memory of this process, in bytes, as Linux counts it."""

from __future__ import annotations

import os
import re
from pathlib import Path

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measurable() -> bool:
    """Say whether this system has what the functions below need."""
    return _STATUS.exists() and os.access(_FORGET, os.W_OK)


def now() -> int:
    """Return what is resident now."""
    return _status("VmRSS")


def peak() -> int:
    """Return the most that has been resident since the last `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew, at what is resident now."""
    _FORGET.write_text("5")


def _status(name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(kilobytes) * 1024
