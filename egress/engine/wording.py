"""Words for findings: other people's text made harmless, and addresses as people write them."""

from __future__ import annotations

from ipaddress import ip_address


def printable(text: str | bytes, limit: int = 64) -> str:
    """At most `limit` characters of text that came from the wire, other than printable ASCII as `?`; `…` where cut."""
    if isinstance(text, bytes):
        text = text[: limit + 1].decode("latin-1")
    clean = "".join(char if " " <= char <= "~" else "?" for char in text[:limit])
    return clean + "…" if len(text) > limit else clean


def endpoint(address: bytes, port: int) -> str:
    """`203.0.113.9:443` or `[2001:db8::9]:443` for a packed address."""
    host = ip_address(address)
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
