"""A browser's own word for it: a page of another origin reads and writes nothing, an allowed one does both."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser import NEEDS_BROWSER, PATIENCE, Site, browsing
from tests.server import API, Server
from tests.standin_thread import StandInThread

pytestmark = NEEDS_BROWSER

KEY = "a-key-of-this-page"

PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const base = "%s", key = "%s", told = {};
const headers = key ? { "Authorization": "Bearer " + key } : {};
const json = { ...headers, "Content-Type": "application/json" };
const said = '{"model": "tiny", "message": "hi"}';
const post = (path, init) => fetch(base + path, { method: "POST", body: said, ...init });
const create = () => fetch(base + "/sessions", { method: "POST", headers: json, body: '{"model": "tiny"}' });
const attempts = {
  read: async () => Object.keys(await (await fetch(base + "/sessions", { headers })).json()).includes("sessions"),
  create: async () => (await create()).headers.get("Location"),
  stream: async () => (await (await post("/chat/stream", { headers: json })).text()).includes("event: done"),
  patch: async () => {
    const made = await (await create()).json();
    const changed = await fetch(base + "/sessions/" + made.session_id, { method: "PATCH",
      headers: { ...json, "If-Match": "*" }, body: '{"title": "mine"}' });
    return changed.status + " " + (changed.headers.get("ETag") !== null);
  },
  missing: async () => (await (await fetch(base + "/nowhere", { headers })).json()).detail.error.code,
  plain: async () => (await post("/chat", { headers: { ...headers, "Content-Type": "text/plain" } })).status,
  blind: async () => { await post("/chat", { mode: "no-cors" }); return "sent"; },
  form: async () => {
    const frame = document.createElement("iframe"), form = document.createElement("form");
    frame.name = form.target = "frame";
    Object.assign(form, { method: "POST", enctype: "text/plain", action: base + "/chat" });
    form.innerHTML = '<input name=\\'{"model": "tiny", "message": "hi", "a\\' value=\\'": 1}\\'>';
    document.body.append(frame, form);
    const loaded = new Promise((resolve) => { frame.onload = resolve; });
    form.submit();
    await loaded;
    return "sent";
  },
  image: async () => await new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve("shown");
    image.onerror = () => resolve("not shown");
    image.src = base + "/sessions?q=secret";
  }),
  source: async () => await new Promise((resolve) => {
    const source = new EventSource(base + "/chat/0123456789/stream");
    source.onopen = () => { source.close(); resolve("open"); };
    source.onerror = () => { source.close(); resolve("refused"); };
  }),
  socket: async () => await new Promise((resolve) => {
    const socket = new WebSocket(base.replace("http", "ws") + "/sessions");
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("refused");
  }),
};
for (const [name, attempt] of Object.entries(attempts)) {
  try { told[name] = await attempt(); } catch (error) { told[name] = error.name; }
}
await fetch("/told", { method: "POST", body: JSON.stringify(told) });
</script>"""

NOTHING = {
    **dict.fromkeys(("read", "create", "stream", "patch", "missing", "plain"), "TypeError"),
    "blind": "sent",
    "form": "sent",
    "image": "not shown",
    "source": "refused",
    "socket": "refused",
}


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    """One that the server allows, and one that it does not know: another port of the same machine."""
    with Site() as allowed, Site() as foreign:
        yield allowed, foreign


def seen(server: Server, sites: tuple[Site, ...], key: str = "") -> list[dict[str, Any]]:
    """What each site's page could do."""
    with ExitStack() as stack:
        for site in sites:
            site.page = PAGE % (server.url.replace("0.0.0.0", "127.0.0.1") + API, key)  # noqa: S104 - an address to reach
            stack.enter_context(browsing(site.url))
        told = [json.loads(site.told.get(timeout=PATIENCE)) for site in sites]
    assert all(isinstance(one, dict) for one in told)
    return told


def test_a_page_of_another_origin_reads_and_writes_nothing_and_an_allowed_one_does_both(
    tmp_path: Path, standin: StandInThread, sites: tuple[Site, Site]
) -> None:
    with Server(tmp_path, standin.url, "--allow-origin", sites[0].url) as server:
        allowed, foreign = seen(server, sites)
        assert foreign == NOTHING
        assert allowed.pop("create").startswith(f"{API}/sessions/")
        assert allowed == {
            "read": True,
            "stream": True,
            "patch": "200 true",
            "missing": "not_found",
            "plain": 415,
            "blind": "sent",
            "form": "sent",
            "image": "not shown",
            "source": "refused",
            "socket": "refused",
        }
        assert len(standin.chats) == 1
        assert len(server.ok("GET", "/sessions")["sessions"]) == 3


def test_with_a_key_the_allowed_page_needs_it_and_the_other_has_no_use_for_it(
    tmp_path: Path, standin: StandInThread, sites: tuple[Site, Site]
) -> None:
    listening = ("--host", "0.0.0.0", "--allow-origin", sites[0].url)  # noqa: S104 - with a key it may
    with Server(tmp_path, standin.url, *listening, environment={"MOCHI_API_KEY": KEY}) as server:
        allowed, foreign = seen(server, sites, KEY)
        assert foreign == NOTHING
        assert (allowed["read"], allowed["stream"], allowed["patch"]) == (True, True, "200 true")
        (keyless,) = seen(server, sites[:1])
        assert keyless["create"] is None
        assert (keyless["read"], keyless["stream"], keyless["missing"]) == (False, False, "unauthorized")
        assert len(standin.chats) == 1
