"""The policy file (YAML) and its strict reading into `model.Rule`s.

    rules:
      - action: allow              # or deny; deny beats allow beats the agent's default
        destination: 10.0.0.0/8    # any, an address or a CIDR; default any
        agent: "train-*"           # glob over the agent's name; default *
        protocol: tcp              # tcp, udp, icmp, … or a number; default any
        ports: [22, 8000-8100]     # a port, a range or a list of them; default any
        app: ssh                   # application protocol; default any
        exempt: [ssh.*]            # signatures this allow rule silences
        comment: backups
        id: backups                # default: a hash of the rule, so that it stays the same between reloads

What is not understood is refused, with the file, the rule's number and the field: a policy half read is a hole.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from egress.errors import InputError
from egress.model import PROTOCOL_NUMBERS, Action, Rule, protocol_name

MAX_BYTES = 4 << 20  # of a policy file
MAX_RULES = 10_000

_ACTIONS = {"allow": Action.ACCEPT, "deny": Action.REJECT}
_WITH_PORTS = ("", "tcp", "udp", "sctp")
_APP = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,31}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_EXEMPT = re.compile(r"[a-z0-9-]+\.(\*|[a-z0-9-]+)", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", re.ASCII)


class _Wrong(Exception):  # noqa: N818 - never leaves this file
    """What is wrong with a value; the caller knows where."""


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


def parse_policy(text: str | bytes, name: str) -> tuple[Rule, ...]:
    """The rules in a policy document; `name` is what errors call it. Raises InputError."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if document is None:
        raise InputError(f"{name}: the file is empty; write `rules: []` for a policy without rules")
    if not isinstance(document, dict) or set(document) != {"rules"}:
        raise InputError(f"{name}: expected `rules:` and nothing else at the top, followed by a list of rules")
    listed = document["rules"]
    if not isinstance(listed, list) or len(listed) > MAX_RULES:
        raise InputError(f"{name}: rules: expected a list of at most {MAX_RULES} rules (`rules: []` for none)")
    rules = tuple(_rule(item, f"{name}: rule {number}") for number, item in enumerate(listed, 1))
    _refuse_duplicates(rules, name)
    return rules


def _rule(item: object, where: str) -> Rule:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected a mapping such as {{action: allow, destination: 10.0.0.0/8}}")
    values: dict[str, object] = {"id": ""}
    for key, value in item.items():
        read = _FIELDS.get(key) if isinstance(key, str) else None
        if read is None:
            raise InputError(f"{where}: unknown field {_show(key)}; known are {', '.join(sorted(_FIELDS))}")
        try:
            values[str(key)] = read(value)
        except _Wrong as wrong:
            raise InputError(f"{where}: {key}: {_show(value)} {wrong}") from None
    if "action" not in values:
        raise InputError(f"{where}: action is missing; it must be allow or deny")
    rule = Rule(**values)  # type: ignore[arg-type]
    if rule.ports and rule.protocol not in _WITH_PORTS:
        raise InputError(
            f"{where}: ports: {rule.protocol} has no ports; leave them out or use protocol tcp, udp or sctp"
        )
    if rule.exempt and rule.action is not Action.ACCEPT:
        raise InputError(f"{where}: exempt: only a rule with action allow can exempt signatures; leave it out")
    return rule if rule.id else replace(rule, id=_content_id(rule))


def _refuse_duplicates(rules: tuple[Rule, ...], name: str) -> None:
    first: dict[str, int] = {}
    for number, rule in enumerate(rules, 1):
        if rule.id in first:
            raise InputError(
                f"{name}: rule {number}: id: {rule.id} is the id (or content) of rule {first[rule.id]} already"
            )
        first[rule.id] = number


def _content_id(rule: Rule) -> str:
    """12 hex digits of the rule's meaning: neither its place in the file nor its comment change it."""
    content = asdict(replace(rule, id="", comment=""))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _action(value: object) -> Action:
    if not isinstance(value, str) or value not in _ACTIONS:
        raise _Wrong("must be allow or deny")
    return _ACTIONS[value]


def _destination(value: object) -> str:
    if value == "any":
        return "any"
    form = "must be any, an address (192.0.2.7) or a CIDR (192.0.2.0/24)"
    if not isinstance(value, str):
        raise _Wrong(form)
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        if re.search(r"[A-Za-z]", value) and not re.search(r"[:/\s]", value):
            raise _Wrong("is a name; names are not supported in policy files yet, give its address or CIDR") from None
        raise _Wrong(form) from None
    if "%" in value or ("/" in value and not value.rpartition("/")[2].isdecimal()):
        raise _Wrong(form)
    if "/" not in value:
        return str(network.network_address)
    if ipaddress.ip_address(value.partition("/")[0]) != network.network_address:
        raise _Wrong(f"has bits set behind its prefix; did you mean {network}?")
    return str(network)


def _agent(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > 128:
        raise _Wrong("must be an agent's name or a glob such as train-*")
    return value


def _protocol(value: object) -> str:
    if type(value) is int and 0 <= value <= 255:
        return protocol_name(value)
    if isinstance(value, str) and value in PROTOCOL_NUMBERS:
        return value
    raise _Wrong(f"must be one of {', '.join(sorted(PROTOCOL_NUMBERS))} or a number from 0 to 255")


def _ports(value: object) -> tuple[tuple[int, int], ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise _Wrong("names no port; leave ports out for any")
    return tuple(_range(part) for part in listed)


def _range(value: object) -> tuple[int, int]:
    match = _RANGE.fullmatch(str(value)) if type(value) in (int, str) else None
    if match is not None:
        first = int(match[1])
        last = int(match[2] or match[1])
        if 0 < first <= last <= 65535:
            return first, last
    raise _Wrong('must be a port (22), a range ("8000-8100") or a list of them, from 1 to 65535')


def _app(value: object) -> str:
    if not isinstance(value, str) or not _APP.fullmatch(value):
        raise _Wrong("must be an application protocol in lower case, such as ssh, tls, http or dns")
    return value


def _exempt(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) and _EXEMPT.fullmatch(part) for part in value):
        raise _Wrong("must be a list of signatures, such as [ssh.unusual-port, mining.*]")
    return tuple(value)


def _comment(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise _Wrong("must be text of at most 1000 characters")
    return value


def _id(value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _Wrong("must be letters, digits, . _ : - and at most 64 long")
    return value


_FIELDS: dict[str, Callable[[object], object]] = {
    "action": _action,
    "destination": _destination,
    "agent": _agent,
    "protocol": _protocol,
    "ports": _ports,
    "app": _app,
    "exempt": _exempt,
    "comment": _comment,
    "id": _id,
}


def _show(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
