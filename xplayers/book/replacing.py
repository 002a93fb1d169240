"""Import a reader's modules, with the book's classes in them replaced and `np` on a device."""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

from xplayers.book.device import Device

REPLACED = ("functions", "gradient", "layers", "optimizer", "time_layers")


def book_of(script: Path) -> Path:
    """Return the folder with the book's ``common``: that of the script, or the one above it."""
    for folder in (script.parent, script.parent.parent):
        if (folder / "common").is_dir():
            return folder
    return script.parent


class Reader:
    """The finder of a reader's modules, those in the `folder` of the book.

    Parameters
    ----------
    folder : Path
        Where ``common`` is.
    device : Device, optional
        Whose ``np`` the modules get. None: the book's own code runs, with NumPy.
    changed : callable, optional
        Called with the name and the dict of each module of `REPLACED`, once it is imported.
    """

    def __init__(
        self, folder: Path, device: Device | None,
        changed: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.changed = folder, device, changed
        self.replaced: dict[str, list[str]] = {}  # names by module
        self.own: dict[str, list[str]] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def run(self, script: Path, arguments: list[str]) -> None:
        """Run the script as Python would."""
        main = types.ModuleType("__main__")
        main.__file__ = str(script)
        vars(main)["__builtins__"] = self.builtins
        sys.modules["__main__"] = main
        sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
        sys.path.append(str(self.folder))  # from which folder soever it is run
        sys.meta_path.insert(0, self)
        try:
            exec(compile(script.read_bytes(), str(script), "exec"), vars(main))
        except ModuleNotFoundError as error:
            if error.name in ("common", "dataset"):
                note = f"The script needs the folder {error.name} of the book's repository, in its"
                error.add_note(f"{note} own folder or the one above. Run it where it is there.")
            raise

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a module of the reader, to be loaded here; None of others."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader) or not spec.origin:
            return None
        file = Path(spec.origin).resolve()
        if not file.is_relative_to(self.folder) or "site-packages" in file.parts:
            return None
        spec.loader = _Loader(self, name, spec.origin)
        return spec

    def replace(self, name: str, names: dict[str, Any]) -> None:
        """Replace what is ours in a module that has been imported."""
        package, _, part = name.partition(".")
        if package != "common" or part not in REPLACED:
            return
        if self.device is not None:
            ours = vars(importlib.import_module(f"xplayers.book.{part}"))
            own = [n for n, a in names.items() if getattr(a, "__module__", "") == name]
            self.replaced[name] = [n for n in own if n in ours]
            self.own[name] = [n for n in own if n not in ours and not n.startswith("_")]
            names.update({n: ours[n] for n in self.replaced[name]})
        if self.changed is not None:
            self.changed(part, names)

    def _import(
        self, name: str, names: Any = None, local: Any = None, items: Any = (), level: int = 0
    ) -> Any:
        """Import for a module of the reader: `numpy` and `pickle` are the device's."""
        top, *rest = name.split(".")
        device = self.device
        if level or device is None or device.is_plain or top not in ("numpy", "cupy", "pickle"):
            return builtins.__import__(name, names, local, items, level)
        module: Any = device.pickle if top == "pickle" else device.np
        for part in rest if items else ():
            module = getattr(module, part)
        return module


class _Loader(SourceFileLoader):
    """The loader of a module of the reader."""

    def __init__(self, reader: Reader, name: str, path: str) -> None:
        super().__init__(name, path)
        self.reader = reader

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__builtins__"] = self.reader.builtins
        super().exec_module(module)
        self.reader.replace(module.__name__, vars(module))
