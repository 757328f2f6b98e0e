"""The detectors, one class in each module. To add one, add a module: `load` finds it."""

from __future__ import annotations

import sys

from egress.config import Config
from egress.discovery import detectors
from egress.engine.signature import Signature, SignatureSettings
from egress.errors import EgressError

ATTRIBUTES = ("id", "severity", "technique", "listens", "see")


def load(config: SignatureSettings | None = None) -> list[Signature]:
    """Make one instance of every detector with the settings of `config` (default: `Config()`), sorted by id.

    Raises EgressError if a module does not define exactly one class with ATTRIBUTES that derives from Signature, or if
    two detectors share an id.
    """
    found: dict[str, Signature] = {}
    for file, detector in detectors(sys.modules[__name__], ATTRIBUTES):
        if not issubclass(detector, Signature):
            raise EgressError(f"{file}: derive {detector.__name__} from egress.engine.signature.Signature")
        signature = detector.configured(config or Config())
        if signature.id in found:
            raise EgressError(f"{file}: another module has the id {signature.id!r}; choose one")
        found[signature.id] = signature
    return [found[key] for key in sorted(found)]
