"""Settings of the whole suite."""

from __future__ import annotations

import os

from hypothesis import settings

# Two busy cores make any deadline flaky. CI repeats the same examples; elsewhere new ones are tried each time.
settings.register_profile("egress", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("egress")
