"""Attachments of agents: interface, networks and queues of each, checked before they become part of a kernel rule."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from egress.errors import InputError

# What `ip`, nftables and sysfs take alike: no blanks or quotes, no `+` or `*` (wildcards), no leading `-` or `!`.
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,14}")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One agent's traffic, and its queues: all of `interface` or, where agents share that, of `networks` on it."""

    agent: str
    interface: str
    networks: tuple[str, ...]  # CIDRs, both families
    queue: int  # full-depth queue number
    settled_queue: int
    masquerade: bool


def check(attachments: Sequence[Attachment]) -> None:
    """Check all that becomes part of kernel rules: interface names, networks, queue numbers. Raises InputError."""
    for attachment in attachments:
        check_interface(attachment.interface, f"agent {attachment.agent}")
        for network in attachment.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise InputError(f"network of agent {attachment.agent}: {error}") from None
        if not (0 <= attachment.queue <= 0xFFFF and 0 <= attachment.settled_queue <= 0xFFFF):
            raise InputError(f"queue.base: the queues of agent {attachment.agent} must be numbers from 0 to 65535")


def check_interface(interface: str, owner: str) -> None:
    """Check that an interface name has 1 to 15 plain characters. Raises InputError, with `owner` in its text."""
    if not _INTERFACE.fullmatch(interface):
        raise InputError(
            f"interface {interface!r} of {owner}: rename it to at most 15 "
            "letters, digits, dots, dashes (not first) and underscores"
        )
