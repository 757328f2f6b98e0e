"""Domain names and name patterns: their normal spelling, and their comparison.

A pattern is an exact name, `*.x` (exactly one label more than x) or `**.x` (one label or more). Policies have names in
any case, with a trailing dot, or in their own script; on the wire a name may come in mixed case (0x20 mixing of
resolvers). Both become the spelling of the DNS: lower-case ASCII labels, A-labels for other scripts (UTS #46,
non-transitional, then IDNA 2008, RFC 5891), no trailing dot. Limits are those of RFC 1035 section 2.3.4.
"""

from __future__ import annotations

import re
import string
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import idna

MAX_NAME = 255  # octets on the wire: a length byte for each label, and that of the root
MAX_LABEL = 63
RESERVED = "any"  # the word for every destination; no pattern may have this spelling

_LABEL = re.compile(r"[a-z0-9_-]+")
_HOST = re.compile(rf"(?=.{{1,{MAX_NAME - 2}}}\Z)[a-z0-9_-]{{1,63}}(?:\.[a-z0-9_-]{{1,63}})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_TOO_LONG = f"is longer than a name may be, {MAX_NAME} octets"
_WILDCARD_FORM = "a wildcard stands only as the whole first label: *.example.org or **.example.org"


class Depth(Enum):
    """The number of labels that a pattern matches in front of its base."""

    EXACT = ""
    ONE = "*."
    DEEP = "**."


class Pattern(NamedTuple):
    """A name pattern: `base` itself, or the names with exactly one label, or with one or more labels, before it."""

    base: str  # normalised
    depth: Depth

    def __str__(self) -> str:
        return self.depth.value + self.base


def normalise(name: str) -> str:
    """Return the normal spelling of a host name. Raises ValueError, whose text is a phrase that states the mistake."""
    if len(name) > MAX_NAME:
        raise ValueError(_TOO_LONG)
    if _HOST.fullmatch(name) and "xn--" not in name and not name[-1].isdigit() and "0x" not in name:
        return name  # the common case; the code below would return the same
    if not name.isascii():
        try:
            name = idna.uts46_remap(name, std3_rules=False, transitional=False)
        except idna.IDNAError as error:
            raise ValueError(f"is not a name in any script: {_printable(error)}") from None
    labels = [_label(label) for label in _plain(name).split(".")]
    if sum(len(label) + 1 for label in labels) + 1 > MAX_NAME:
        raise ValueError(_TOO_LONG)
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("ends in a number, but is not a valid address")
    return ".".join(labels)


def _label(label: str) -> str:
    """Return the normal spelling of one label. Raises ValueError, like `normalise`."""
    if not label:
        raise ValueError("has an empty label: a dot too many, or no text at all")
    try:
        ascii_label = label if label.isascii() else idna.alabel(label).decode("ascii")
        if ascii_label.startswith("xn--"):
            ascii_label[4:].encode("ascii").decode("punycode")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"has the label {_short(label)}, which is not valid IDNA: {_printable(error)}") from None
    if not _LABEL.fullmatch(ascii_label):
        raise ValueError(f"has the label {_short(label)}; labels are letters, digits, - and _")
    if len(ascii_label) > MAX_LABEL:
        raise ValueError(f"has the label {_short(label)}, longer than {MAX_LABEL} octets")
    return ascii_label


def parse_pattern(text: str) -> Pattern:
    """Read an exact name, `*.x` or `**.x`. Raises ValueError, whose text is a phrase that states the mistake."""
    if not text:
        raise ValueError("is empty; write a name, or any")
    if not text.strip("*."):
        raise ValueError("would match every name; write any instead")
    depth = next((depth for depth in (Depth.DEEP, Depth.ONE) if text.startswith(depth.value)), Depth.EXACT)
    rest = text[len(depth.value) :]
    if "*" in rest:
        raise ValueError(f"has a wildcard in the wrong place; {_WILDCARD_FORM}")
    base = normalise(rest)
    if depth is Depth.EXACT and base == RESERVED:
        raise ValueError("is not a host name but the word for every destination; write any")
    if depth is not Depth.EXACT and len(base) + 4 > MAX_NAME:
        raise ValueError(f"leaves no room for another label in {MAX_NAME} octets")
    return Pattern(base, depth)


def matches(pattern: Pattern, name: str) -> bool:
    """Return True if the pattern matches a normalised (or `canonical`) name."""
    if pattern.depth is Depth.EXACT:
        return name == pattern.base
    if pattern.depth is Depth.ONE:
        return name.partition(".")[2] == pattern.base
    return name.endswith("." + pattern.base)


def canonical(name: str) -> str:
    """Return the spelling of a name from the wire for comparison with patterns. Never raises.

    A name that is not a valid host name is only put into lower case, without its last dot: a deny pattern may match
    it; for allow patterns the caller must exclude it with `is_host`.
    """
    return _canonical(name) if len(name) <= MAX_NAME else _plain(name)


@lru_cache(maxsize=8192)
def _canonical(name: str) -> str:
    try:
        return normalise(name)
    except ValueError:
        return _plain(name)


def _plain(name: str) -> str:
    return name.translate(_LOWER).removesuffix(".")


def is_host(name: str) -> bool:
    """Return True if a canonical name is valid for a host; an allow pattern must not match other names."""
    return _HOST.fullmatch(name) is not None


def is_address(name: str) -> bool:
    """Return True if a canonical name is an address as text, as in `Host: 192.0.2.7`: then it is not a name."""
    if ":" in name:
        return _parses(IPv6Address, name.removeprefix("[").removesuffix("]"))
    return name[-1:].isdigit() and _parses(IPv4Address, name)


def reverse_address(name: str) -> bytes | None:
    """Return the packed address in a canonical reverse name (RFC 1035 section 3.5, RFC 3596 section 2.5).

    None for another name, and for the reverse name of a whole network.
    """
    if not name.endswith(".arpa"):
        return None
    labels = name.split(".")
    labels.reverse()
    if labels[:2] == ["arpa", "in-addr"] and len(labels) == 6:
        text = ".".join(labels[2:])
        return IPv4Address(text).packed if _parses(IPv4Address, text) else None
    if labels[:2] == ["arpa", "ip6"] and len(labels) == 34 and all(len(nibble) == 1 for nibble in labels[2:]):
        digits = "".join(labels[2:])
        return bytes.fromhex(digits) if set(digits) <= set("0123456789abcdef") else None
    return None


def _parses(family: type[IPv4Address] | type[IPv6Address], text: str) -> bool:
    try:
        family(text)
    except ValueError:
        return False
    return True


def _printable(error: Exception) -> str:
    return str(error).encode("ascii", "backslashreplace").decode("ascii")


def _short(label: str) -> str:
    text = ascii(label)
    return text if len(text) <= 40 else text[:37] + "..."
