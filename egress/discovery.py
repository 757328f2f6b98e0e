"""Finds detectors by walking their package, so that a new module is the whole change."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from egress.errors import EgressError


def detectors(package: ModuleType, attributes: tuple[str, ...]) -> Iterator[tuple[str, type[Any]]]:
    """Yield the file (`package/module.py`) and the detector class of each module of a package, by module name.

    It imports each module. The detector class is the one class that the module defines with all these attributes.
    Raises EgressError for a module with none or several.
    """
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        file = f"{package.__name__.rpartition('.')[2]}/{info.name}.py"
        classes = [
            item
            for _, item in inspect.getmembers(module, inspect.isclass)
            if item.__module__ == module.__name__ and all(hasattr(item, name) for name in attributes)
        ]
        if len(classes) != 1:
            raise EgressError(f"{file}: define exactly one class with {', '.join(attributes)}; it has {len(classes)}")
        yield file, classes[0]
