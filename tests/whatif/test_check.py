"""May an agent reach a destination? What the answer says, and that asking changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import InputError
from egress.model import Action, Agent, Mode, Policy, Reason, Rule
from egress.policy.rulebook import Rulebook
from egress.whatif.check import Answer, InvalidQuestionError, Question, check, read_target
from tests.whatif.recording import AGENT, START, allow, deny


def ask(rules: tuple[Rule, ...], question: Question, agent: Agent = AGENT) -> Answer:
    return check(Rulebook(Policy(7, rules)), agent, question, START)


def test_a_name_is_judged_as_bound_and_the_answer_says_under_what() -> None:
    rule = allow("*.example.org", app="tls", expires_at=START + 60, once=True)
    answer = ask((rule,), Question("WWW.Example.org.", "tcp", 443))
    assert (answer.allowed, answer.action, answer.reason) == (True, Action.ACCEPT, Reason.RULE)
    assert (answer.rule_id, answer.policy_version, answer.resolvable) == (rule.id, 7, True)
    assert answer.explanation == f"trainer may reach www.example.org, tcp port 443: rule {rule.id} allows it."
    said = " ".join(answer.conditions)
    for part in (
        "Only while its bytes are those of tls",
        "in the bytes",
        "2026-11-23 15:07:02 UTC",
        "one flow",
        "findings",
        "by address",
    ):
        assert part in said


def test_asking_spends_nothing() -> None:
    book = Rulebook(Policy(1, (allow("example.org", once=True),)))
    question = Question("example.org", "tcp", 443)
    assert check(book, AGENT, question, START) == check(book, AGENT, question, START)
    assert book.hits == {}


def test_an_address_is_judged_alone_or_with_its_name() -> None:
    rules = (allow("198.51.100.0/24"),)
    by_address = ask(rules, Question("198.51.100.7", "tcp", 22))
    assert by_address.allowed and by_address.resolvable is None
    assert not ask(rules, Question("example.org", "tcp", 22)).allowed
    with_both = ask(rules, Question("example.org", "tcp", 22, address="198.51.100.7"))
    assert with_both.allowed and with_both.resolvable is False
    assert "may not query example.org" in " ".join(with_both.conditions)
    assert "Rules by address were not considered" not in " ".join(with_both.conditions)
    assert check(Rulebook(Policy(1, rules)), AGENT, Question("example.org", "tcp", 22), START, False).resolvable


@pytest.mark.parametrize(
    ("rules", "question", "reason", "words"),
    [
        ((), Question("example.org", "tcp", 443), Reason.DEFAULT, "default is to refuse"),
        ((deny("example.org"), allow()), Question("example.org", "tcp", 443), Reason.RULE, "deny-example.org denies"),
        ((allow(app="ssh"),), Question("192.0.2.1", "tcp", 443, "tls"), Reason.APPLICATION, "another application"),
        ((allow(expires_at=START),), Question("192.0.2.1", "tcp", 443), Reason.DEFAULT, "no rule allows"),
        ((allow(protocol="icmp"),), Question("192.0.2.1", "tcp", 443), Reason.DEFAULT, "no rule allows"),
    ],
)
def test_refusals_say_why(rules: tuple[Rule, ...], question: Question, reason: Reason, words: str) -> None:
    answer = ask(rules, question)
    assert (answer.allowed, answer.action, answer.reason) == (False, Action.REJECT, reason)
    assert words in answer.explanation


def test_modes_and_quarantine() -> None:
    question = Question("example.org", "tcp", 443)
    held = ask((), question, replace(AGENT, mode=Mode.ASK))
    assert (held.allowed, held.action, held.reason) == (False, Action.HOLD, Reason.APPROVAL)
    assert ask((deny(),), question, replace(AGENT, mode=Mode.ASK)).action is Action.REJECT
    watched = ask((), question, replace(AGENT, mode=Mode.MONITOR))
    assert not watched.allowed and "but the flow passes" in " ".join(watched.conditions)
    cut = ask((allow(),), question, replace(AGENT, quarantined=True, mode=Mode.MONITOR))
    assert (cut.allowed, cut.reason, cut.resolvable) == (False, Reason.QUARANTINE, False)
    assert "passes" not in " ".join(cut.conditions)
    assert ask((), question, replace(AGENT, default=Action.ACCEPT)).reason is Reason.DEFAULT


def test_a_deny_rule_that_waits_for_the_application_is_foretold() -> None:
    rules = (deny(app="ssh", id="no-ssh"), allow())
    answer = ask(rules, Question("192.0.2.1", "tcp", 22))
    assert answer.allowed
    assert "Refused by rule no-ssh once it is identified as ssh." in answer.conditions
    assert not ask(rules, Question("192.0.2.1", "tcp", 22, "ssh")).allowed


def test_unnamed_rules_ask_for_less() -> None:
    strict = ask((allow("example.org"),), Question("example.org", "tcp", 443))
    loose = ask((allow("example.org", unnamed=True),), Question("example.org", "tcp", 443))
    assert any("must match example.org" in condition for condition in strict.conditions)
    assert any(condition.startswith("If the bytes contain a name") for condition in loose.conditions)


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (Question("", "tcp", 443), "destination"),
        (Question("a..b", "tcp", 443), "destination"),
        (Question("x" * 5000, "tcp", 443), "destination"),
        (Question("10.0.0.0/8", "tcp", 443), "destination"),
        (Question("*.example.org", "tcp", 443), "destination"),
        (Question("example.org", "smtp", 443), "protocol"),
        (Question("example.org", "²", 443), "protocol"),
        (Question("example.org", "tcp", 0), "port"),
        (Question("example.org", "udp", 65536), "port"),
        (Question("example.org", "icmp", 7), "port"),
        (Question("example.org", "tcp", 443, "TLS"), "app"),
        (Question("example.org", "icmp", 0, "ssh"), "app"),
        (Question("example.org", "tcp", 443, address="example.net"), "address"),
        (Question("192.0.2.1", "tcp", 443, address="192.0.2.2"), "address"),
    ],
)
def test_a_bad_question_names_its_field(question: Question, field: str) -> None:
    with pytest.raises(InvalidQuestionError) as caught:
        ask((), question)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ") and "\n" not in str(caught.value)


@given(st.builds(Question, st.text(), st.text(), st.integers(), st.text(), st.text()))
def test_any_question_is_answered_or_refused(question: Question) -> None:
    try:
        answer = ask((allow("example.org"),), question)
    except InvalidQuestionError:
        return
    assert answer.explanation


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("example.org:443", Question("example.org", "tcp", 443)),
        ("bücher.example:80", Question("bücher.example", "tcp", 80)),
        ("example.org:53/udp", Question("example.org", "udp", 53)),
        ("192.0.2.7:22", Question("192.0.2.7", "tcp", 22)),
        ("[2001:db8::7]:443", Question("2001:db8::7", "tcp", 443)),
        ("[2001:db8::7]:53/udp", Question("2001:db8::7", "udp", 53)),
        ("192.0.2.7/icmp", Question("192.0.2.7", "icmp", 0)),
        ("2001:db8::7/icmpv6", Question("2001:db8::7", "icmpv6", 0)),
        ("192.0.2.7/gre", Question("192.0.2.7", "gre", 0)),
    ],
)
def test_targets_as_people_write_them(text: str, question: Question) -> None:
    assert read_target(text) == question


@pytest.mark.parametrize(
    "text",
    ["", "example.org", "2001:db8::7", "2001:db8::7:443", "example.org:99999", "a b:1", "[x]:1", "example.org:443/smtp",
     "https://example.org/", "10.0.0.0/8", ":443", "x:1" * 999],
)  # fmt: skip
def test_other_targets_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_target(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@given(st.text(alphabet=st.sampled_from("a1.:[]/%-é \n0udp"), max_size=40) | st.text(max_size=40))
def test_any_target_is_read_or_refused(text: str) -> None:
    try:
        read_target(text)
    except InputError:
        return


def test_a_name_with_an_address_inside_is_answered_with_what_to_do() -> None:
    question = Question("mirror.example.org", "tcp", 443, address="10.0.0.5")
    plain = ask((allow("mirror.example.org", id="m"),), question)
    assert (plain.allowed, plain.reason, plain.rule_id) == (False, Reason.PRIVATE, "m")
    assert plain.explanation.endswith(
        "rule m allows this name at global addresses only; if the address is right, set private: true in the rule."
    )
    assert ask((allow("mirror.example.org", private=True),), question).allowed
    unknown = ask((allow("mirror.example.org"),), replace(question, address=""))
    assert (
        unknown.allowed
        and "Only at a global address, and not at one of this host or of an agent." in unknown.conditions
    )
    held = ask((allow("mirror.example.org"),), question, replace(AGENT, mode=Mode.ASK))
    assert (held.action, held.rule_id) == (Action.HOLD, "")


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"])
def test_metadata_is_answered_with_what_allows_it(address: str) -> None:
    free = replace(AGENT, default=Action.ACCEPT)
    answer = ask((allow(),), Question(address, "tcp", 80), free)
    assert (answer.allowed, answer.reason) == (False, Reason.METADATA)
    assert "only an allow rule for exactly this address" in answer.explanation
    assert ask((allow(address),), Question(address, "tcp", 80)).allowed


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("64:ff9b::a01:203", "The address stands for 10.1.2.3, in IPv6: rules for that match as well."),
        ("2002:a01:203::1", "Packets for the address may be sent on to 10.1.2.3: deny rules for that match"),
        (
            "64:ff9b:1::a01:203",
            "Packets for the address may be sent on to 10.1.2.3: deny rules for that match as well.",
        ),
    ],
)
def test_an_address_that_stands_for_another_is_judged_as_that_and_says_so(address: str, words: str) -> None:
    answer = ask((deny("10.0.0.0/8", id="ten"), allow()), read_target(f"[{address}]:443"))
    assert (answer.allowed, answer.rule_id) == (False, "ten")
    assert any(condition.startswith(words) for condition in answer.conditions)
    assert ask((deny("10.0.0.0/8"),), read_target("[::ffff:10.1.2.3]:443")).reason is Reason.RULE
