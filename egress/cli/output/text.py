"""Formats text for a terminal: hostile characters escaped, sizes and times readable."""

from __future__ import annotations

from egress.records.times import iso

LABEL = 11  # columns


def plain(text: str) -> str:
    r"""Escape every character that does not print as itself (control characters, text direction), as `\x1b`.

    Text that an agent sent reaches the investigator's terminal: it must not move the cursor or reverse lines.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def when(ts: float) -> str:
    """Format a time as `2026-11-23 15:06:02.123`, UTC."""
    return iso(ts)[:-4].replace("T", " ")


def size(count: int) -> str:
    """Format a number of bytes with a decimal unit: `512 B`, `1.5 kB`, `2.0 MB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:.1f} PB"


def endpoint(address: str, port: int) -> str:
    """Format an address and port: `192.0.2.7:443`, `[2001:db8::7]:443`; without the port if it is 0."""
    address = plain(address)
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def hexdump(data: bytes) -> list[str]:
    """Format lines of 16 bytes: offset, hex, and ASCII with dots for other bytes."""
    lines = []
    for offset in range(0, len(data), 16):
        part = data[offset : offset + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        left, right = part[:8].hex(" "), part[8:].hex(" ")
        lines.append(f"{offset:04x}  {left:<23}  {right:<23}  {shown}")
    return lines


def labelled(label: str, text: str) -> str:
    """Format a line of a story: a label and a text. Control characters are escaped."""
    return f"{label:<{LABEL}}{plain(text)}".rstrip()
