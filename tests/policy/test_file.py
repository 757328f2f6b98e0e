"""The policy file: its rules are read exactly, and mistakes are refused with their field."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import InputError
from egress.model import PROTOCOL_NUMBERS, Action, Rule
from egress.policy.applications import KNOWN
from egress.policy.domain import parse_pattern
from egress.policy.file import (
    check_document,
    dump_json,
    dump_yaml,
    load_policy,
    parse_policy,
    read_document,
    to_document,
)

FULL = """
rules:
  - action: allow
    destination: 192.0.2.0/24
    agent: "train-*"
    protocol: tcp
    ports: [22, "8000-8100"]
    app: ssh
    exempt: [ssh.unusual-port, mining.*]
    comment: backups
    id: backups
  - action: deny
  - action: allow
    destination: "**.Bücher.Example."
    agent: "label:team-*"
    unnamed: true
    expires: 2030-01-31T12:00:00+02:00
    author: ops
    id: books
"""


def _refused(text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse_policy(text, "p.yaml")
    message = str(caught.value)
    assert message.startswith("p.yaml") and "\n" not in message
    return message


def test_every_field() -> None:
    first, second, third = parse_policy(FULL, "p.yaml")
    assert first == Rule(
        id="backups",
        action=Action.ACCEPT,
        agent="train-*",
        destination="192.0.2.0/24",
        protocol="tcp",
        ports=((22, 22), (8000, 8100)),
        app="ssh",
        exempt=("ssh.unusual-port", "mining.*"),
        comment="backups",
    )
    assert second == Rule(id=second.id, action=Action.REJECT)
    assert third == Rule(
        id="books",
        action=Action.ACCEPT,
        agent="label:team-*",
        destination="**.xn--bcher-kva.example",
        unnamed=True,
        expires_at=1896084000.0,
        author="ops",
    )


plain = st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None)
addresses = plain.map(str)
networks = plain.flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda prefix: str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
    )
)
ranges = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair)))
names = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
patterns = st.builds(
    lambda depth, labels: depth + ".".join(labels),
    st.sampled_from(["", "*.", "**."]),
    st.lists(st.from_regex(r"_?[a-z][a-z0-9-]{0,6}", fullmatch=True), min_size=2, max_size=4),
)
texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
seconds = st.integers(0, 32_000_000_000_000_000).map(lambda microseconds: microseconds / 1e6)  # to the year 2984
rules = st.builds(
    Rule,
    id=names,
    action=st.sampled_from([Action.ACCEPT, Action.REJECT]),
    agent=st.sampled_from(["*", "train-?", "a[0-9]", "x", "label:gpu", "label:*"]),
    destination=st.just("any") | addresses | networks | patterns,
    protocol=st.sampled_from(["", *PROTOCOL_NUMBERS, "200"]),
    ports=st.lists(ranges, max_size=3).map(tuple),
    app=st.just("") | st.sampled_from(sorted(KNOWN)),
    exempt=st.lists(st.sampled_from(["mining.*", "ssh.unusual-port"]), max_size=2).map(tuple),
    unnamed=st.booleans(),
    private=st.booleans(),
    expires_at=st.none() | seconds,
    once=st.booleans(),
    comment=st.text(st.characters(exclude_categories=["C"]), max_size=20),
    author=texts,
)


def _legal(rule: Rule) -> Rule:
    rule = replace(rule, ports=rule.ports if rule.protocol in ("", "tcp", "udp", "sctp") else ())
    rule = replace(rule, once=rule.once and rule.expires_at is None)
    name = (
        rule.destination != "any" and "/" not in rule.destination and rule.destination[-1:] not in "0123456789abcdef:"
    )
    if rule.action is Action.ACCEPT:
        return rule if name else replace(rule, unnamed=False, private=False)
    return replace(rule, exempt=(), once=False, unnamed=False, private=False)


policies = st.lists(rules.map(_legal), max_size=5, unique_by=lambda rule: rule.id)


@given(policies)
def test_what_is_written_is_what_is_read(wanted: list[Rule]) -> None:
    """Compare YAML, JSON, and the parsed form of a JSON body."""
    made = (
        parse_policy(dump_yaml(wanted), "p", now=0.0),
        parse_policy(yaml.safe_dump(to_document(wanted)), "p", now=0.0),
        read_document(json.loads(dump_json(wanted)), "p", now=0.0),
    )
    assert made == (tuple(wanted),) * 3


@given(policies)
def test_a_file_says_the_same_where_nothing_is_relative(wanted: list[Rule]) -> None:
    lasting = [replace(rule, once=False) for rule in wanted]
    assert parse_policy(dump_yaml(lasting), "p") == tuple(lasting)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _attempt(text: str | bytes) -> tuple[tuple[Rule, ...], str]:
    """Return the rules, or the error's text; any other exception fails the test."""
    try:
        return parse_policy(text, "p.yaml"), ""
    except InputError as error:
        return (), str(error)


