"""Budgets as text, `MEASURE=LIMIT/SPAN` (bytes=10mb/hour), and as JSON: strict reading, and writing.

Errors are ValueErrors: phrases that follow the value and state the right form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from egress.model import Budget, BudgetSpan, Measure

FORM = "MEASURE=LIMIT/SPAN, such as bytes=10mb/hour, connections=100/minute or destinations=20/episode"
MAX_LIMIT = (1 << 53) - 1  # every reader of JSON holds this exactly; 9 petabytes

_TEXT = re.compile(r"([a-z]+)=([0-9]{1,16})([A-Za-z]*)/([a-z]+)", re.ASCII)
_AMOUNT = re.compile(r"([0-9]{1,16})([A-Za-z]*)", re.ASCII)
_UNITS = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "g": 10**9, "m": 10**6, "k": 10**3, "b": 1, "": 1}
_MEASURES = {measure.value: measure for measure in Measure}
_SPANS = {span.value: span for span in BudgetSpan}


def parse_budget(text: str) -> Budget:
    """Read a budget such as `bytes=10mb/hour`. Raises ValueError.

    Only a limit of bytes may have a unit: k, m or g, decimal (1k = 1000), in either case, with or without b.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"must be {FORM}")
    measure, span = _MEASURES.get(match[1]), _SPANS.get(match[4])
    if measure is None:
        raise ValueError(f"is not a valid measure: must be {' or '.join(_MEASURES)}, as in bytes=10mb/hour")
    if span is None:
        raise ValueError(f"has no valid span: must end with /{' or /'.join(_SPANS)}")
    unit = _UNITS.get(match[3].lower())
    if unit is None or (match[3] and measure is not Measure.BYTES):
        sizes = "a whole number, for bytes also with k, m or g (10mb)"
        raise ValueError(f"has a limit that is not a number: must be {sizes}")
    budget = Budget(measure, int(match[2]) * unit, span)
    check_budgets((budget,))
    return budget


def parse_bytes(text: str) -> int:
    """Read an amount of bytes, written as in a budget: `10mb`. Raises ValueError."""
    match = _AMOUNT.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None or not 0 < int(match[1]) * unit <= MAX_LIMIT:
        raise ValueError(f"must be a number of bytes from 1 to {MAX_LIMIT}, also with k, m or g (10mb)")
    return int(match[1]) * unit


def budget_text(budget: Budget) -> str:
    """Write a budget as the shortest text from which `parse_budget` makes an equal one."""
    sizes = ("gb", "mb", "kb", "") if budget.measure is Measure.BYTES else ("",)
    unit = next(unit for unit in sizes if budget.limit % _UNITS[unit] == 0)
    return f"{budget.measure}={budget.limit // _UNITS[unit]}{unit}/{budget.span}"


def check_budgets(budgets: Iterable[Budget]) -> None:
    """Raise ValueError if a limit is out of range, or if two budgets of one agent have the same measure and span."""
    seen = set()
    for budget in budgets:
        kind = f"{budget.measure}/{budget.span}"
        if not 0 < budget.limit <= MAX_LIMIT:
            raise ValueError(
                f"has a limit out of range: must be from 1 to {MAX_LIMIT} (to allow nothing, have no rule)"
            )
        if kind in seen:
            raise ValueError(f"limits {kind} twice: give one budget for each measure and span")
        seen.add(kind)


def budgets_to_json(budgets: Iterable[Budget]) -> list[dict[str, object]]:
    """Write budgets as [{"measure": "bytes", "limit": 10000000, "span": "hour"}, …]."""
    return [{"measure": str(budget.measure), "limit": budget.limit, "span": str(budget.span)} for budget in budgets]


def budgets_from_json(document: object) -> tuple[Budget, ...]:
    """Read the output of `budgets_to_json`. Raises ValueError for anything else."""
    if not isinstance(document, list):
        raise ValueError("must be a list of budgets")
    budgets = tuple(map(_from_json, document))
    check_budgets(budgets)
    return budgets


def _from_json(item: object) -> Budget:
    if not isinstance(item, dict) or set(item) != {"measure", "limit", "span"} or type(item["limit"]) is not int:
        raise ValueError("must be a list of {measure, limit, span} with whole numbers as limits")
    return Budget(Measure(item["measure"]), item["limit"], BudgetSpan(item["span"]))
