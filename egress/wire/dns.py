"""DNS queries and answers (RFC 1035), over UDP and behind TCP's length prefix; `egress.wire.dnsnames` reads the names.

`query` returns a query's question and skips its records. `answer` returns an answer's question and its bindings:
addresses, and the aliases that lead to them from the question.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, unpack_from
from typing import NamedTuple

from egress.errors import MalformedError
from egress.wire.dnsnames import HEADER, Names, skip_name

MIN_MESSAGE = HEADER + 5  # the root's name (1), type, class
MAX_RECORDS = 512  # of an answer, hints of SVCB records counted as records; real ones stay below 100
MAX_CHAIN = 17  # names from the question to an address; BIND follows 16 aliases, unbound 11
MAX_TTL = 0x7FFFFFFF  # seconds; larger ones count as 0 (RFC 2181 section 8)
A, CNAME, AAAA, DNAME, SVCB, HTTPS = 1, 5, 28, 39, 64, 65
_OPT, _IN = 41, 1
_SIZES = {A: 4, AAAA: 16}
_HINTS = {4: A, 6: AAAA}  # keys of SVCB parameters (RFC 9460 section 14.3.2)
_ECH = 5  # RFC 9848
_OPCODES = frozenset((0, 4, 5, 6))  # query, notify, update, stateful operations (RFC 8490)
_SHORTEST_QUESTION, _SHORTEST_RECORD = 5, 11  # bytes, with the root as their name
_STATEFUL = 6  # without sections
_MAX_ADDITIONAL = 4  # records besides OPT, TSIG and SIG(0) that a query has
_HEADER = Struct("!HHHHHH").unpack_from
_RECORD = Struct("!HHIH").unpack_from  # type, class, TTL, length of the data


class DnsQuery(NamedTuple):
    """The question of a query."""

    name: str  # lower case, no trailing dot, "" for the root; bytes besides [a-z0-9-_] as \DDD (RFC 1035 section 5.1)
    rtype: int  # 1 A, 28 AAAA, 16 TXT, …
    id: int


class DnsRecord(NamedTuple):
    """One resource record."""

    name: str  # of the owner, like DnsQuery.name
    rtype: int
    ttl: int  # seconds
    value: bytes | str  # A, AAAA: the packed address; else the target's name, "" without one
    ech: bool = False  # SVCB, HTTPS: an ECH configuration is offered


class DnsAnswer(NamedTuple):
    """An answer: its question, and those records that bind the question's name to aliases and addresses."""

    id: int
    name: str  # of the question, like DnsQuery.name
    rtype: int  # of the question
    rcode: int  # with the upper bits that EDNS adds (RFC 6891 section 6.1.3)
    # IN records of the types above. From other sections: only addresses that the question leads to
    records: tuple[DnsRecord, ...]


class Bound(NamedTuple):
    """An address that an answer binds to names."""

    names: tuple[str, ...]  # the question's name, then each alias up to the owner of the address
    address: bytes  # packed
    ttl: int  # seconds; the smallest on the way


class _Message(NamedTuple):
    """The question of a message, with the question's class."""

    question: DnsQuery
    qclass: int


def query(payload: bytes) -> DnsQuery:
    """Return the question of a standard query; its records are skipped.

    Raises MalformedError unless the message is a standard query with one question, and ends with its last record.
    """
    _check_query(payload)
    return _read(payload).question


def answer(payload: bytes) -> DnsAnswer:
    """Return the answer in a message. Raises MalformedError unless it has one question, and ends with its last record.

    A service binding (RFC 9460) counts as an alias from its owner to its target; its address hints become A and
    AAAA records of the target.
    """
    flags = _check_header(payload)
    if not flags & 0x8000:
        raise MalformedError("a DNS query, not an answer")
    _, _, _, answers, authority, additional = _HEADER(payload)
    names = Names(payload)
    (question, qclass), at = _question(payload, names)
    at, records, upper = _section(payload, names, at, answers)
    at, others, more = _section(payload, names, at, authority + additional)
    if at != len(payload):
        raise MalformedError("DNS records do not end where the message does")
    if qclass != _IN:
        records, others = [], []
    reached = _reach(question.name, records)
    records += [record for record in others if record.rtype in _SIZES and record.name in reached]
    if len(records) > MAX_RECORDS:
        raise MalformedError("too many DNS records")
    rcode = flags & 0xF | (upper or more) << 4
    return DnsAnswer(question.id, question.name, question.rtype, rcode, tuple(records))


