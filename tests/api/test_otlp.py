"""OTLP/HTTP: spans of the SDK's own exporter become steps; any bytes get an answer, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from api.auth import Caller
from api.otlp import answers, bodies, jsontraces, protobuf
from api.otlp.answers import JSON, PROTOBUF
from api.otlp.receive import receive
from api.otlp.spans import Span
from api.routes import traces
from egress.config import Config
from egress.model import Agent, Step
from egress.store.database.database import writing
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from egress.store.recording import steps
from tests.api.conftest import OUTSIDE, Client
from tests.api.serving import served

AsRole = Callable[..., Client]
PATH = "/api/v1/otlp/v1/traces"
TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash"}


@pytest.fixture(autouse=True)
def attached(engine: Engine) -> None:
    with writing(engine) as connection:
        for name in ("rome-7", "ci-1"):
            add_agent(connection, Actor("test"), StoredAgent(Agent(name), "netns", name))


def stored(engine: Engine, agent: str = "rome-7") -> list[Step]:
    with engine.connect() as connection:
        return list(reversed(steps.listed(connection, agent, "", None, 100)))


def span(attributes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A span in OTLP's JSON, one second long and ended."""
    now = time.time_ns()
    given = {"traceId": TRACE, "spanId": SPAN, "name": "execute_tool bash", "kind": 1, "droppedAttributesCount": 0}
    times = {"startTimeUnixNano": str(now - 2 * 10**9), "endTimeUnixNano": now - 10**9}
    said = TOOL if attributes is None else attributes
    listed = [
        {"key": key, "value": value if isinstance(value, dict) else {"stringValue": value}}
        for key, value in said.items()
    ]
    return {**given, **times, "attributes": listed, "unknownField": {"x": 1}, **fields}


def request(*spans: dict[str, Any], agent: str = "rome-7") -> dict[str, Any]:
    resource = {"attributes": [{"key": "egress.agent", "value": {"stringValue": agent}}] if agent else []}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(spans)}]}]}


def send(client: Client, *spans: dict[str, Any], agent: str = "rome-7") -> dict[str, Any]:
    answer = client.post(PATH, request(*spans, agent=agent))
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON), answer.text
    partial: dict[str, Any] = answer.json().get("partialSuccess", {})
    return partial


