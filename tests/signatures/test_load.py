"""Discovery: every module is found, a module that breaks the contract is named."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import signatures
from egress.errors import EgressError
from egress.model import Severity

FOLDER = Path(signatures.__file__).parent
GOOD = """
from egress.engine.signature import Signature
from egress.model import Severity


class Helper:
    pass


class Detector(Signature):
    id = "{id}"
    severity = Severity.LOW
    technique = "T1000"
    listens = ()

    def see(self, event, flow):
        return None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package directory of its own for `load` to walk."""
    monkeypatch.setattr(signatures, "__path__", [str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("signatures."):
            del sys.modules[name]


def test_every_module_is_loaded_once_sorted_by_id() -> None:
    loaded = signatures.load()
    ids = [signature.id for signature in loaded]
    assert ids == sorted(set(ids))
    assert len(ids) == len([path for path in FOLDER.glob("*.py") if path.name != "__init__.py"])
    assert {"mining.stratum", "ssh.unusual-port", "ssh.role-reversal", "evasion.tcp-overlap", "beacon.timing"} <= set(
        ids
    )


def test_the_contract_of_each() -> None:
    for signature in signatures.load():
        assert re.fullmatch(r"[a-z]+\.[a-z-]+", signature.id)
        assert isinstance(signature.severity, Severity)
        assert re.fullmatch(r"T\d{4}(\.\d{3})?", signature.technique)
        assert signature.listens and all(isinstance(event, type) for event in signature.listens)
        text = sys.modules[type(signature).__module__].__doc__ or ""
        assert re.search(r"[Ee]vaded\s+by|does\s+not\s+find", text), f"{signature.id} does not say how one evades it"


def test_fresh_instances() -> None:
    first, second = signatures.load(), signatures.load()
    assert first and not {id(signature) for signature in first} & {id(signature) for signature in second}


def test_signatures_do_not_import_each_other() -> None:
    for path in FOLDER.glob("*.py"):
        if path.name != "__init__.py":
            assert not re.search(r"^\s*(from|import) signatures", path.read_text(), re.MULTILINE), path.name


def test_a_new_module_is_the_whole_change(folder: Path) -> None:
    (folder / "zz_two.py").write_text(GOOD.format(id="b.two"))
    (folder / "zz_one.py").write_text(GOOD.format(id="c.one"))
    assert [signature.id for signature in signatures.load()] == ["b.two", "c.one"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("from egress.engine.signature import Signature", 0),  # somebody else's class is not its own
        (GOOD.format(id="a.b").replace("technique", "tecnique"), 0),
        (GOOD.format(id="a.b") + GOOD.format(id="a.c").replace("Detector", "Another"), 2),
    ],
)
def test_a_module_without_exactly_one_detector_is_named(folder: Path, text: str, count: int) -> None:
    (folder / "zz_bad.py").write_text(text)
    with pytest.raises(EgressError) as caught:
        signatures.load()
    needed = "id, severity, technique, listens, see"
    assert str(caught.value) == f"signatures/zz_bad.py: define exactly one class with {needed}; it has {count}"


def test_a_detector_that_does_not_derive_from_signature_is_named(folder: Path) -> None:
    (folder / "zz_bad.py").write_text(GOOD.format(id="a.b").replace("(Signature)", ""))
    with pytest.raises(EgressError, match=r"signatures/zz_bad\.py: derive Detector from egress\.engine\.sig"):
        signatures.load()


def test_two_modules_with_one_id_are_named(folder: Path) -> None:
    for name in ("zz_first", "zz_second"):
        (folder / f"{name}.py").write_text(GOOD.format(id="a.b"))
    with pytest.raises(EgressError, match=r"signatures/zz_second\.py: another module has the id 'a\.b'; choose one"):
        signatures.load()
