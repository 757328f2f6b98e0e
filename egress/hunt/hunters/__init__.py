"""The hunters (slow detectors), one class in each module. To add one, add a module: `load` finds it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase

from egress.discovery import detectors
from egress.errors import EgressError, InputError
from egress.hunt.hunter import Hunter

ATTRIBUTES = ("id", "technique", "about", "hunt")


def load(only: Sequence[str] = ()) -> list[Hunter]:
    """Make every hunter, or those whose id matches one of `only` (ids, `beacon.*`), sorted by id.

    Raises InputError if no hunter has such an id, EgressError if a module does not define exactly one hunter.
    """
    found: dict[str, Hunter] = {}
    for file, detector in detectors(sys.modules[__name__], ATTRIBUTES):
        hunter: Hunter = detector()
        if hunter.id in found:
            raise EgressError(f"{file}: another module has the id {hunter.id!r}; choose one")
        found[hunter.id] = hunter
    for pattern in only:
        if not any(fnmatchcase(each, pattern) for each in found):
            raise InputError(f"unknown hunter {pattern[:60]!a}; the hunters are {', '.join(sorted(found))}")
    return [found[key] for key in sorted(found) if not only or any(fnmatchcase(key, pattern) for pattern in only)]