def addresses_of(answer: DnsAnswer) -> tuple[Bound, ...]:
    """Return the addresses that the question's name leads to, in the order of the records.

    Aliases are followed as a stub resolver does: CNAME (a DNAME comes with the CNAME it stands for) and service
    bindings, at most MAX_CHAIN names. A name that is reached twice keeps its first, shortest path, so a loop ends.
    """
    reached = _reach(answer.name, answer.records)
    found = []
    for record in answer.records:
        if record.rtype in _SIZES and isinstance(record.value, bytes) and record.name in reached:
            names, ttl = reached[record.name]
            found.append(Bound(names, record.value, min(ttl, record.ttl)))
    return tuple(found)


class DnsStream:
    """Splits one direction of a TCP connection into messages (RFC 7766 section 8). It keeps less than one message.

    After a length prefix that is shorter than a DNS header, this and each further call of `feed` raises MalformedError.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the messages that `chunk` completes, without their length prefixes.

        Raises MalformedError for a length prefix that is too short.
        """
        self._kept += chunk
        messages, at = [], 0
        while len(self._kept) - at >= 2:
            end = at + 2 + int.from_bytes(self._kept[at : at + 2])
            if end - at - 2 < HEADER:
                del self._kept[:at]
                raise MalformedError("DNS message is too short")
            if end > len(self._kept):
                break
            messages.append(bytes(self._kept[at + 2 : end]))
            at = end
        del self._kept[:at]
        return messages


def check_framing(payload: bytes, *, answer: bool) -> None:
    """Check that a message has the form of a query, or with `answer` of an answer, of any known opcode.

    Raises MalformedError. Of an answer only the header is checked, since it may be truncated (TC). Names and the data
    of records are skipped.
    """
    check_header(payload, len(payload), answer=answer)
    if answer:
        return
    _, _, questions, answers, authority, additional = _HEADER(payload)
    at = HEADER
    for _ in range(questions):
        at = skip_name(payload, at) + 4
    if questions or answers or authority or additional:  # else an operation of its own form may follow (RFC 8490)
        _check_records(payload, at, answers + authority + additional)


def check_header(message: bytes, size: int, *, answer: bool) -> None:
    """Check the DNS header at the start of `message`, which holds at least the beginning of a message of `size` bytes.

    The questions and records that the header of a query counts must have room in `size` bytes; an answer may be
    truncated. Raises MalformedError, also if the header is not whole.
    """
    if size < HEADER or len(message) < HEADER:
        raise MalformedError("DNS message is too short")
    _, flags, questions, answers, authority, additional = _HEADER(message)
    opcode = flags >> 11 & 0xF
    if bool(flags & 0x8000) != answer or opcode not in _OPCODES:
        raise MalformedError("not a DNS message of this direction")
    if answer:
        return
    records = answers + authority + additional
    if opcode == _STATEFUL and (questions or records):
        raise MalformedError("a DNS stateful operation with records")
    if questions > 1 or (opcode == 0 and (answers or authority > 1 or additional > _MAX_ADDITIONAL)):
        raise MalformedError("not a DNS query")
    if HEADER + _SHORTEST_QUESTION * questions + _SHORTEST_RECORD * records > size:
        raise MalformedError("a DNS message counts more records than it has")


def _check_header(payload: bytes) -> int:
    """Return the flags of a message. Raises MalformedError unless it has opcode 0 and one question."""
    if len(payload) < MIN_MESSAGE:
        raise MalformedError("DNS message is too short")
    _, flags, questions, _, _, _ = _HEADER(payload)
    if flags & 0x7800 or questions != 1:
        raise MalformedError("not a standard DNS message with one question")
    return int(flags)


def _check_query(payload: bytes) -> None:
    if _check_header(payload) & 0x8000:
        raise MalformedError("a DNS answer, not a query")


def _read(payload: bytes) -> _Message:
    _, _, _, answers, authority, additional = _HEADER(payload)
    message, at = _question(payload, Names(payload))
    _check_records(payload, at, answers + authority + additional)
    return message


def _check_records(payload: bytes, at: int, count: int) -> None:
    """Check that the message ends with `count` records from an offset on."""
    for _ in range(count):  # each takes 11 bytes or more, so the payload bounds it
        at = skip_name(payload, at)
        if at + 10 > len(payload):
            raise MalformedError("DNS record is cut off")
        at += 10 + int(unpack_from("!H", payload, at + 8)[0])
    if at != len(payload):
        raise MalformedError("DNS records do not end where the message does")


