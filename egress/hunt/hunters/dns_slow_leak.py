"""dns.slow-leak: data leaves in the names of DNS queries, a little at a time.

The owner of a domain receives every queried name below it. For each agent and registered domain, this hunter counts
the distinct names that were queried at most `ONCE` (a leak never repeats a name, or a cache would keep it from leaving;
names that programs use are repeated) and the information in them: the size of the names, below the domain, after
compression (zlib). Words, numbered hosts and repeated parts compress well, encoded data does not. It is a finding if
there are at least `DISTINCT` such names with at least `SAID` bytes of information, and either at least `EACH` bytes in
a name on average or at least `MANY` names.

The row of a DNS flow contains the last queried name, and no query types or answers. So a flow with many queries counts
for one name, and of its other queries only the size is known. It is a finding as well if an agent's flows whose last
query was for a domain have `DISTINCT` packets beyond one or two in each flow, `SAID` bytes of names, and names of
`LONG` bytes on average: ordinary names have 15 to 30. Queries for other domains in the same flows are included.

Data that comes *in* over DNS shows as the many names that fetch it. Only flows that passed count. Not found: less than
`SAID` bytes; a leak over many domains; names that look like words; repeated names; short names in one long flow; DNS
over TLS or HTTPS, which is not read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from egress.hunt.domains import registrable
from egress.hunt.hunter import HunterReport, Lead, Settings, Strongest, counted
from egress.model import Severity
from egress.store.query.history import History, HistoryTarget, QueriedName

ONCE = 2  # flows: a name is asked for as A and as AAAA, by some resolvers from two ports
DISTINCT = 50  # names; practice is 50 to 100 (RITA begins to score at 100 subdomains of a domain)
MANY = 1000  # names; RITA's highest step
SAID = 2048  # bytes; an OpenSSH key of the usual kind has 400, an RSA key of 4096 bits 3,300
EACH = 8.0  # bytes a name: dns2tcp's shortest labels carry 7, a host's name of eight letters about 5
SAMPLE = 4096  # names that are read; the others are assumed to contain as much
MAX_DOMAINS = 50_000  # domains of one agent that are examined
MAX_LOOKED_AT = 20  # domains of one agent whose names are read, those with the longest names
LONG = 48  # bytes; nDPI flags first labels from there on, others 40 to 52, and here it is the mean of whole names
# IPv6 and UDP headers, the DNS's, a question's type and class, an OPT record with a cookie of 24 bytes (RFC 7873), the
# name's own length bytes: the most bytes of a query besides the name, so all bytes beyond them are the name's.
OVERHEAD = 40 + 8 + 12 + 4 + 11 + 28 + 2


@dataclass(slots=True)
class _Domain:
    """An agent's queries for one registered domain."""

    names: int = 0  # distinct, queried at most ONCE
    spelled: int = 0  # their length, below the domain
    flows: int = 0
    packets: int = 0  # of UDP
    bytes_out: int = 0  # of UDP
    last: int = -1  # microseconds

    def add(self, row: QueriedName, below: int) -> None:
        """Add the flows with one last name, which is `below` characters longer than the domain."""
        if row.flows <= ONCE and below:
            self.names += 1
            self.spelled += below
        self.flows += row.flows
        self.packets += row.packets
        self.bytes_out += row.bytes_out
        self.last = max(self.last, row.last)

    @property
    def length(self) -> float:
        """A lower bound of the average length of a name, in bytes, from the sizes of packets; it may be negative."""
        return self.bytes_out / max(self.packets, 1) - OVERHEAD

    @property
    def hidden(self) -> bool:
        """True if the flows had many long names that are not stored (see the module's docstring)."""
        unseen = self.packets - ONCE * self.flows
        return unseen >= DISTINCT and self.length >= LONG and self.packets * self.length >= SAID


