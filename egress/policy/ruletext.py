"""Reads rules from plain mappings (of YAML or JSON) into `model.Rule`, strictly, and writes them as mappings.

The text of an error begins with the value, then states the mistake and the right form.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import reprlib
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from egress.model import PROTOCOL_NUMBERS, Action, Rule, protocol_name
from egress.policy.applications import KNOWN
from egress.policy.domain import parse_pattern

_T = TypeVar("_T")

MAX_PORTS, MAX_EXEMPT = 256, 64  # entries of a rule: a worker compares them one by one, for each new flow

_MAPPED = 96  # bits before the address in an IPv4-mapped one (RFC 4291 section 2.5.5.2)
_ACTIONS = {"allow": Action.ACCEPT, "deny": Action.REJECT}
_WITH_PORTS = ("", "tcp", "udp", "sctp")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_EXEMPT = re.compile(r"[a-z0-9-]+\.(\*|[a-z0-9-]+)", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,4})([mhdw])", re.ASCII)
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_INSTANT = "an instant with its time zone (2030-01-31T12:00:00Z)"
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 8, 8, 60, 60
_RANGE = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", re.ASCII)


class _FieldError(Exception):
    """A mistake in a value, without the field's name and the value, which `_field` adds."""


class InvalidRuleError(ValueError):
    """The mistake in a rule that is not valid, in one line. `field` is "" if the rule as a whole is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def read_rule(item: object, now: float | None = None) -> Rule:
    """Read one rule of a document. Raises InvalidRuleError, which names the field.

    With `now` (seconds since the epoch) its expiry may be a duration or `once`. A rule without an id gets a hash of its
    content as its id.
    """
    if not isinstance(item, dict):
        raise InvalidRuleError("", "expected a mapping such as {action: allow, destination: 10.0.0.0/8}")
    values: dict[str, object] = {"id": ""}
    for key, value in item.items():
        if key == "expires":
            values["expires_at"], values["once"] = _field(key, value, lambda value: _expires(value, now))
            continue
        read = _FIELDS.get(key) if isinstance(key, str) else None
        if read is None:
            known = ", ".join(sorted([*_FIELDS, "expires"]))
            raise InvalidRuleError("", f"unknown field {_show(key)}; known are {known}")
        values[str(key)] = _field(key, value, read)
    if "action" not in values:
        raise InvalidRuleError("", "action is missing; it must be allow or deny")
    rule = Rule(**values)  # type: ignore[arg-type]
    _check(rule)
    return rule if rule.id else replace(rule, id=_content_id(rule))


def parse_expiry(text: str, now: float | None) -> tuple[float | None, bool]:
    """Read an expiry as (expires_at, once): `forever` is (None, False), `once` is (None, True).

    An instant, or a duration from `now` on (5m, 1h, 1d, 1w), becomes seconds since the epoch. `once` and durations need
    `now`. Raises ValueError, whose text is a phrase that states the right form.
    """
    if text == "forever":
        return None, False
    duration = _DURATION.fullmatch(text)
    if now is None and (text == "once" or duration):
        raise ValueError(f"is for rules made by a command or the API; in a file write {_INSTANT} or forever")
    if text == "once":
        return None, True
    if duration and now is not None and int(duration[1]):
        return now + int(duration[1]) * _SECONDS[duration[2]], False
    try:
        return _instant(datetime.fromisoformat(text)), False
    except (ValueError, OverflowError):
        relative = "" if now is None else "once, a duration (5m, 1h, 1d, 1w), "
        raise ValueError(f"must be {relative}{_INSTANT} or forever") from None


def to_mapping(rule: Rule) -> dict[str, object]:
    """Write a rule (without `created`) as a mapping of plain JSON types; defaults are left out."""
    written: dict[str, object] = {"id": rule.id, "action": "allow" if rule.action is Action.ACCEPT else "deny"}
    written |= {"destination": rule.destination, "agent": rule.agent}
    if rule.ports:
        written["ports"] = [low if low == high else f"{low}-{high}" for low, high in rule.ports]
    if rule.protocol:
        written["protocol"] = int(rule.protocol) if rule.protocol.isdecimal() else rule.protocol
    if rule.exempt:
        written["exempt"] = list(rule.exempt)
    if rule.once:
        written["expires"] = "once"
    elif rule.expires_at is not None:
        written["expires"] = datetime.fromtimestamp(rule.expires_at, UTC).isoformat().replace("+00:00", "Z")
    texts = {"app": rule.app, "unnamed": rule.unnamed, "private": rule.private}
    texts |= {"comment": rule.comment, "author": rule.author}
    return written | {key: value for key, value in texts.items() if value}


def _check(rule: Rule) -> None:
    """Raise InvalidRuleError if two fields of a rule contradict each other."""
    if rule.ports and rule.protocol not in _WITH_PORTS:
        raise InvalidRuleError(
            "ports", f"{rule.protocol} has no ports; leave them out or use protocol tcp, udp or sctp"
        )
    if rule.action is Action.ACCEPT:
        for field in ("unnamed", "private"):
            if getattr(rule, field) and not _is_name(rule.destination):
                raise InvalidRuleError(field, "only a rule whose destination is a name can have this; leave it out")
        return
    if rule.exempt:
        raise InvalidRuleError("exempt", "only a rule with action allow can exempt signatures; leave it out")
    if rule.unnamed or rule.private or rule.once:
        field = "unnamed" if rule.unnamed else "private" if rule.private else "expires"
        raise InvalidRuleError(field, "only a rule with action allow can have this; leave it out")


def _content_id(rule: Rule) -> str:
    """Return a hash of the rule's meaning, 12 hex digits, which its position and its comment do not change."""
    content = asdict(replace(rule, id="", comment="", author="", created=0.0))
    del content["position"]
    if not rule.private:
        del content["private"]  # a rule from before this field keeps its id
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _action(value: object) -> Action:
    if not isinstance(value, str) or value not in _ACTIONS:
        raise _FieldError("must be allow or deny")
    return _ACTIONS[value]


