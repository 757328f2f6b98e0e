"""`egress allowlist list|show|rm|import|export|prune`: lists the rules in force, and edits those of the allowlist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egress.cli.input.client import ApiClient, api_options, segment
from egress.cli.input.params import read_document
from egress.cli.input.ruleoptions import sentence
from egress.cli.output.tables import as_json, output_option, table
from egress.errors import InputError

EXAMPLES = """\b
Examples:
  egress allowlist list --agent 'train-*'
  egress allowlist show 3f2a9c0d11e4
  egress allowlist rm 3f2a9c0d11e4
  egress allowlist export --format yaml > rules.yaml
  egress allowlist import rules.yaml --dry-run
  egress allowlist prune --unused 30d --dry-run
"""
COLUMNS = (
    "id",
    "action",
    "destination",
    "protocol",
    "ports",
    "app",
    "agent",
    "expires",
    "hits",
    "last hit",
    "source",
    "comment",
)
MODES = ("add", "merge", "replace")


@click.group("allowlist", epilog=EXAMPLES)
def command() -> None:
    """List the rules in force, and edit those of the allowlist. `egress allow` and `egress deny` add one."""


@command.command("list", epilog=EXAMPLES)
@click.option("--agent", default="", metavar="GLOB", help="Rules whose agent selector is this, or matches this glob.")
@click.option("--applies-to", default="", metavar="NAME", help="Rules that apply to this agent.")
@click.option("--destination", default="", metavar="TEXT", help="Rules whose destination contains this.")
@click.option("--action", type=click.Choice(["allow", "deny"]), help="Rules with this action.")
@click.option("--source", default="", help="allowlist, file, or sandbox:NAME.")
@click.option("--search", "q", default="", metavar="TEXT", help="Rules whose comment or author contains this.")
@click.option("--limit", type=click.IntRange(1), help="At most this many.")
@output_option
@api_options
def list_(*, api: ApiClient, output: str, limit: int | None, **filters: object) -> None:
    """List the rules in force, those of each action in evaluation order."""
    rules = list(api.pages("/allowlist", limit, **filters))
    if output == "json":
        as_json(rules)
        return
    if rules:
        table(COLUMNS, map(_row, rules))
    else:
        click.echo("no rule matches; `egress allow DEST` adds one", err=True)


@command.command("show", epilog=EXAMPLES)
@click.argument("rule_id", metavar="ID")
@output_option
@api_options
def show(*, api: ApiClient, rule_id: str, output: str) -> None:
    """Show one rule with all its fields."""
    rule = api.get(f"/allowlist/{segment(rule_id)}")
    if output == "json":
        as_json(rule)
        return
    click.echo(sentence(rule))
    table(("field", "value"), [(key, _cell(value)) for key, value in rule.items()])


@command.command("rm", epilog=EXAMPLES)
@click.argument("rule_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Check only; change nothing.")
@api_options
def rm(*, api: ApiClient, rule_ids: tuple[str, ...], dry_run: bool) -> None:
    """Remove rules of the allowlist. Flows that only they allowed are cut at once.

    The rules are removed one by one: after an error the ones before it are gone, the ones after it remain.
    """
    for rule_id in rule_ids:
        api.delete(f"/allowlist/{segment(rule_id)}", dry_run=dry_run)
        click.echo(f"{'would remove' if dry_run else 'removed'} rule {rule_id}")


@command.command("import", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="add",
    show_default=True,
    help="add: ids must be new; merge: replace rules of the same id; replace: also remove all other rules.",
)
@click.option("--dry-run", is_flag=True, help="Check only; change nothing.")
@output_option
@api_options
def import_(*, api: ApiClient, file: Path, mode: str, dry_run: bool, output: str) -> None:
    """Import rules from a YAML or JSON file (-: standard input).

    If any rule has a mistake, no rule is imported, and every mistake is reported.
    """
    data, kind = read_document(file)
    done = api.call("POST", "/allowlist/import", params={"mode": mode, "dry_run": dry_run}, content=data, kind=kind)
    if output == "json":
        as_json(done)
        return
    counts = ", ".join(f"{done[key]} {key}" for key in ("added", "replaced", "removed", "unchanged") if done.get(key))
    click.echo(
        f"{'would import' if dry_run else 'imported'}: {counts or 'nothing new'}; policy version {done['version']}"
    )


@command.command("export", epilog=EXAMPLES)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="Format of the document.",
)
@click.option(
    "-w", "--write", "file", type=click.Path(path_type=Path), help="Write to this file instead of standard output."
)
@api_options
def export(*, api: ApiClient, format_: str, file: Path | None) -> None:
    """Print the allowlist as a document that `import` reads."""
    text = api.raw("GET", "/allowlist/export", params={"format": format_}).text
    if file is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None


@command.command("prune", epilog=EXAMPLES)
@click.option("--unused", required=True, metavar="TIME", help="Rules that no flow has used for this long: 30d.")
@click.option("--dry-run", is_flag=True, help="List the rules; remove nothing.")
@output_option
@api_options
def prune(*, api: ApiClient, unused: str, dry_run: bool, output: str) -> None:
    """Remove allowlist rules that no flow has used for a time (--unused)."""
    done = api.delete("/allowlist", unused_for=unused, dry_run=dry_run)
    if output == "json":
        as_json(done)
        return
    for rule in done["removed"]:
        click.echo(f"{'would remove' if dry_run else 'removed'} {sentence(rule)}")
    if not done["removed"]:
        click.echo(f"no rule has been unused for {unused}")


def _row(rule: dict[str, Any]) -> list[object]:
    return [_cell(rule.get(column.replace(" ", "_"), "")) for column in COLUMNS]


def _cell(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value
