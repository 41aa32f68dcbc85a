"""Targets made to mean something else to whoever looks at them: none reaches a file, and none forges a log line."""

import re

import pytest

from tests.attacks.raw import asked, assert_serves, statuses
from tests.server import Server

TARGETS = [
    *("//", "//etc/passwd", "/../", "/../../etc/passwd", "/./api/v1/sessions", "/health/..", "/api/v1/../../health"),
    *("/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/api/v1/sessions/..%2f..%2fserver.log", "/%2e/health"),
    *("/api/v1/sessions/%00", "/api/v1/sessions/0123456789%00.json", "/api/v1/sessions/0123456789.json", "/%"),
    *("/api/v1/system-prompts/..%2fsessions%2fx.md", "/api/v1/system-prompts/%2e%2e/x.md", "/%zz", "/%c0%ae%c0%ae/"),
    *("/api/v1/images/..%2f..%2f..%2fserver.log", "/api/v1/images/" + "0" * 63 + "/", "/api/v1/images/%2e%2e"),
    *("/api/v1/sessions;x=y", "/api/v1/sessions/", "//api/v1/sessions", "/API/V1/SESSIONS", "/health%20", "/health\\"),
    *("/api\\v1\\sessions", "/%252e%252e/etc/passwd", "/~root", "/.git/config", "/.env", "/server.log", "/%ff%fe"),
    *("*", "/" + "a/" * 1500, "/" + "%41" * 1000, "/api/v1/sessions/" + "0" * 2000),
]


def answer(server: Server, method: str, target: str, *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *headers, "Connection: close", "", ""]
    return asked(server, "\r\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30])
def test_a_path_that_is_none_of_ours_is_nothing(hasty: Server, target: str) -> None:
    for method in ("GET", "DELETE"):
        told = answer(hasty, method, target, "Host: localhost")
        assert statuses(told) in ([404], [405])
        assert b"root:" not in told
        assert b'"event"' not in told


@pytest.mark.parametrize(
    "target", ["/\x00", "/a\x00b", "/a\x7fb", "/a b", "/\xff", "/é", "\\health", "health", "?x", ""]
)
def test_a_target_that_no_path_may_have_is_refused_before_it_is_one(hasty: Server, target: str) -> None:
    assert statuses(answer(hasty, "GET", target, "Host: localhost")) == [400]


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/health", "localhost", 200),
        ("http://localhost:1/health", "evil.com", 200),
        ("HTTP://LOCALHOST/health", "evil.com", 200),
        ("http://evil.com/health", "localhost", 421),
        ("http://evil.com:80/health", "localhost", 421),
        ("https://evil.com/health", "localhost", 421),
        ("http://localhost@evil.com/health", "localhost", 421),
        ("http://evil.com@localhost/health", "localhost", 421),
        ("http://localhost.evil.com/health", "localhost", 421),
        ("http://evil.com?localhost/health", "localhost", 400),
        ("http://localhost", "localhost", 400),
        ("http:///health", "localhost", 400),
        ("http://[::1/health", "localhost", 400),
        ("evil.com/health", "localhost", 400),
    ],
)
def test_an_absolute_target_is_held_to_the_server_that_it_names_whatever_host_says(
    hasty: Server, target: str, host: str, status: int
) -> None:
    assert statuses(answer(hasty, "GET", target, f"Host: {host}")) == [status]
    page = answer(hasty, "GET", target, f"Host: {host}", "Origin: http://localhost")
    assert statuses(page) == [403 if status == 200 and ":1/" in target else status]


FORGED = '{"level":"error","event":"forged"}'


def test_no_header_and_no_path_forges_a_line_of_the_log(hasty: Server) -> None:
    headers = (
        "Host",
        "Origin",
        "User-Agent",
        "X-Correlation-Id",
        "Authorization",
        "X-API-Key",
        "Content-Type",
        "Referer",
    )
    for name in headers:
        for breaking in ("\n", "\r", "\r\n\t", "\x85", "\x1b[2K", "\x00", "%0a", "\\n"):
            value = f"{breaking}{FORGED}"
            given = "\r\n".join(["GET /health?forged HTTP/1.1", f"{name}: {value}", "Connection: close", "", ""])
            assert statuses(asked(hasty, given.encode("latin-1")))[:1] in ([400], [421])
    for path in ("/%0a" + "forged", "/%0d%0aforged", "/%e2%80%a8forged", "/%1b%5b2Kforged", "/%00forged"):
        assert statuses(answer(hasty, "GET", path, "Host: localhost")) == [404]
    hasty.logged(lambda line: line.get("path") == r"/\x00forged")  # written out, in this form too
    lines = hasty.log_lines()  # each of which is an object
    assert not [line for line in lines if line["event"] == "forged"]
    text = hasty.log.read_text()
    assert not re.search(r'"event":"forged"|[\x00-\x09\x0b-\x1f\x85\u2028]', text)


def test_the_server_is_well_after_all_that(hasty: Server) -> None:
    assert_serves(hasty)
    assert not [line for line in hasty.log_lines() if line["level"] in {"warning", "error"}]
