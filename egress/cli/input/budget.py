"""The option `--budget MEASURE=LIMIT/SPAN` of `egress agent add` and `egress run`."""

from __future__ import annotations

import click

from egress.model import Budget
from egress.policy.budgettext import check_budgets, parse_budget


class _Budget(click.ParamType[Budget]):
    """A budget: a measure, a limit and a span."""

    name = "budget"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        if isinstance(value, Budget):
            return value
        try:
            return parse_budget(str(value))
        except ValueError as error:
            self.fail(f"{value!a} {error}", param, ctx)


def _one_each(ctx: click.Context, param: click.Parameter, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
    """Return the budgets. Raises BadParameter if two have the same measure and span, or a limit is out of range."""
    try:
        check_budgets(budgets)
    except ValueError as error:
        raise click.BadParameter(f"it {error}", ctx, param) from None
    return budgets


budget_option = click.option(
    "--budget",
    "budgets",
    type=_Budget(),
    multiple=True,
    callback=_one_each,
    metavar="MEASURE=LIMIT/SPAN",
    help="Limit of bytes (10mb), connections or destinations for each minute, hour or episode; may be repeated.",
)
