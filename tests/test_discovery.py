"""Discovery of detectors in a package: sorted by name, with a clear error for a module that defines none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from egress.discovery import detectors
from egress.errors import EgressError

ONE = "class One:\n    id = 'one'\n\n\nclass Helper:\n    pass\n"
Package = Callable[..., ModuleType]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**modules: str) -> ModuleType:
        directory = tmp_path / "made_detectors"
        directory.mkdir()
        (directory / "__init__.py").touch()
        for name, text in modules.items():
            (directory / f"{name}.py").write_text(text)
        return importlib.import_module("made_detectors")

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "made_detectors"]:
        del sys.modules[name]


def test_modules_come_in_the_order_of_their_names(package: Package) -> None:
    found = list(detectors(package(b=ONE, a=ONE.replace("One", "Other")), ("id",)))
    assert [(file, kind.__name__) for file, kind in found] == [
        ("made_detectors/a.py", "Other"),
        ("made_detectors/b.py", "One"),
    ]


def test_an_imported_class_is_not_the_modules_own(package: Package) -> None:
    made = package(a=ONE, b="from made_detectors.a import One as Imported\n\n\nclass Own:\n    id = 'own'\n")
    assert [kind.__name__ for _, kind in detectors(made, ("id",))] == ["One", "Own"]


@pytest.mark.parametrize("text, count", [("", 0), (ONE + ONE.replace("One", "Two"), 2)])
def test_a_module_has_exactly_one(package: Package, text: str, count: int) -> None:
    with pytest.raises(EgressError, match=rf"a\.py: define exactly one class with id; it has {count}"):
        list(detectors(package(a=text), ("id",)))