@given(
    st.sampled_from(
        [
            "action",
            "destination",
            "agent",
            "protocol",
            "ports",
            "app",
            "exempt",
            "comment",
            "id",
            "unnamed",
            "private",
            "author",
            "expires",
        ]
    ),
    values,
)
def test_any_value_is_a_rule_or_one_line(field: str, value: object) -> None:
    made, complaint = _attempt(yaml.safe_dump({"rules": [{"action": "allow", field: value}]}))
    assert not complaint or (complaint.startswith(f"p.yaml: rule 1: {field}: ") and "\n" not in complaint)
    for rule in made:
        assert all(0 < first <= last <= 65535 for first, last in rule.ports)
        assert parse_policy(dump_yaml(made), "p") == made


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("::1", "::1"),
        ("::/0", "::/0"),
    ],
)
def test_a_mapped_address_is_the_address_that_packets_carry(written: str, read: str) -> None:
    (rule,) = parse_policy(f"rules:\n  - {{action: deny, destination: '{written}'}}\n", "p.yaml")
    assert rule.destination == read


def test_a_mapped_network_with_bits_set_after_its_prefix_is_refused() -> None:
    assert "did you mean 192.0.2.0/24?" in _refused("rules:\n  - {action: deny, destination: '::ffff:192.0.2.1/120'}\n")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ("rules:" + text).encode("utf-8")))
def test_any_bytes_are_a_policy_or_one_line(raw: bytes) -> None:
    _, complaint = _attempt(raw)
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("{destination: any}", "action is missing"),
        ("{action: block}", "action: 'block' must be allow or deny"),
        ("{action: allow, destination: '*'}", "would match every name; write any instead"),
        ("{action: allow, destination: '**.'}", "write any instead"),
        ("{action: allow, destination: ANY}", "the word for every destination; write any"),
        ("{action: allow, destination: 'a.*.org'}", "wildcard in the wrong place"),
        ("{action: allow, destination: 'https://x.org'}", "must be any, an address"),
        ("{action: allow, destination: 'x.org:443'}", "must be any, an address"),
        ("{action: allow, destination: a..org}", "has an empty label"),
        ("{action: allow, destination: 300.0.0.1}", "is not a valid address"),
        ("{action: allow, destination: '10.0'}", "is not a valid address"),
        ("{action: allow, agent: 'label:'}", "agent: 'label:' must be"),
        ("{action: allow, destination: x.org, unnamed: 1}", "unnamed: 1 must be true or false"),
        ("{action: allow, destination: x.org, private: yes please}", "private: 'yes please' must be true or false"),
        ("{action: allow, destination: 10.0.0.1, private: true}", "private: only a rule whose destination is a name"),
        ("{action: deny, destination: x.org, private: true}", "private: only a rule with action allow"),
        ("{action: allow, unnamed: true}", "unnamed: only a rule whose destination is a name"),
        ("{action: allow, destination: 10.0.0.1, unnamed: true}", "unnamed: only a rule whose destination is a name"),
        ("{action: deny, destination: x.org, unnamed: true}", "unnamed: only a rule with action allow"),
        ("{action: allow, expires: 1h}", "expires: '1h' is for rules made by a command or the API; in a file write"),
        ("{action: allow, expires: once}", "expires: 'once' is for rules made by a command or the API"),
        ("{action: allow, expires: tomorrow}", "expires: 'tomorrow' must be an instant with its time zone"),
        ("{action: allow, expires: 2030-01-31}", "must be an instant with its time zone"),
        ("{action: allow, expires: 2030-01-31T12:00:00}", "must be an instant with its time zone"),
        ("{action: allow, expires: '2030-01-31T12:00:00'}", "must be an instant with its time zone"),
        ("{action: allow, expires: '9999-12-31T23:59:59-10:00'}", "must be an instant with its time zone"),
        ("{action: allow, expires: '0001-01-01T00:00:00+10:00'}", "must be an instant with its time zone"),
        ("{action: allow, expires: 1900000000}", "must be an instant with its time zone"),
        ("{action: allow, author: 7}", "author: 7 must be a name"),
        ("{action: allow, destination: 10.0.0.5/8}", "did you mean 10.0.0.0/8?"),
        ("{action: allow, destination: 10.0.0.0/33}", "must be any, an address"),
        ("{action: allow, destination: 10.0}", "must be any, an address"),
        ("{action: allow, destination: 'fe80::1%eth0'}", "must be any, an address"),
        ("{action: allow, destination: 10.0.0.0/255.0.0.0}", "must be any, an address"),
        ("{action: allow, destination: ''}", "is empty; write a name, or any"),
        ("{action: allow, ports: 0}", "ports: 0 must be a port"),
        ("{action: allow, ports: 90-80}", "must be a port"),
        ("{action: allow, ports: [80, 65536]}", "must be a port"),
        ("{action: allow, ports: true}", "must be a port"),
        ("{action: allow, ports: []}", "has no port"),
        ("{action: allow, protocol: icmp, ports: 80}", "icmp has no ports"),
        ("{action: allow, protocol: TCP}", "protocol: 'TCP' must be one of"),
        ("{action: allow, protocol: 256}", "a number from 0 to 255"),
        ("{action: allow, agent: ''}", "agent: '' must be"),
        ("{action: deny, exempt: [mining.*]}", "only a rule with action allow"),
        ("{action: allow, exempt: mining.*}", "must be a list of signatures"),
        ("{action: allow, exempt: ['*']}", "must be a list of signatures"),
        ("{action: allow, id: 'a b'}", "id: 'a b' must be"),
        ("{action: allow, port: 80}", "unknown field 'port'; known are action, agent"),
        ("{action: allow, 7: 80}", "unknown field 7"),
        ("{action: allow, action: deny}", "'action' is given twice"),
        ("allow", "expected a mapping"),
    ],
)
def test_errors_name_rule_and_field(rule: str, complaint: str) -> None:
    message = _refused(f"rules:\n  - {{action: deny, id: first}}\n  - {rule}\n")
    assert complaint in message
    assert "rule 2" in message or "twice" in message


