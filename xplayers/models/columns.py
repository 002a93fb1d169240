"""The columns of a table that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Columns(NamedTuple):
    """The names of the columns that become samples, the categories of some, and the target.

    A column of numbers is one value of a sample, a column of categories one for each of them: 1
    for its own, else 0.
    """

    names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    target: str

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the values of a sample, as ``city=Oslo`` for those of categories."""
        return tuple(
            f"{name}={category}" if name in self.categories else name
            for name in self.names
            for category in self.categories.get(name, ("",))
        )

    def metadata(self) -> dict[str, Any]:
        """Return JSON values, for `from_metadata`."""
        return self._asdict()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Check the metadata of a file and return the columns."""
        names = tuple(map(str, metadata["names"]))
        categories = {str(k): tuple(map(str, v)) for k, v in metadata["categories"].items()}
        if not set(categories) <= set(names):
            message = "its categories are of other columns"
            raise ValueError(message)
        return cls(names, categories, str(metadata["target"]))
