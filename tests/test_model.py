"""Tests of the vocabulary in `egress.model`."""

from __future__ import annotations

from egress.model import App


def test_an_application_protocol_is_its_text() -> None:
    assert App("http2") is App.HTTP2 and f"{App.TLS}" == "tls" and "dns" in {App.DNS}


def test_the_protocols_whose_bytes_name_the_host() -> None:
    assert {app for app in App if app.names_host} == {"tls", "quic", "http", "http2"}
