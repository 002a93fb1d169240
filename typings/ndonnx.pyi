"""The library, of which nothing is typed here."""

from typing import Any

def __getattr__(name: str) -> Any: ...
