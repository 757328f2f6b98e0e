"""The detectors, one class in one module each. A new module is the whole change: `load` finds it by walking here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import cast

from egress.config import Config
from egress.engine.signature import Signature
from egress.errors import EgressError

ATTRIBUTES = ("id", "severity", "technique", "listens", "see")


def load(config: Config | None = None) -> list[Signature]:
    """One fresh instance of every detector, sorted by id; one that has settings takes them by `configured(config)`.

    Raises EgressError where a module does not define exactly one class with ATTRIBUTES, or two share an id.
    """
    found: dict[str, Signature] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        detector = _detector(importlib.import_module(f"{__name__}.{module.name}"))
        signature = detector.configured(config or Config()) if hasattr(detector, "configured") else detector()
        if signature.id in found:
            raise EgressError(f"signatures/{module.name}.py: another module has the id {signature.id!r}; choose one")
        found[signature.id] = signature
    return [found[key] for key in sorted(found)]


def _detector(module: ModuleType) -> type[Signature]:
    classes = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if item.__module__ == module.__name__ and all(hasattr(item, name) for name in ATTRIBUTES)
    ]
    if len(classes) != 1:
        where = f"signatures/{module.__name__.rpartition('.')[2]}.py"
        needed = ", ".join(ATTRIBUTES)
        raise EgressError(f"{where}: define exactly one class with {needed}; it has {len(classes)}")
    return cast(type[Signature], classes[0])
