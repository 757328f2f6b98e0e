"""The policy document (a YAML file, or the same as JSON) and its strict reading into `model.Rule`s.

    rules:
      - action: allow              # or deny; deny beats allow beats the agent's default
        destination: 10.0.0.0/8    # any, an address, a CIDR, a name, *.name (one label more) or **.name (one or more)
        agent: "train-*"           # glob over the agent's name, or label:GLOB over its labels; default *
        protocol: tcp              # tcp, udp, icmp, … or a number; default any
        ports: [22, 8000-8100]     # a port, a range or a list of them; default any
        app: ssh                   # application protocol; default any
        exempt: [ssh.*]            # signatures this allow rule silences
        unnamed: true              # a name rule: also where the bytes hide the name (ECH, no SNI); default false
        expires: 2030-01-31T12:00:00Z  # from then on the rule says nothing; default forever
        comment: backups
        author: ops
        id: backups                # default: a hash of the rule, so that it stays the same between reloads

What is not understood is refused, with the file, the rule's number and the field: a policy half read is a hole.
A file is read again and again, so `expires` there is an instant: a duration would begin anew with each reading, and a
`once` rule be good again. Whoever imports a document at a known moment passes that moment, and may use both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from egress.errors import InputError
from egress.model import Rule
from egress.ruletext import InvalidRule, read_rule, to_mapping

MAX_BYTES = 4 << 20  # of a policy file
MAX_RULES = 10_000


class _Loader(yaml.SafeLoader):
    """YAML without its habit of letting the last of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def load_policy(path: Path) -> tuple[Rule, ...]:
    """The rules in a policy file, in its order. Raises InputError, one line: file, rule number, field, right form."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: a policy file has at most {MAX_BYTES >> 20} MiB")
    return parse_policy(raw, str(path))


def parse_policy(text: str | bytes, name: str, now: float | None = None) -> tuple[Rule, ...]:
    """The rules in a policy document; `name` is what errors call it. Raises InputError.

    `now` (seconds since the epoch): the document is imported at that moment, so durations and `once` make sense.
    """
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if document is None:
        raise InputError(f"{name}: the file is empty; write `rules: []` for a policy without rules")
    return read_document(document, name, now)


def read_document(document: object, name: str, now: float | None = None) -> tuple[Rule, ...]:
    """The rules in a document that is parsed already (YAML or JSON); otherwise as `parse_policy`."""
    if not isinstance(document, dict) or set(document) != {"rules"}:
        raise InputError(f"{name}: expected `rules:` and nothing else at the top, followed by a list of rules")
    listed = document["rules"]
    if not isinstance(listed, list) or len(listed) > MAX_RULES:
        raise InputError(f"{name}: rules: expected a list of at most {MAX_RULES} rules (`rules: []` for none)")
    rules = []
    for number, item in enumerate(listed, 1):
        try:
            rules.append(read_rule(item, now))
        except InvalidRule as error:
            raise InputError(f"{name}: rule {number}: {error}") from None
    _refuse_duplicates(rules, name)
    return tuple(rules)


def to_document(rules: Iterable[Rule]) -> dict[str, list[dict[str, object]]]:
    """The document that reads as these rules (`created` aside), of plain JSON types; defaults are left out."""
    return {"rules": [to_mapping(rule) for rule in rules]}


def dump_yaml(rules: Iterable[Rule]) -> str:
    return yaml.safe_dump(to_document(rules), sort_keys=False, allow_unicode=True, width=120)


def dump_json(rules: Iterable[Rule]) -> str:
    return json.dumps(to_document(rules), indent=2, ensure_ascii=False)


def _refuse_duplicates(rules: Iterable[Rule], name: str) -> None:
    first: dict[str, int] = {}
    for number, rule in enumerate(rules, 1):
        if rule.id in first:
            raise InputError(
                f"{name}: rule {number}: id: {rule.id} is the id (or content) of rule {first[rule.id]} already"
            )
        first[rule.id] = number