def _destination(value: object) -> str:
    """Read a destination, and return its normal spelling. Raises _FieldError."""
    form = "must be any, an address (192.0.2.7), a CIDR (192.0.2.0/24) or a name (example.org, *.example.org)"
    if not isinstance(value, str):
        raise _FieldError(form)
    if value == "any":
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return _name(value, form)
    if "%" in value or ("/" in value and not value.rpartition("/")[2].isdecimal()):
        raise _FieldError(form)
    exact = "/" not in value or ipaddress.ip_address(value.partition("/")[0]) == network.network_address
    network = _without_mapping(network)
    if not exact:
        raise _FieldError(f"has bits set after its prefix; did you mean {network}?")
    return str(network if "/" in value else network.network_address)


def _without_mapping(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Turn a network of IPv4-mapped addresses (::ffff:192.0.2.0/120) into its IPv4 network; return others unchanged.

    Packets carry IPv4 addresses, never mapped ones.
    """
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - _MAPPED))
    return network


def _name(value: str, form: str) -> str:
    """Return the normal spelling of a name or name pattern. Raises _FieldError; `form` is its text for other values."""
    if re.search(r"[:/\s]", value):
        raise _FieldError(form)
    try:
        return str(parse_pattern(value))
    except ValueError as error:
        raise _FieldError(str(error)) from None


def _is_name(destination: str) -> bool:
    """Return True if a destination is a name: a name has a letter, and an address with letters has a colon."""
    return destination != "any" and ":" not in destination and bool(re.search("[a-z_-]", destination))


def _agent(value: object) -> str:
    if isinstance(value, str) and value.removeprefix("label:") and value.isprintable() and len(value) <= 128:
        return value
    raise _FieldError("must be an agent's name, a glob such as train-*, or label: and a glob over labels")


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _FieldError("must be true or false")
    return value


def _expires(value: object, now: float | None) -> tuple[float | None, bool]:
    """Read an expiry as `parse_expiry` does; in YAML an instant is a datetime already, in JSON it is text.

    Raises _FieldError.
    """
    try:
        if isinstance(value, datetime):
            return _instant(value), False
        return parse_expiry(value if isinstance(value, str) else "", now)
    except OverflowError:
        raise _FieldError(f"must be {_INSTANT} or forever") from None
    except ValueError as error:
        raise _FieldError(str(error)) from None


def _instant(value: datetime) -> float:
    if value.tzinfo is None or not 1970 <= value.astimezone(UTC).year < 9999:
        raise ValueError(f"must be {_INSTANT} or forever")
    return value.timestamp()


def _protocol(value: object) -> str:
    if type(value) is int and 0 <= value <= 255:
        return protocol_name(value)
    if isinstance(value, str) and value in PROTOCOL_NUMBERS:
        return value
    raise _FieldError(f"must be one of {', '.join(sorted(PROTOCOL_NUMBERS))} or a number from 0 to 255")


def _ports(value: object) -> tuple[tuple[int, int], ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise _FieldError("has no port; leave ports out for any port")
    if len(listed) > MAX_PORTS:
        raise _FieldError(f"has {len(listed)} entries, at most {MAX_PORTS}; write ranges (8000-8100), or another rule")
    return tuple(_range(part) for part in listed)


def _range(value: object) -> tuple[int, int]:
    if type(value) is int and 0 < value <= 65535:
        return value, value
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        first = int(match[1])
        last = int(match[2] or match[1])
        if 0 < first <= last <= 65535:
            return first, last
    raise _FieldError('must be a port (22), a range ("8000-8100") or a list of them, from 1 to 65535')


def _app(value: object) -> str:
    if not isinstance(value, str) or value not in KNOWN:
        raise _FieldError(f"must be one of {', '.join(sorted(KNOWN))}; leave it out where any protocol will do")
    return value


def _exempt(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) and _EXEMPT.fullmatch(part) for part in value):
        raise _FieldError("must be a list of signatures, such as [ssh.unusual-port, mining.*]")
    if len(value) > MAX_EXEMPT:
        raise _FieldError(f"has {len(value)} entries, at most {MAX_EXEMPT}; write a family (mining.*)")
    return tuple(value)


def _comment(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise _FieldError("must be text of at most 1000 characters")
    return value


def _author(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 128:
        raise _FieldError("must be a name of at most 128 printable characters")
    return value


def _id(value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _FieldError("must be letters, digits, . _ : - and at most 64 long")
    return value


_FIELDS: dict[str, Callable[[object], object]] = {
    "action": _action,
    "destination": _destination,
    "agent": _agent,
    "protocol": _protocol,
    "ports": _ports,
    "app": _app,
    "exempt": _exempt,
    "unnamed": _flag,
    "private": _flag,
    "author": _author,
    "comment": _comment,
    "id": _id,
}


def _field(key: object, value: object, read: Callable[[object], _T]) -> _T:
    """Return `read(value)`; a _FieldError becomes an InvalidRuleError with the field's name and the value."""
    try:
        return read(value)
    except _FieldError as wrong:
        raise InvalidRuleError(str(key), f"{_show(value)} {wrong}") from None


def _show(value: object) -> str:
    """Return a value as short ASCII text for an error message, at most 60 characters."""
    if isinstance(value, str):
        text = ascii(value[:200])
    else:  # a YAML alias can make a list of lists stand for gigabytes, and 0xfff… a number too long to print
        try:
            text = _SHORT.repr(value).encode("ascii", "backslashreplace").decode()
        except ValueError:
            text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
