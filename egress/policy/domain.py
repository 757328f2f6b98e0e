"""Domain names and name patterns: one spelling, one way to compare.

A pattern is an exact name, `*.x` (exactly one label more than x) or `**.x` (one label or more). People write names in
any case, with a trailing dot, or in their own script; on the wire a name comes in whatever case a resolver gave it
(0x20 mixing). Both become the spelling of the DNS: lower-case ASCII labels, A-labels for other scripts (UTS #46,
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

MAX_NAME = 255  # octets on the wire: a length byte a label, and the root's
MAX_LABEL = 63
RESERVED = "any"  # the word for every destination; no pattern may come to be spelled like it

_LABEL = re.compile(r"[a-z0-9_-]+")
_HOST = re.compile(rf"(?=.{{1,{MAX_NAME - 2}}}\Z)[a-z0-9_-]{{1,63}}(?:\.[a-z0-9_-]{{1,63}})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_TOO_LONG = f"is longer than a name may be, {MAX_NAME} octets"
_WILDCARD_FORM = "a wildcard stands only as the whole first label: *.example.org or **.example.org"


class Depth(Enum):
    """How many labels a pattern wants in front of its base."""

    EXACT = ""
    ONE = "*."
    DEEP = "**."


class Pattern(NamedTuple):
    base: str  # normalised
    depth: Depth

    def __str__(self) -> str:
        return self.depth.value + self.base


def normalise(name: str) -> str:
    """The one spelling of a host name. Raises ValueError: a phrase that says what is wrong with it."""
    if len(name) > MAX_NAME:
        raise ValueError(_TOO_LONG)
    if _HOST.fullmatch(name) and "xn--" not in name and not name[-1].isdigit() and "0x" not in name:
        return name  # as most come; what follows gives the same
    if not name.isascii():
        try:
            name = idna.uts46_remap(name, std3_rules=False, transitional=False)
        except idna.IDNAError as error:
            raise ValueError(f"is not a name in any script: {_printable(error)}") from None
    labels = [_label(label) for label in _plain(name).split(".")]
    if sum(len(label) + 1 for label in labels) + 1 > MAX_NAME:
        raise ValueError(_TOO_LONG)
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("ends in a number, so it is no name, and it is no address either")
    return ".".join(labels)


def _label(label: str) -> str:
    if not label:
        raise ValueError("has an empty label: a dot too many, or nothing at all")
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
    """Read an exact name, `*.x` or `**.x`. Raises ValueError: a phrase that says what is wrong with it."""
    if not text:
        raise ValueError("is empty; write a name, or any")
    if not text.strip("*."):
        raise ValueError("would be every name there is; write any instead")
    depth = next((depth for depth in (Depth.DEEP, Depth.ONE) if text.startswith(depth.value)), Depth.EXACT)
    rest = text[len(depth.value) :]
    if "*" in rest:
        raise ValueError(f"has a wildcard in the wrong place; {_WILDCARD_FORM}")
    base = normalise(rest)
    if depth is Depth.EXACT and base == RESERVED:
        raise ValueError("is no host's name but the word for every destination; write any")
    if depth is not Depth.EXACT and len(base) + 4 > MAX_NAME:
        raise ValueError(f"leaves no room for another label in {MAX_NAME} octets")
    return Pattern(base, depth)


def matches(pattern: Pattern, name: str) -> bool:
    """Whether a normalised (or `canonical`) name is what the pattern speaks of."""
    if pattern.depth is Depth.EXACT:
        return name == pattern.base
    if pattern.depth is Depth.ONE:
        return name.partition(".")[2] == pattern.base
    return name.endswith("." + pattern.base)


def canonical(name: str) -> str:
    """The spelling under which a name from the wire is compared. Never raises.

    What no host can be called keeps its form, in lower case without the last dot: a deny pattern may still find it,
    and `is_host` tells that an allow pattern must not.
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
    """Whether a canonical name is one that a host can have; others must not be allowed by a wildcard."""
    return _HOST.fullmatch(name) is not None


def is_address(name: str) -> bool:
    """Whether a canonical name is an address written out, as in `Host: 192.0.2.7`: it names nobody."""
    if ":" in name:
        return _parses(IPv6Address, name.removeprefix("[").removesuffix("]"))
    return name[-1:].isdigit() and _parses(IPv4Address, name)


def reverse_address(name: str) -> bytes | None:
    """The packed address that a canonical reverse name (RFC 1035 section 3.5, RFC 3596 section 2.5) asks about.

    None where it is no reverse name, or one of a whole network.
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
