"""Arguments that several commands take: moments, cases, listings, documents."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from egress.cli.input.params import Listing, Time, case_option, case_words, chosen_case, read_document
from egress.errors import InputError


@pytest.mark.parametrize("text, seconds", [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("2w", 1209600)])
def test_a_time_ago(text: str, seconds: int) -> None:
    assert Time().convert(text, None, None) == pytest.approx(time.time() - seconds, abs=5)


@pytest.mark.parametrize(
    "text", ["2026-11-23T15:00", "2026-11-23T15:00:00Z", "2026-11-23 16:00+01:00", "2026-11-23T15:00:00+00:00"]
)
def test_a_moment_is_in_utc_where_it_names_no_zone(text: str) -> None:
    assert Time().convert(text, None, None) == 1_795_446_000.0


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5y", "-1h", "2026-13-01", "1234567890d", "٣h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a valid time; write 2026-11-23T15:00"):
        Time().convert(text, None, None)


@click.command()
@case_option
def asked() -> None:
    click.echo(f"{chosen_case()}{case_words()}")


@pytest.mark.parametrize(
    "words, output", [([], "None"), (["--case", "a"], "a --case a"), (["--case", "a b"], "a b --case 'a b'")]
)
def test_the_chosen_case_and_how_to_name_it_again(words: list[str], output: str) -> None:
    assert CliRunner().invoke(asked, words).output == f"{output}\n"


def test_an_empty_case_is_refused() -> None:
    """An empty name comes from a variable that is not set: it must not mean the live records."""
    done = CliRunner().invoke(asked, ["--case", ""])
    assert done.exit_code == 2 and "the name is empty" in done.output
    assert chosen_case() is None, "outside a command"


@click.group(cls=Listing)
def noun() -> None:
    pass


@noun.command("list")
@click.option("--since", default="always")
def listed(since: str) -> None:
    click.echo(f"listed since {since}")


@noun.command("rm")
def removed() -> None:
    click.echo("removed")


@pytest.mark.parametrize(
    "words, output",
    [
        ([], "listed since always"),
        (["--since", "1d"], "listed since 1d"),
        (["list"], "listed since always"),
        (["rm"], "removed"),
    ],
)
def test_a_nouns_plain_name_lists(words: list[str], output: str) -> None:
    assert CliRunner().invoke(noun, words).output == f"{output}\n"


def test_a_nouns_help_is_its_own() -> None:
    assert "rm" in CliRunner().invoke(noun, ["--help"]).output


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("a.json", "x", "json"),
        ("a.yaml", "{}", "yaml"),
        ("a.yml", "{}", "yaml"),
        ("a", ' \n{"rules": []}', "json"),
        ("a", "rules: []", "yaml"),
    ],
)
def test_a_document_and_its_type(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_document(tmp_path / name) == (content.encode(), f"application/{kind}")


def test_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_document(tmp_path / "none")