# --- the real client ------------------------------------------------------------------------------------------


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as where:
        yield where


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_sdk_reports_tool_calls_of_a_conversation(
    url: str, as_role: AsRole, engine: Engine, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instrumentations set the conversation's id on the span around the tool call, which ends last."""
    authorization = as_role("reporter", "rome-7").headers["Authorization"]
    for name, value in {  # as docs/operations.md says
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"Authorization={authorization.replace(' ', '%20')}",
        "OTEL_RESOURCE_ATTRIBUTES": "egress.agent=rome-7",
    }.items():
        monkeypatch.setenv(name, value)
    exporter = OTLPSpanExporter(compression=compression)
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("framework")
    with tracer.start_as_current_span("invoke_agent coder") as around:
        around.set_attributes({"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "conv_1"})
        around.set_attribute("gen_ai.agent.name", "coder")
        with tracer.start_as_current_span("execute_tool bash") as call:
            call.set_attributes({**TOOL, "gen_ai.tool.call.id": "call_1"})
            call.set_attribute("gen_ai.tool.call.arguments", '{"command": "ls"}')
        (alone,) = stored(engine)
        assert alone.episode == alone.trace_id, "no span has named the conversation yet"
    (step,) = stored(engine)
    context = call.get_span_context()
    assert (step.episode, step.tool, step.call_id, step.summary) == ("conv_1", "bash", "call_1", '{"command": "ls"}')
    assert (step.id, step.span_id, step.trace_id) == (f"{context.span_id:016x}",) * 2 + (f"{context.trace_id:032x}",)
    assert step.end is not None and 0 <= step.end - step.start < 60 and abs(step.end - time.time()) < 60
    assert step.reporter.endswith("(a reporter)")
    provider.shutdown()


def test_the_sdk_hears_that_it_may_not(url: str, engine: Engine) -> None:
    exporter = OTLPSpanExporter(f"{url}/v1/traces", headers={"Authorization": "Bearer egress_no"}, timeout=2)
    provider = TracerProvider(resource=Resource.create({"egress.agent": "rome-7"}))
    made = provider.get_tracer("x").start_span("execute_tool bash")
    made.end()
    assert exporter.export([made]) is SpanExportResult.FAILURE  # type: ignore[list-item]
    assert stored(engine) == []


# --- the fields of a span ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "name", "tool"),
    [
        (TOOL, "execute_tool bash", "bash"),
        ({"gen_ai.operation.name": "execute_tool"}, "execute_tool curl", "curl"),
        ({}, "execute_tool curl", "curl"),
        ({"gen_ai.tool.name": "fetch"}, "running tool", "fetch"),
        ({"traceloop.span.kind": "tool", "traceloop.entity.name": "search"}, "search.tool", "search"),
        ({"openinference.span.kind": "TOOL", "tool.name": "search_products"}, "x", "search_products"),
        ({**TOOL, "gen_ai.tool.name": "a\x1b[2Jb"}, "x", "a\\x1b[2Jb"),
    ],
)
def test_what_is_a_tool_call(root: Client, engine: Engine, attributes: dict[str, Any], name: str, tool: str) -> None:
    assert send(root, span(attributes, name=name)) == {}
    assert [step.tool for step in stored(engine)] == [tool]


@pytest.mark.parametrize("operation", ["chat", "invoke_agent", "embeddings", "create_agent"])
def test_other_spans_are_accepted_and_are_no_steps(root: Client, engine: Engine, operation: str) -> None:
    assert send(root, span({"gen_ai.operation.name": operation, "gen_ai.tool.name": "bash"}, name="x")) == {}
    assert send(root, span({"http.request.method": "GET"}, name="GET")) == {}
    assert stored(engine) == []


@pytest.mark.parametrize(
    ("attributes", "episode"),
    [
        ({"gen_ai.conversation.id": "conv"}, "conv"),
        ({"session.id": "session"}, "session"),
        ({"gen_ai.conversation.id": "conv", "egress.episode": "mine"}, "mine"),
        ({}, TRACE),
    ],
)
def test_which_episode(root: Client, engine: Engine, attributes: dict[str, Any], episode: str) -> None:
    send(root, span({**TOOL, **attributes}))
    assert [step.episode for step in stored(engine)] == [episode]


def test_a_trace_is_its_conversations_whatever_comes_first(root: Client, engine: Engine) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "conv"}
    send(root, span(spanId="01" * 8))
    send(root, span(chat, spanId="02" * 8))
    send(root, span(spanId="03" * 8))
    send(root, span(spanId="01" * 8))
    assert sorted((step.episode, step.id[:2]) for step in stored(engine)) == [("conv", "01"), ("conv", "03")]
    send(root, span({**TOOL, "x": "y"}, traceId="ab" * 16, spanId="04" * 8), span(chat, traceId="ab" * 16))
    assert {step.episode for step in stored(engine)} == {"conv"}


def test_a_step_under_way_ends_in_the_conversation_that_its_trace_turns_out_to_be(root: Client, engine: Engine) -> None:
    """Otherwise the step would also stay open under the trace, and explain an hour of traffic."""
    begun = span(endTimeUnixNano="0")
    send(root, begun)
    over = begun | {"endTimeUnixNano": str(int(begun["startTimeUnixNano"]) + 10**9)}
    send(root, span({"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "conv"}, spanId="02" * 8), over)
    assert [(step.episode, step.end is None) for step in stored(engine)] == [("conv", False)]


def test_a_conversation_that_cannot_be_one_spoils_no_tool_call_of_its_trace(root: Client, engine: Engine) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "x" * 200}
    assert send(root, span(chat, spanId="02" * 8), span()) == {}
    assert [step.episode for step in stored(engine)] == [TRACE]


@pytest.mark.parametrize("name", ["\ud800", "rome\0", "x" * 5000])
@pytest.mark.parametrize("attribute", ["egress.agent", "gen_ai.agent.name"])
def test_a_name_that_no_agent_can_have_spoils_no_other_span(
    root: Client, engine: Engine, name: str, attribute: str
) -> None:
    body = json.dumps(request(span({**TOOL, attribute: name}), span({**TOOL, "egress.agent": "ci-1"}), agent=""))
    answer = post(root, body.encode(), JSON)
    assert (answer.status_code, answer.json()["partialSuccess"]["rejectedSpans"]) == (200, "1")
    assert len(stored(engine, "ci-1")) == 1


def test_a_request_of_as_much_as_it_may_hold_keeps_no_writer_waiting_for_long(engine: Engine) -> None:
    """A caller with a reporter's token must not delay another caller's quarantine."""
    now = time.time_ns()
    chat = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "c"}
    spans = [
        *(Span("", f"{n:032x}", "", 0, 0, {**chat, "egress.agent": "rome-7"}) for n in range(20_000)),
        *(Span("", f"{n:032x}", "", 0, 0, {**chat, "egress.agent": f"a{n}"}) for n in range(20_000)),
        *(Span("", f"{n:032x}", f"{n:x}", now, now, {**TOOL, "egress.agent": "ci-1"}) for n in range(10_000)),
    ]
    caller = Caller(Actor("test"), "reporter")
    began = time.process_time()
    with writing(engine) as connection:
        received = receive(connection, caller, spans, a_day=10**6, now=now / 1e9)
    assert received.counts["new"] == 10_000 and time.process_time() - began < 4, "one second; one by one it takes ten"


def test_which_agent(as_role: AsRole, root: Client, engine: Engine) -> None:
    send(root, span({**TOOL, "egress.agent": "ci-1"}))
    assert len(stored(engine, "ci-1")) == 1, "a span's own attribute before its resource's"
    send(root, span({**TOOL, "gen_ai.agent.name": "Coder", "gen_ai.agent.id": "rome-7"}), agent="")
    assert len(stored(engine)) == 1
    send(as_role("reporter", "ci-1"), span({**TOOL, "gen_ai.agent.name": "Coder"}, spanId="01" * 8), agent="")
    assert len(stored(engine, "ci-1")) == 2, "a token of one agent alone says whose its spans are"
    told = send(root, span({**TOOL, "gen_ai.agent.name": "Coder"}), agent="")
    assert told["rejectedSpans"] == "1" and "OTEL_RESOURCE_ATTRIBUTES=egress.agent=" in told["errorMessage"]


def test_spans_that_cannot_be_used_are_rejected_with_the_reason_and_the_others_count(
    as_role: AsRole, engine: Engine
) -> None:
    reporter = as_role("reporter", "rome-*")
    now = time.time_ns()
    spans = [
        span(),
        span(spanId="01" * 8, endTimeUnixNano=now - 10**10, startTimeUnixNano=now - 10**9),
        span(spanId=""),
        span({**TOOL, "egress.agent": "ci-1"}, spanId="02" * 8),
        span({**TOOL, "egress.agent": "rome-8"}, spanId="03" * 8),
        span(startTimeUnixNano=now - 3 * 10**9),
    ]
    told = send(reporter, *spans)
    assert told["rejectedSpans"] == "5"
    assert "before the start" in told["errorMessage"] and "outside the scope" in told["errorMessage"]
    assert told["errorMessage"].endswith("and other reasons")
    assert len(stored(engine)) == 1 and stored(engine, "ci-1") == []


def test_a_span_that_is_under_way_and_then_over(root: Client, engine: Engine) -> None:
    begun = span(endTimeUnixNano="0")
    send(root, begun)
    assert [step.end for step in stored(engine)] == [None]
    send(root, begun | {"endTimeUnixNano": str(int(begun["startTimeUnixNano"]) + 10**9)})
    (step,) = stored(engine)
    assert step.end is not None and step.end - step.start == pytest.approx(1.0, abs=1e-5)


# --- the protocol ---------------------------------------------------------------------------------------------


def binary(*spans: dict[str, Any]) -> bytes:
    """The same request as protobuf, by the generated classes."""
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.add(key="egress.agent").value.string_value = "rome-7"
    scope = resource.scope_spans.add()
    for each in spans:
        message = scope.spans.add(
            name=each["name"], trace_id=bytes.fromhex(each["traceId"]), span_id=bytes.fromhex(each["spanId"]),
            start_time_unix_nano=int(each["startTimeUnixNano"]), end_time_unix_nano=int(each["endTimeUnixNano"]),
        )  # fmt: skip
        for attribute in each["attributes"]:
            message.attributes.add(key=attribute["key"]).value.string_value = attribute["value"]["stringValue"]
    return made.SerializeToString()


def post(client: Client, body: bytes, kind: str = PROTOBUF, **headers: str) -> Any:
    return client.request("POST", PATH, content=body, headers={"Content-Type": kind, **headers})


def test_protobuf_and_json_say_the_same() -> None:
    made = span()
    assert list(protobuf.read(binary(made))) == list(jsontraces.read(json.dumps(request(made)).encode()))


def test_answers_are_in_the_encoding_of_the_request(root: Client, as_role: AsRole) -> None:
    whole = post(root, binary(span()))
    assert (whole.status_code, whole.headers["content-type"], whole.content) == (200, PROTOBUF, b"")
    partial = post(root, binary(span(spanId="")))
    said = ExportTraceServiceResponse.FromString(partial.content).partial_success
    assert partial.status_code == 200 and said.rejected_spans == 1 and "id must be" in said.error_message
    assert post(root, b"").status_code == 200, "an empty request is one"
    for kind in (PROTOBUF, f"{JSON}; charset=utf-8"):
        refused = post(as_role("viewer"), b"{}", kind)
        assert refused.status_code == 403
        assert refused.headers["content-type"] == kind.partition(";")[0]
        assert b"this needs role editor; yours is viewer" in refused.content
    assert json.loads(post(as_role("viewer"), b"{}", JSON).content)["message"]


def test_errors_have_the_codes_of_otlp(app: FastAPI, root: Client) -> None:
    assert post(root, b"\xff").status_code == 400
    assert post(root, b"[1]", JSON).status_code == 400
    assert post(root, b"{", JSON).status_code == 400
    assert post(root, b"", "text/plain").status_code == 415
    assert post(root, b"", **{"Content-Encoding": "br"}).status_code == 415
    assert post(root, b"no gzip", **{"Content-Encoding": "gzip"}).status_code == 400
    assert post(root, gzip.compress(binary(span()))[:-4], **{"Content-Encoding": "gzip"}).status_code == 400
    stranger = Client(app, OUTSIDE)
    assert [post(stranger, b"").status_code for _ in range(6)] == [401] * 5 + [429]
    assert root.get(PATH).status_code == 405


def test_a_database_that_is_away_is_worth_another_try(config: Config, root: Client, engine: Engine) -> None:
    engine.dispose()
    (config.state_dir / "egress.db").write_bytes(b"no database" * 1000)
    answer = post(root, binary(span()))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == PROTOBUF


def test_an_error_that_a_retry_may_fix_is_answered_503(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTLP clients discard spans after a 409; and a message that is cut must still be text."""

    def collide(*_: object, **__: object) -> None:
        raise IntegrityError("UPDATE", {}, sqlite3.IntegrityError("UNIQUE"))

    monkeypatch.setattr(traces, "receive", collide)
    assert post(root, binary(span())).status_code == 503
    assert post(root, b"{}", JSON).status_code == 503
    scope = {"type": "http", "headers": [(b"content-type", PROTOBUF.encode())]}
    long = bytes(answers.failed(scope, 400, "a" + "\u2026" * 1000, {}).body)
    assert long[3:].decode() == "a" + "\u2026" * 333


def test_packed_bodies_and_bombs(root: Client, engine: Engine) -> None:
    body = binary(span())
    two = gzip.compress(body[:40]) + gzip.compress(body[40:])
    assert post(root, two, **{"Content-Encoding": "gzip"}).status_code == 200
    assert len(stored(engine)) == 1
    began = time.process_time()
    many = post(root, gzip.compress(b"") * (bodies.MAX_TRACES // 20), **{"Content-Encoding": "gzip"})
    assert many.status_code == 400 and b"members" in many.content
    bomb = gzip.compress(bytes(200 << 20), 1)
    answer = post(root, bomb, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413 and time.process_time() - began < 10
    assert post(root, b"x" * (bodies.MAX_TRACES + 1)).status_code == 413
    assert post(root, b" " * (bodies.LIMITS[JSON] + 1), JSON).status_code == 413
