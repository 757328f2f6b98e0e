"""The start of an HTTP message: requests, answers, and what looks like one."""

from __future__ import annotations

import pytest

from egress.wire.http_start import MAX_BLANK, MAX_START_LINE, blank_end, starts_http


@pytest.mark.parametrize(
    "data",
    [
        *(b"GET /", b"POST http://a", b"GET HTTPS://a", b"BREW pot HTTP/1.1", b"OPTIONS * HTTP/1.1", b"\r\nGET /"),
        *(b"CONNECT a:443 HTTP/1.0", b"x-y / HTTP/1.1", b"HTTP/1.1 200", b"HTTP/1.0 404 Not Found\r\n"),
    ],
)
def test_what_starts_http(data: bytes) -> None:
    assert starts_http(data) is True
    assert all(starts_http(data[:size]) in (None, True) for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        *(
            b'{"id":1,"method":"login"}',
            b"[1]",
            b"SSH-2.0-a / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"\0",
            b" GET /",
            b"GET  /",
        ),
        *(b"A" * 25, b"GET x\r\n", b"EHLO mail.example HTTZ", b"PRI * HTTP/2.0", b"HTTP/2 200", b"HTTP/1.1 OK ok"),
        *(b"\r\n" * 5 + b"GET /", b"FOO " + b"x" * MAX_START_LINE, b"GET\t/", b"RTSP/1.0 200 OK", b"\rGET /"),
    ],
)
def test_what_does_not_start_http(data: bytes) -> None:
    assert starts_http(data) is False


def test_only_some_empty_lines_are_passed_over() -> None:
    assert [blank_end(b"\r\n" * lines + b"GET /") for lines in range(MAX_BLANK + 2)] == [0, 2, 4, 6, 8, 8]
    assert blank_end(b"\n\r\nGET /") == 3
    assert blank_end(b"\rGET /") == blank_end(b"") == 0
