"""A framework with OpenTelemetry's SDK runs tools of an agent behind the real gateway: the flows of each call."""

from __future__ import annotations

import json
import time

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from api.app import create_app
from egress.store.policy import tokens
from egress.store.query.reader import Filter
from tests.api.serving import served
from tests.lab.gateway import HOSTS, PERSON, edit, flows, guarded, outcome, serve
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]


def test_an_episode_shows_each_tool_call_with_its_traffic_and_what_left_without_one() -> None:
    with guarded() as stage:
        serve(stage, 8080)
        _, token = edit(
            stage,
            lambda connection: tokens.create(
                connection, PERSON, name="framework", role="reporter", agents=("rome-7",), ts=time.time()
            ),
        )
        with served(create_app(stage.config)) as url:
            authorization = {"Authorization": f"Bearer {token}"}
            provider = TracerProvider(resource=Resource.create({"egress.agent": "rome-7"}))
            exporter = OTLPSpanExporter(f"{url}/v1/traces", headers=authorization)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            tracer = provider.get_tracer("framework")
            with tracer.start_as_current_span("invoke_agent coder", attributes={"gen_ai.conversation.id": "run-17"}):
                with tracer.start_as_current_span("execute_tool fetch"):
                    assert outcome(stage, HOSTS[0], 8080) == "open"
                assert outcome(stage, HOSTS[1], 8080) == "open"  # no tool call made this connection
                with tracer.start_as_current_span("execute_tool scan"):
                    assert outcome(stage, HOSTS[0], 9000) != "open"
            provider.shutdown()
        eventually(lambda: len(flows(stage)) == 3, "three flows are stored")
        told = json.loads(stage.egress("show", "episode", "run-17", "-o", "json").stdout)
        tools = [part["step"] and part["step"]["tool"] for part in told["parts"]]
        left = [[each["dest_ip"] for each in part["flows"]] for part in told["parts"]]
        assert (tools, left) == (["fetch", None, "scan"], [[HOSTS[0]], [HOSTS[1]], [HOSTS[0]]])
        assert [part["traffic"]["refused"] for part in told["parts"]] == [0, 0, 1]
        text = stage.egress("show", "episode", "run-17").stdout
        assert text.index("  fetch") < text.index("no tool was running: ") < text.index("  scan")
        assert [flow.dst for flow in flows(stage, Filter(query="-tool:*"))] == [HOSTS[1]]
