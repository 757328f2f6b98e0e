"""The engine's limits."""

from __future__ import annotations

import pytest

from egress.errors import InputError
from egress.limits import Limits


@pytest.mark.parametrize("wrong", [{"evidence_packets": 65}, {"evidence_bytes": 32769}, {"evidence_packets": -1}])
def test_evidence_is_bounded_by_what_a_record_may_hold(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="evidence_packets must be from 0 to 64"):
        Limits(**wrong)
