"""Answers of the kernel and files of /proc, whole, cut and garbled: a value or None, and no exception."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.attribution import diag, links, proc, tables
from egress.gateway.kernel.netlink import HEADER, attribute
from egress.gateway.pipe.note import Note
from egress.model import TCP, UDP
from egress.records.shape import PROCESS_CMDLINE

NOTE = Note("a" * 16, "a", 0.0, 1, TCP, False, b"\x0a\0\0\2", 40000, b"\x0a\0\0\3", 443, False)
# From Linux 6.18: a socket in SYN_SENT, 10.250.1.2:42167 to 10.250.1.77:80.
ANSWER = HEADER.pack(HEADER.size + 72, 20, 0, 1, 0) + bytes.fromhex(
    "02020100a4b700500afa01020000000000000000000000000afa014d00000000000000000000000000000000ef000000"
    "00000000e80300000000000001000000000000003bee0200"
)


def test_an_answer_names_inode_and_user() -> None:
    found = diag.answer(ANSWER)
    assert found is not None and (found.inode, found.uid, found.state) == (0x02EE3B, 0, 2)


def test_a_refusal() -> None:
    def refused(code: int) -> bytes:
        return HEADER.pack(HEADER.size + 4, 2, 0, 1, 0) + struct.pack("=i", -code)

    assert diag.answer(refused(errno.ENOENT)) is None
    with pytest.raises(OSError, match="denied"):
        diag.answer(refused(errno.EACCES))
    for cut in (b"", ANSWER[:40], refused(0)):
        with pytest.raises(OSError):
            diag.answer(cut)


@given(st.binary(max_size=200), st.integers(0, len(ANSWER)))
def test_a_garbled_answer(noise: bytes, at: int) -> None:
    for data in (noise, ANSWER[:at] + noise):
        with contextlib.suppress(OSError):
            diag.answer(data)


def test_an_agent_with_a_million_addresses_is_not_read_to_the_end() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        for part in range(20):  # and no terminator
            several = (attribute(2, struct.pack(">I", part * 100 + number)) for number in range(100))
            bodies = (struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, 1) + each for each in several)
            kernel.send(b"".join(HEADER.pack(HEADER.size + len(body), 20, 2, 1, 0) + body for body in bodies))
        assert len(links.addresses(ours)) == links.MAX_ADDRESSES


def test_a_udp_request_is_the_other_way_round() -> None:
    """The kernel looks up an arriving packet: its source is the other end, its destination ours."""
    straight, swapped = diag.request(NOTE, 3), diag.request(NOTE._replace(proto=UDP), 3)
    at = HEADER.size + 8
    assert straight[at : at + 4] == struct.pack(">HH", 40000, 443) and straight[at + 4 : at + 8] == NOTE.local
    assert swapped[at : at + 4] == struct.pack(">HH", 443, 40000) and swapped[at + 4 : at + 8] == NOTE.remote


@given(st.binary(max_size=300))
def test_noise_is_no_link_and_no_address(noise: bytes) -> None:
    for kind in (16, 20, 88):
        data = HEADER.pack(HEADER.size + len(noise), kind, 0, 1, 0) + noise
        list(links._links(data))
        list(links._locals(data))


TABLE = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  123: 0201630A:0007 4D01630A:0000 01 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0
   45: 00000000000000000000000000000000:003A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 \
00000000     0        0 12 2 0000000000000000 0
"""


def test_a_table_of_sockets() -> None:
    assert list(tables.rows(TABLE)) == [(7, diag.Socket(4711, 1000, 1)), (0x3A, diag.Socket(12, 0, 7))]


@given(st.binary(max_size=300), st.integers(0, len(TABLE)))
def test_a_garbled_table(noise: bytes, at: int) -> None:
    list(tables.rows(TABLE[:at] + noise + TABLE[at:]))


def test_status_and_stat() -> None:
    text = b"Name:\tx\\nUid: 0 0\nUmask:\t0022\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4711\t12\n"
    assert proc.status(text) == (1001, 12)
    assert proc.status(b"") == (None, 0)
    ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - 5) * proc._TICKS)
    began = proc.start(b"12 (a) (b c) R 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 1 1\n" % ticks)
    assert began is not None and abs(began - (time.time() - 5)) < 0.1
    assert proc.start(b"12 (a) R 1") is None


@given(st.binary(max_size=300))
def test_any_status_and_stat(noise: bytes) -> None:
    proc.status(noise)
    proc.start(noise)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"curl\0-s\0https://x/?a=1&b=2\0", "curl -s 'https://x/?a=1&b=2'"),
        (b"sh\0-c\0echo 'a b'\0", """sh -c 'echo '"'"'a b'"'"''"""),
        (b"a\0\0b\0", "a '' b"),
        (b"renamed itself", "'renamed itself'"),
        (b"", ""),
        (b"\0\0\0", ""),
        (b"\xff\x1b\0", "'\\xff\x1b'"),
    ],
)
def test_command_lines(raw: bytes, text: str) -> None:
    assert proc.quoted(raw) == text


@given(st.binary(max_size=2 * PROCESS_CMDLINE))
def test_any_command_line_is_bounded(raw: bytes) -> None:
    text = proc.quoted(raw[: PROCESS_CMDLINE + 1])
    assert len(text) <= PROCESS_CMDLINE
    assert text.endswith(" …") or len(raw) <= PROCESS_CMDLINE
    text.encode()


def test_processes_come_youngest_first() -> None:
    assert proc.in_order([1, 300, 32000, 400, 32767], 350, 32768) == [300, 1, 32767, 32000, 400]
    with subprocess.Popen(["sleep", "60"]) as child:
        pids = proc.newest_first()
        child.kill()
    assert {1, child.pid, os.getpid()} <= set(pids)


def test_unaskable_protocols() -> None:
    assert diag.askable(TCP) and diag.askable(UDP) and not diag.askable(socket.IPPROTO_ICMP)
