"""The detectors, one class in one module each. A new module is the whole change: `load` finds it by walking here."""

from __future__ import annotations

import sys

from egress.config import Config
from egress.discovery import detectors
from egress.engine.signature import Signature
from egress.errors import EgressError

ATTRIBUTES = ("id", "severity", "technique", "listens", "see")


def load(config: Config | None = None) -> list[Signature]:
    """One fresh instance of every detector, sorted by id; one that has settings takes them by `configured(config)`.

    Raises EgressError where a module does not define exactly one class with ATTRIBUTES, or two share an id.
    """
    found: dict[str, Signature] = {}
    for file, detector in detectors(sys.modules[__name__], ATTRIBUTES):
        signature = detector.configured(config or Config()) if hasattr(detector, "configured") else detector()
        if signature.id in found:
            raise EgressError(f"{file}: another module has the id {signature.id!r}; choose one")
        found[signature.id] = signature
    return [found[key] for key in sorted(found)]
