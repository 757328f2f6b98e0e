"""The number of examples that a property tries: the one it names, or fewer with `make test FAST=1`."""

from __future__ import annotations

from hypothesis import settings

FAST = "fast"


def examples(whole: int) -> int:
    """The number given, which is for a whole run; in a fast run at most that of the profile `fast`."""
    fast = settings.get_current_profile_name() == FAST
    return min(whole, settings.get_profile(FAST).max_examples) if fast else whole
