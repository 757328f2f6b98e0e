"""The policy document (a YAML file, or the same as JSON), read strictly into rules (`model.Rule`).

    rules:
      - action: allow              # or deny; deny beats allow beats the agent's default
        destination: 10.0.0.0/8    # any, an address, a CIDR, a name, *.name (one label more) or **.name (one or more)
        agent: "train-*"           # glob over the agent's name, or label:GLOB over its labels; default *
        protocol: tcp              # tcp, udp, icmp, … or a number; default any
        ports: [22, 8000-8100]     # a port, a range or a list of them; default any
        app: ssh                   # application protocol; default any
        exempt: [ssh.*]            # signatures that this allow rule exempts
        unnamed: true              # a name rule: also where the bytes hide the name (no SNI); default false
        private: true              # a name rule: also to addresses that are not global (10.0.0.0/8, …); default false
        expires: 2030-01-31T12:00:00Z  # the rule is ignored from then on; default: never
        comment: backups
        author: ops
        id: backups                # default: a hash of the rule, so that it stays the same between reloads

A document with any unknown field or invalid value is refused as a whole, with the file, the rule's number and the
field: a policy whose parts are ignored is not secure. A file is read again and again, so `expires` is an instant there:
a duration would begin anew with each reading, and a `once` rule would be valid again. An import is read once, at a
known time, so both may be used there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from egress.errors import InputError
from egress.model import Rule
from egress.policy.ruletext import InvalidRuleError, read_rule, to_mapping

MAX_BYTES = 4 << 20  # of a policy file
MAX_RULES = 10_000  # in a policy file
MAX_IMPORT = 100_000  # in an import through the API
MAX_DEPTH = 32  # of nested lists and mappings; a rule needs four

_FAST = yaml.__with_libyaml__
_Safe: type[yaml.SafeLoader] = yaml.CSafeLoader if _FAST else yaml.SafeLoader  # type: ignore[assignment]


_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a policy document: its place, and a phrase that states the mistake and the right form."""

    index: int | None  # of the rule, from 0; None: the document as a whole
    field: str  # "": the rule as a whole
    reason: str


class _Loader(_Safe):  # type: ignore[misc, valid-type]
    """A YAML loader that refuses repeated keys (YAML takes the last) and merge keys (a few lines can make gigabytes).

    It also refuses numbers that YAML 1.1 does not read as decimal: 022 is 18, 22:30 is 1350.
    """

    def construct_number(self, node: yaml.ScalarNode) -> int:
        """Make an integer; refuse any form but decimal."""
        number: int = self.construct_yaml_int(node)
        if not _DECIMAL.fullmatch(node.value):
            read = str(number) if number.bit_length() < 64 else "a large number"
            problem = f"{node.value[:40]} is {read} in YAML 1.1; write a decimal number without leading zeros"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Make a dictionary; refuse repeated keys and merge keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "<< (a merge) is not supported", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        made: dict[object, object] = super().construct_mapping(node, deep)
        return made


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def load_policy(path: Path) -> tuple[Rule, ...]:
    """Read the rules of a policy file, in its order.

    Raises InputError, which names the first mistake (file, rule number, field) and the right form.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: a policy file has at most {MAX_BYTES >> 20} MiB")
    return parse_policy(raw, str(path))


def parse_policy(text: str | bytes, name: str, now: float | None = None) -> tuple[Rule, ...]:
    """Read the rules of a policy document. Raises InputError for the first mistake; its text calls the document `name`.

    `now` (seconds since the epoch): the document is imported at this time, so durations and `once` are allowed.
    """
    document = parse_yaml(text, name)
    if document is None:
        raise InputError(f"{name}: the file is empty; write `rules: []` for a policy without rules")
    return read_document(document, name, now)


def parse_yaml(text: str | bytes, name: str) -> object:
    """Read a YAML document into plain Python values, with the strict loader. Raises InputError."""
    try:
        _refuse_depth(text)
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is not YAML: {' '.join(str(error).split())[:300]}") from None


def read_document(document: object, name: str, now: float | None = None) -> tuple[Rule, ...]:
    """Read the rules of a document that is parsed already (YAML or JSON); otherwise as `parse_policy`."""
    rules, mistakes = check_document(document, now)
    for first in mistakes:
        where = f"{name}: " if first.index is None else f"{name}: rule {first.index + 1}: "
        raise InputError(where + (f"{first.field}: {first.reason}" if first.field else first.reason))
    return rules


def check_document(
    document: object, now: float | None = None, most: int = MAX_RULES
) -> tuple[tuple[Rule, ...], tuple[Mistake, ...]]:
    """Return the valid rules of a document of at most `most` rules, and all its mistakes. Does not raise.

    `now` is as in `parse_policy`.
    """
    if not isinstance(document, dict) or set(document) != {"rules"}:
        return (), (Mistake(None, "", "expected `rules:` and nothing else at the top, followed by a list of rules"),)
    listed = document["rules"]
    if not isinstance(listed, list) or len(listed) > most:
        return (), (Mistake(None, "rules", f"expected a list of at most {most} rules (`rules: []` for none)"),)
    rules: list[Rule] = []
    mistakes: list[Mistake] = []
    first: dict[str, int] = {}
    for index, item in enumerate(listed):
        try:
            rule = read_rule(item, now)
        except InvalidRuleError as error:
            mistakes.append(Mistake(index, error.field, error.reason))
            continue
        before = first.setdefault(rule.id, index)
        if before != index:
            mistakes.append(Mistake(index, "id", f"{rule.id} is the id (or content) of rule {before + 1} already"))
        rules.append(rule)
    return tuple(rules), tuple(mistakes)


def to_document(rules: Iterable[Rule]) -> dict[str, list[dict[str, object]]]:
    """Write rules (without `created`) as a document of plain JSON types; defaults are left out."""
    return {"rules": [to_mapping(rule) for rule in rules]}


def dump_yaml(rules: Iterable[Rule]) -> str:
    """Write rules as a YAML document."""
    return document_yaml(to_document(rules))


def document_yaml(document: object) -> str:
    """Write a document of plain JSON types as YAML."""
    dumper = yaml.CSafeDumper if _FAST else yaml.SafeDumper
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def dump_json(rules: Iterable[Rule]) -> str:
    """Write rules as a JSON document."""
    return json.dumps(to_document(rules), indent=2, ensure_ascii=False)


def _refuse_depth(text: str | bytes) -> None:
    """Raise ValueError for deep nesting: libyaml's composer recurses on the C stack without a bound.

    Its parser, which is used here, does not recurse.
    """
    if not _FAST:
        return  # the composer in Python raises RecursionError
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
