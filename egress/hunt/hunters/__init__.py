"""The slow detectors, one class a module. A new module is the whole change: `load` finds it by walking here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import cast

from egress.errors import EgressError, InputError
from egress.hunt.hunter import Hunter

ATTRIBUTES = ("id", "technique", "about", "hunt")


def load(only: Sequence[str] = ()) -> list[Hunter]:
    """Every hunter, or those whose id matches one of `only` (ids, `beacon.*`), sorted by id.

    Raises InputError where none has such an id, EgressError where a module does not define exactly one hunter.
    """
    found: dict[str, Hunter] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        hunter = _hunter(importlib.import_module(f"{__name__}.{info.name}"))
        if hunter.id in found:
            raise EgressError(f"hunters/{info.name}.py: another module has the id {hunter.id!r}; choose one")
        found[hunter.id] = hunter
    for pattern in only:
        if not any(fnmatchcase(each, pattern) for each in found):
            raise InputError(f"there is no hunter {pattern[:60]!a}; there are {', '.join(sorted(found))}")
    return [found[key] for key in sorted(found) if not only or any(fnmatchcase(key, pattern) for pattern in only)]


def _hunter(module: ModuleType) -> Hunter:
    classes = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if item.__module__ == module.__name__ and all(hasattr(item, name) for name in ATTRIBUTES)
    ]
    if len(classes) != 1:
        where = f"hunters/{module.__name__.rpartition('.')[2]}.py"
        raise EgressError(f"{where}: define exactly one class with {', '.join(ATTRIBUTES)}; it has {len(classes)}")
    return cast(Hunter, classes[0]())
