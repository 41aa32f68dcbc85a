"""The page at `/docs`: all that the document says, and nothing that it would need from elsewhere."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from mochi_server import errors
from mochi_server.api.routes import ROUTES
from mochi_server.domain import events
from tests.documented import the_document
from tests.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PATIENCE = 60.0
"""Seconds that a browser may take to start and to show it."""


class Page(HTMLParser):
    """What a page has: its elements, where it links to, its ids, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        self.links = [attributes["href"] or "" for _, attributes in self.elements if "href" in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def page(shared: Server) -> Page:
    return Page(shared.client.get("/docs").text)


def test_every_route_event_error_and_shape_is_on_it(page: Page) -> None:
    for route in ROUTES:
        assert f"{route.method} {route.shown_path}" in page.words
    for kind in set(errors.kinds()) - {errors.Retold}:
        assert f"error-{kind.code}" in page.ids
    for event in get_args(events.Event):
        assert f"event: {event.name}\n" in page.words
    for name in the_document()["components"]["schemas"]:
        assert f"shape-{name}" in page.ids


def test_every_link_on_it_leads_somewhere_on_this_server(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    outside = {link for link in page.links if not link.startswith("#")}
    assert outside == {"/openapi.json", "data:,"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_it_needs_no_script_and_allows_none(shared: Server, page: Page) -> None:
    answer = shared.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "img", "object", "form"} == set()
    assert not [attributes for _, attributes in page.elements if attributes.keys() & {"style", "src", "onclick"}]
    style = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import", style[0])


def test_its_commands_are_those_of_the_address_that_it_was_asked_under(shared: Server) -> None:
    for host in (f"127.0.0.1:{shared.port}", f"localhost:{shared.port}"):
        answer = shared.client.get("/docs", headers={"Host": host})
        assert f"<code>curl http://{host}/api/v1/models</code>" in answer.text
        again = shared.client.get("/docs", headers={"Host": host, "If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


def test_its_commands_do_what_they_say(shared: Server) -> None:
    words = Page(shared.client.get("/docs").text).words
    command = re.search(r"curl -N \S+/api/v1/chat/stream .*?}'", words, re.DOTALL)
    assert command is not None
    ours = command[0].replace('"llama3.2"', '"tiny"')
    said = subprocess.run(["sh", "-c", ours], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert said.count("event: done\n") == 1


@pytest.mark.skipif(BROWSER is None, reason=f"there is none of {', '.join(BROWSERS)} here")
@pytest.mark.parametrize("size", ["1280,2000", "400,900"])
def test_a_browser_shows_it_without_a_complaint_and_asks_nobody_else(shared: Server, tmp_path: Path, size: str) -> None:
    assert BROWSER is not None
    before = len(shared.log_lines())
    net_log = tmp_path / "net.json"
    command = [BROWSER, "--headless", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--no-proxy-server"]
    command += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={net_log}", f"--window-size={size}"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    shown = subprocess.run(
        [*command, "--dump-dom", f"{shared.url}/docs"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "<h1>mochi-server" in shown.stdout
    assert "CONSOLE" not in shown.stderr
    asked = {
        event["params"]["url"]
        for event in json.loads(net_log.read_text())["events"]
        # What the browser asks on its own behalf is not the page's doing.
        if "url" in event.get("params", {}) and event["params"].get("initiator") == shared.url
    }
    assert not [url for url in asked if not url.startswith("data:")]
    assert [line["path"] for line in shared.log_lines()[before:] if "path" in line] == ["/docs"]
