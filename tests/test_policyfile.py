"""The policy file: what it says is what the rules are, and what it cannot say is refused by name."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import InputError
from egress.model import PROTOCOL_NUMBERS, Action, Rule
from egress.policyfile import load_policy, parse_policy

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
"""


def _refused(text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse_policy(text, "p.yaml")
    message = str(caught.value)
    assert message.startswith("p.yaml") and "\n" not in message
    return message


def test_every_field() -> None:
    first, second = parse_policy(FULL, "p.yaml")
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


addresses = st.ip_addresses().map(str)
networks = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda prefix: str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
    )
)
ranges = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair)))
names = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
rules = st.builds(
    Rule,
    id=names,
    action=st.sampled_from([Action.ACCEPT, Action.REJECT]),
    agent=st.sampled_from(["*", "train-?", "a[0-9]", "x"]),
    destination=st.just("any") | addresses | networks,
    protocol=st.sampled_from(["", *PROTOCOL_NUMBERS, "200"]),
    ports=st.lists(ranges, max_size=3).map(tuple),
    app=st.just("") | names,
    exempt=st.lists(st.sampled_from(["mining.*", "ssh.unusual-port"]), max_size=2).map(tuple),
    comment=st.text(st.characters(exclude_categories=["C"]), max_size=20),
)


def _legal(rule: Rule) -> Rule:
    rule = replace(rule, ports=rule.ports if rule.protocol in ("", "tcp", "udp", "sctp") else ())
    return rule if rule.action is Action.ACCEPT else replace(rule, exempt=())


def _document(rule: Rule) -> dict[str, object]:
    document: dict[str, object] = {
        "action": "allow" if rule.action is Action.ACCEPT else "deny",
        "agent": rule.agent,
        "destination": rule.destination,
        "exempt": list(rule.exempt),
        "comment": rule.comment,
        "id": rule.id,
    }
    if rule.protocol:
        document["protocol"] = int(rule.protocol) if rule.protocol.isdecimal() else rule.protocol
    if rule.ports:
        document["ports"] = [first if first == last else f"{first}-{last}" for first, last in rule.ports]
    if rule.app:
        document["app"] = rule.app
    return document


@given(st.lists(rules.map(_legal), max_size=5, unique_by=lambda rule: rule.id))
def test_what_is_written_is_what_is_read(wanted: list[Rule]) -> None:
    text = yaml.safe_dump({"rules": [_document(rule) for rule in wanted]})
    assert parse_policy(text, "p.yaml") == tuple(wanted)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _attempt(text: str | bytes) -> tuple[tuple[Rule, ...], str]:
    """The rules, or none and the complaint; any other exception is the test's failure."""
    try:
        return parse_policy(text, "p.yaml"), ""
    except InputError as error:
        return (), str(error)


@given(
    st.sampled_from(["action", "destination", "agent", "protocol", "ports", "app", "exempt", "comment", "id"]), values
)
def test_any_value_is_a_rule_or_one_line(field: str, value: object) -> None:
    made, complaint = _attempt(yaml.safe_dump({"rules": [{"action": "allow", field: value}]}))
    assert not complaint or (complaint.startswith(f"p.yaml: rule 1: {field}: ") and "\n" not in complaint)
    for rule in made:
        assert all(0 < first <= last <= 65535 for first, last in rule.ports)
        assert rule.destination == "any" or ipaddress.ip_network(rule.destination)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ("rules:" + text).encode("utf-8")))
def test_any_bytes_are_a_policy_or_one_line(raw: bytes) -> None:
    _, complaint = _attempt(raw)
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("{destination: any}", "action is missing"),
        ("{action: block}", "action: 'block' must be allow or deny"),
        ("{action: allow, destination: example.org}", "names are not supported in policy files yet"),
        ("{action: allow, destination: '*.example.org'}", "names are not supported in policy files yet"),
        ("{action: allow, destination: 10.0.0.5/8}", "did you mean 10.0.0.0/8?"),
        ("{action: allow, destination: 10.0.0.0/33}", "must be any, an address"),
        ("{action: allow, destination: 10.0}", "must be any, an address"),
        ("{action: allow, destination: 'fe80::1%eth0'}", "must be any, an address"),
        ("{action: allow, destination: 10.0.0.0/255.0.0.0}", "must be any, an address"),
        ("{action: allow, destination: ''}", "must be any, an address"),
        ("{action: allow, ports: 0}", "ports: 0 must be a port"),
        ("{action: allow, ports: 90-80}", "must be a port"),
        ("{action: allow, ports: [80, 65536]}", "must be a port"),
        ("{action: allow, ports: true}", "must be a port"),
        ("{action: allow, ports: []}", "names no port"),
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


def test_addresses_get_one_spelling() -> None:
    (rule,) = parse_policy("rules: [{action: allow, destination: '2001:DB8:0::1'}]", "p.yaml")
    assert rule.destination == "2001:db8::1"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(InputError, match="cannot read"):
        load_policy(path)
    path.write_text(FULL)
    assert len(load_policy(path)) == 2
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(InputError, match="at most 4 MiB"):
        load_policy(path)
