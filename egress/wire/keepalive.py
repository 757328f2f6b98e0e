"""The keep-alives of common protocols: requests whose only purpose is to show that the connection is alive.

Pings of WebSocket (RFC 6455 section 5.5.2), HTTP/2 (RFC 9113 section 6.7), MQTT (section 3.12 of version 5), AMQP 0-9-1
and 1.0, STOMP, Redis and NATS; test queries of connection pools (PostgreSQL, MySQL), NOOP of FTP, IMAP, POP3 and SMTP,
and PING of IRC. A segment counts only if it contains one keep-alive and nothing else.
"""

from __future__ import annotations

import re

LONGEST = 256  # bytes; a longer request is none of these
_WS_PING, _WS_PONG, _MASKED = 0x89, 0x8A, 0x80
_H2_PING, _H2_ACK = b"\0\0\x08\x06\0\0\0\0\0", b"\0\0\x08\x06\x01\0\0\0\0"
_H2_SIZE = 17

_AMQP = b"\x08\0\0\0\0\0\0\xce"
# A ping and its answer. Where they are equal, each side sends its own.
_PINGS = {
    b"\xc0\0": b"\xd0\0",  # MQTT
    _AMQP: _AMQP,
    b"\0\0\0\x08\x02\0\0\0": b"\0\0\0\x08\x02\0\0\0",  # AMQP 1.0
    b"\n": b"\n",  # STOMP
    b"\r\n": b"\n",
    b"PING\r\n": b"PONG\r\n",  # NATS; Redis below answers with a "+"
    b"*1\r\n$4\r\nPING\r\n": b"+PONG\r\n",
    b"*1\r\n$4\r\nping\r\n": b"+PONG\r\n",
}
_TEST = rb"(?:(?:/\*[ -~]{0,32}\*/ ?)?(?:SELECT 1|SELECT 'x'|SELECT 1 FROM DUAL|SELECT @@version)?;?|--[ -~]{0,32})"
_QUERIES = re.compile(
    rb"(?i:"
    rb"Q\0\0\0." + _TEST + rb"\0"  # PostgreSQL, simple query
    rb"|S\0\0\0\x04"  # PostgreSQL, Sync
    rb"|\x01\0\0\0\x0e"  # MySQL, COM_PING
    rb"|.\0\0\0\x03" + _TEST + rb""  # MySQL, COM_QUERY
    rb"|(?:[A-Z0-9.]{1,16} )?NOOP\r?\n"  # FTP, IMAP, POP3, SMTP
    rb"|PING [!-~]{1,64}\r?\n"  # IRC
    rb")",
    re.DOTALL,
)


def pong(request: bytes) -> bytes | None:
    """Return the bytes with which an honest peer answers this ping; None if `request` is not a ping.

    Only pings whose answer can be predicted count; the requests of `is_test` give None. A client's unsolicited
    WebSocket pong counts as a ping.
    """
    if len(request) >= 6 and request[0] in (_WS_PING, _WS_PONG) and request[1] & _MASKED:
        size = request[1] & 0x7F
        if size > 125 or len(request) != 6 + size:
            return None
        mask = request[2:6]
        return bytes((_WS_PONG, size)) + bytes(byte ^ mask[at % 4] for at, byte in enumerate(request[6:]))
    if len(request) == _H2_SIZE and request.startswith(_H2_PING):
        return _H2_ACK + request[len(_H2_PING) :]
    return _PINGS.get(request)


def is_test(request: bytes) -> bool:
    """Return True if `request` is a pool's test query or ping, a NOOP, or an IRC PING.

    An honest answer to it is the same each time.
    """
    return _QUERIES.fullmatch(request) is not None
