"""The library, not the door of that name in `xplayers`, which is found where it is missing."""

from typing import Any

def __getattr__(name: str) -> Any: ...