class DnsSlowLeak:
    """Measures the information in an agent's queried names per domain (see the module's docstring)."""

    id = "dns.slow-leak"
    technique = "T1048.003"  # Exfiltration Over Unencrypted Non-C2 Protocol
    about = "much data leaves in the names of queries for one domain, over days"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        strongest, notes = Strongest(), list[str]()
        others = unseen = 0
        for agent, rows in groupby(history.queried_names(), key=attrgetter("agent")):
            domains: dict[str, _Domain] = {}
            for row in rows:
                unseen += max(row.packets - ONCE * row.flows, 0)
                domain = registrable(row.name)
                if domain not in domains and len(domains) >= MAX_DOMAINS:
                    others += 1
                elif not domain.endswith(".arpa"):
                    domains.setdefault(domain, _Domain()).add(row, _below(row.name, domain))
            for lead in _leads(history, agent, domains, notes):
                strongest.add(lead)
        if others:
            notes.append(f"{counted(others, 'name')} not examined: of agents with more than {MAX_DOMAINS} domains")
        if unseen:
            notes.append(f"{counted(unseen, 'packet')} of DNS flows may contain queries for names that are not stored")
        if strongest.left_out:
            notes.append(f"{counted(strongest.left_out, 'smaller leak')} left out")
        return HunterReport(tuple(strongest), tuple(notes))


def information(names: Sequence[str]) -> int:
    """Estimate the information in names, in bytes: their compressed size without the overhead of a stream."""
    packed = zlib.compress("\n".join(names).encode("utf-8", "backslashreplace"), 9)
    return max(len(packed) - 11, 0)  # the empty text takes 8 bytes, the tables of a short one a few more


def _below(name: str, domain: str) -> int:
    """Return the number of characters of a name before its domain and the dot between them."""
    return max(len(name) - len(domain) - 1, 0)


def _leads(history: History, agent: str, domains: dict[str, _Domain], notes: list[str]) -> list[Lead]:
    """Return the leads of one agent. Names are read only of domains whose names are long enough to carry a leak."""
    worth = [item for item in domains.items() if item[1].names >= DISTINCT and item[1].spelled >= SAID]
    worth.sort(key=lambda item: (-item[1].spelled, item[0]))
    if len(worth) > MAX_LOOKED_AT:
        notes.append(f"agent {agent}: {len(worth) - MAX_LOOKED_AT} domains with many names not examined")
    leads = [_sized(agent, domain, asked) for domain, asked in sorted(domains.items()) if asked.hidden]
    for domain, asked in worth[:MAX_LOOKED_AT]:
        names = [name[: _below(name, domain)] for name in history.names_under(agent, domain, ONCE, SAMPLE)]
        if not names:
            continue
        each = information(names) / len(names)
        said = round(each * asked.names)
        if said >= SAID and (each >= EACH or asked.names >= MANY) and not asked.hidden:
            leads.append(_lead(agent, domain, asked, said, each, names))
    return leads


def _lead(agent: str, domain: str, asked: _Domain, said: int, each: float, names: list[str]) -> Lead:
    """Make the lead for a domain by its stored names."""
    length = asked.spelled / asked.names
    summary = (
        f"Looking back: the agent queried {asked.names} different names under {domain}, each once or twice: they may"
        f" have carried {said} bytes to its owner, {each:.0f} in each name. If names of this domain look like that,"
        " exempt this signature in the rule that allows it."
    )
    samples = " ".join(sorted(names, key=len)[-3:])
    evidence = (
        f"names={asked.names} information_bytes={said} information_a_name={each:.1f} length_a_name={length:.1f}"
        f" flows={asked.flows} bytes_out={asked.bytes_out} longest: {samples}"
    )
    target = HistoryTarget(said=domain, under=True)
    return Lead(agent, target, asked.last, domain, Severity.MEDIUM, summary, evidence, float(said))


def _sized(agent: str, domain: str, asked: _Domain) -> Lead:
    """Make the lead for a domain by the sizes of packets, whose names are not stored."""
    said = round(asked.packets * asked.length)
    held = f"{counted(asked.packets, 'packet')} in {counted(asked.flows, 'flow')}"
    summary = (
        f"Looking back: the agent's DNS flows that ended with a query under {domain} had {held}, with names of"
        f" {asked.length:.0f} bytes on average: they may have carried {said} bytes. Only the last name of each flow is"
        " stored. If these are known, exempt this signature in the rule that allows the resolver."
    )
    evidence = (
        f"packets={asked.packets} flows={asked.flows} bytes_out={asked.bytes_out} length_a_name={asked.length:.1f}"
        f" names_stored={asked.names}"
    )
    target = HistoryTarget(said=domain, under=True)
    return Lead(agent, target, asked.last, domain, Severity.MEDIUM, summary, evidence, float(said))