def _question(payload: bytes, names: Names) -> tuple[_Message, int]:
    name, at = names.read(HEADER)
    if at + 4 > len(payload):
        raise MalformedError("DNS question is cut off")
    rtype, qclass = unpack_from("!HH", payload, at)
    return _Message(DnsQuery(name, rtype, int.from_bytes(payload[:2])), qclass), at + 4


def _section(payload: bytes, names: Names, at: int, count: int) -> tuple[int, list[DnsRecord], int]:
    """Read `count` records: return the offset after them, the records that bind, and the upper bits of the rcode.

    Raises MalformedError.
    """
    found: list[DnsRecord] = []
    upper = 0
    if count > MAX_RECORDS:
        raise MalformedError("too many DNS records")
    for _ in range(count):
        name, at = names.read(at)
        if at + 10 > len(payload):
            raise MalformedError("DNS record is cut off")
        rtype, rclass, ttl, size = _RECORD(payload, at)
        at, end = at + 10, at + 10 + size
        if end > len(payload):
            raise MalformedError("DNS records do not end where the message does")
        if rtype == _OPT:
            upper = ttl >> 24
        elif rclass == _IN:
            _add_record(found, names, payload[:end], at, DnsRecord(name, rtype, ttl if ttl <= MAX_TTL else 0, b""))
        at = end
    return at, found, upper


def _add_record(found: list[DnsRecord], names: Names, payload: bytes, at: int, record: DnsRecord) -> None:
    """Append `record` with its value, read from `at` to the end of `payload`; leave out types that bind nothing.

    Raises MalformedError.
    """
    if record.rtype in _SIZES:
        if len(payload) - at != _SIZES[record.rtype]:
            raise MalformedError("DNS address of a wrong length")
        found.append(record._replace(value=payload[at:]))
    elif record.rtype in (CNAME, DNAME):
        target, end = names.read(at)
        if end != len(payload):
            raise MalformedError("bytes after the name in a DNS alias")
        found.append(record._replace(value=target))
    elif record.rtype in (SVCB, HTTPS):
        _add_service(found, names, payload, at, record)
        if len(found) > MAX_RECORDS:
            raise MalformedError("too many DNS records")


def _add_service(found: list[DnsRecord], names: Names, payload: bytes, at: int, record: DnsRecord) -> None:
    """Append a service binding and its address hints (RFC 9460 section 2.2: priority, target, parameters by key).

    Raises MalformedError.
    """
    if at + 2 > len(payload):
        raise MalformedError("DNS service binding is cut off")
    service = payload[at : at + 2] != b"\0\0"  # priority 0 is an alias only: its parameters are ignored
    target, at = names.read(at + 2, plain=True)
    if at > len(payload):
        raise MalformedError("DNS name is cut off")
    target = target or (record.name if service else "")  # "." is the owner itself; of an alias: no such service
    hints: list[DnsRecord] = []
    ech, last = False, -1
    while at < len(payload):
        if at + 4 > len(payload):
            raise MalformedError("DNS service parameter is cut off")
        key, size = unpack_from("!HH", payload, at)
        at += 4
        if key <= last or at + size > len(payload):
            raise MalformedError("DNS service parameters out of order or cut off")
        if service and key in _HINTS:
            hints += _addresses(target, _HINTS[key], record.ttl, payload[at : at + size])
        ech, last, at = ech or (service and key == _ECH), key, at + size
    found += [record._replace(value=target, ech=ech), *hints]


def _addresses(name: str, rtype: int, ttl: int, data: bytes) -> list[DnsRecord]:
    size = _SIZES[rtype]
    if not data or len(data) % size:
        raise MalformedError("DNS address hint of a wrong length")
    return [DnsRecord(name, rtype, ttl, data[at : at + size]) for at in range(0, len(data), size)]


def _reach(name: str, records: Iterable[DnsRecord]) -> dict[str, tuple[tuple[str, ...], int]]:
    """Return every name that aliases lead to, with the names on the way there and the smallest TTL."""
    aliases: dict[str, list[DnsRecord]] = {}
    for record in records:
        if record.rtype in (CNAME, SVCB, HTTPS) and record.value:
            aliases.setdefault(record.name, []).append(record)
    reached: dict[str, tuple[tuple[str, ...], int]] = {name: ((name,), MAX_TTL)}
    waiting = [name]
    for owner in waiting:
        names, ttl = reached[owner]
        for record in aliases.get(owner, ()) if len(names) < MAX_CHAIN else ():
            target = str(record.value)
            if target not in reached:
                reached[target] = (*names, target), min(ttl, record.ttl)
                waiting.append(target)
    return reached
