"""The number of examples that a property tries: the one it names, or fewer with `make test FAST=1`."""

from __future__ import annotations

from hypothesis import settings

FAST = "fast"


def examples(whole: int) -> int:
    """The number given, which is for a whole run; in a fast run at most that of the profile `fast`."""
    return min(whole, settings.default.max_examples) if settings.get_current_profile_name() == FAST else whole