@pytest.mark.parametrize(
    ("written", "number"), [("022", 18), ("0x16", 22), ("0b10110", 22), ("22:30", 1350), ("2_2", 22), ("-022", -18)]
)
@pytest.mark.parametrize("field", ["ports: {}", "ports: [443, {}]", "protocol: {}"])
def test_numbers_that_yaml_reads_otherwise_than_people_are_refused(field: str, written: str, number: int) -> None:
    message = _refused(f"rules:\n  - action: allow\n    {field.format(written)}\n")
    assert f"{written} is {number} in YAML 1.1; write a decimal number" in message
    assert "line 3" in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("[]", "expected `rules:`"),
        ("rules: []\nextra: 1", "expected `rules:`"),
        ("rules: {}", "expected a list"),
        ("rules:", "expected a list"),
        ("rules: [", "is not YAML"),
        ("rules: !!python/object:os.system {}", "is not YAML"),
        ("&a [" * 3000, "is not YAML"),
        ("rules: [{action: allow}, {action: allow, comment: again}]", "rule 2: id: "),
        ("rules: [{action: allow, id: x}, {action: deny, id: x}]", "of rule 1 already"),
    ],
)
def test_errors_of_the_file(text: str, complaint: str) -> None:
    assert complaint in _refused(text)


def test_the_id_is_the_content() -> None:
    def identity(text: str) -> str:
        return parse_policy(f"rules: [{text}]", "p.yaml")[0].id

    assert identity("{action: allow, ports: 80}") == identity("{ports: [80], action: allow, comment: hello}")
    assert identity("{action: allow, ports: 80}") != identity("{action: allow, ports: 81}")
    assert len(identity("{action: allow}")) == 12


def test_names_get_one_spelling() -> None:
    for text in ("Example.ORG.", "*.BÜCHER.example", "_sip.x.org"):
        (rule,) = parse_policy(f"rules: [{{action: allow, destination: '{text}', unnamed: true}}]", "p.yaml")
        assert rule.destination == str(parse_pattern(text))


def test_addresses_get_one_spelling() -> None:
    (rule,) = parse_policy("rules: [{action: allow, destination: '2001:DB8:0::1'}]", "p.yaml")
    assert rule.destination == "2001:db8::1"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(InputError, match="cannot read"):
        load_policy(path)
    path.write_text(FULL)
    assert len(load_policy(path)) == 3
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(InputError, match="at most 4 MiB"):
        load_policy(path)


def test_every_mistake_is_found() -> None:
    document = {"rules": [{"action": "allow"}, {"action": "x"}, 7, {"action": "allow"}, {"action": "deny", "ports": 0}]}
    rules, mistakes = check_document(document)
    assert len(rules) == 2 and [(each.index, each.field) for each in mistakes] == [
        (1, "action"), (2, ""), (3, "id"), (4, "ports"),
    ]  # fmt: skip
    assert check_document({"rules": [{}, {}]}, most=1)[1][0].field == "rules"


BOMB = "rules:\n- exempt: &l0 [x]\n" + "".join(f"- exempt: &l{n} [{f'*l{n - 1},' * 9}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    "text, words",
    [
        ("rules: " + "[" * 100_000, "nested deeper"),
        ("rules: " + "{a: " * 100_000, "nested deeper"),
        ("a: &a {x: 1}\nrules: [{<<: *a}]", "merge"),
        ("rules: [{action: allow, ports: 0x" + "f" * 9000 + "}]", "a large number"),
        (BOMB, "exempt"),
    ],
)
def test_documents_that_would_take_memory_or_stack_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_policy(text, "p.yaml")
    assert len(str(caught.value)) < 500
