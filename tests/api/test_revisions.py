"""Revisions: told by every answer about a session, and held to by every write that says `If-Match`."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from threading import Barrier
from typing import Any, NamedTuple

import httpx
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.test_session_history import talk
from tests.chat.clients import asked, eventually, generating, idle, noticed_leaving, raw_chat, read_events
from tests.server import API, LIMIT, Server, told
from tests.standin_thread import StandInThread

NEVER = '"0000000000000000"'


class Write(NamedTuple):
    """A request that changes a session, `{}` in its path. The body of `head` is made when it is sent."""

    method: str
    path: str
    body: Any = None


WRITES = {
    "patch": Write("PATCH", "/sessions/{}", {"title": "new"}),
    "edit": Write("PUT", "/sessions/{}/messages/1", {"content": "q1 anew"}),
    "truncate": Write("DELETE", "/sessions/{}/messages/2"),
    "head": Write("PUT", "/sessions/{}/head"),
    "prompt": Write("PUT", "/sessions/{}/system-prompt", {"content": "Be kind."}),
    "no prompt": Write("DELETE", "/sessions/{}/system-prompt"),
    "send": Write("POST", "/chat/{}", {"message": "q2"}),
    "stream": Write("POST", "/chat/{}/stream", {"message": "q2"}),
    "regenerate": Write("POST", "/chat/{}", {"message": None}),
    "stop": Write("POST", "/chat/{}/stop", {}),
}
DELETE = Write("DELETE", "/sessions/{}")
EVERY_WRITE = pytest.mark.parametrize("write", [*WRITES.values(), DELETE], ids=[*WRITES, "delete"])
OF_THE_HISTORY = {name: WRITES[name] for name in ("edit", "truncate", "head", "prompt", "send", "stream", "regenerate")}
EVERY_REWRITE = pytest.mark.parametrize("write", OF_THE_HISTORY.values(), ids=OF_THE_HISTORY)
CREATING = [
    ("/sessions", {"model": "tiny"}),
    *[(f"/chat{f}", {"model": "tiny", "message": "hi"}) for f in ("", "/stream")],
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server that ends no reply because its client is away."""
    environment = {"MOCHI_DISCONNECT_GRACE": "3600", "MOCHI_HEARTBEAT_SECONDS": "600"}
    with Server(tmp_path_factory.mktemp("shared"), shared_standin.url, environment=environment) as server:
        yield server


@pytest.fixture
def session(shared: Server, shared_standin: StandInThread) -> str:
    """With a system prompt, a question and its answer."""
    return talk(shared, shared_standin, "q1", "a1", system_prompt="Be brief.")


def etag(server: Server, session: str) -> str:
    """The revision that a read tells."""
    response = server.call("GET", f"/sessions/{session}")
    assert response.headers["etag"] == f'"{response.json()["revision"]}"'
    return response.headers["etag"]


def send(server: Server, session: str, write: Write, *if_match: str) -> httpx.Response:
    """The write, with these `If-Match` headers."""
    body = write.body
    if write.path.endswith("/head"):
        messages = server.ok("GET", f"/sessions/{session}/tree")["messages"]
        body = {"message_id": messages[0]["message_id"]}
    headers = [("If-Match", one) for one in if_match]
    return server.client.request(write.method, API + write.path.format(session), json=body, headers=headers)


def state(server: Server, standin: StandInThread) -> tuple[dict[str, bytes], int]:
    """All session files, and how often Ollama was asked for a reply."""
    return {path.name: path.read_bytes() for path in server.sessions.glob("*.json")}, len(standin.chats)


def conflict(response: httpx.Response, session: str, now: str) -> None:
    """It is refused because the session is of another revision than it says."""
    assert told(response) == (412, "revision_conflict", {"session_id": session, "revision": now.strip('"')})
    assert response.headers["etag"] == now


# What answers tell


def test_all_reads_of_a_session_tell_its_revision(shared: Server, session: str) -> None:
    now = etag(shared, session)
    for below in ("/messages", "/tree", "/status"):
        assert shared.call("GET", f"/sessions/{session}{below}").headers["etag"] == now
    assert shared.call("HEAD", f"/sessions/{session}").headers["etag"] == now


@pytest.mark.parametrize("write", [w for n, w in WRITES.items() if n not in {"stream", "stop"}])
def test_every_write_answers_with_the_new_revision(shared: Server, session: str, write: Write) -> None:
    before = etag(shared, session)
    response = send(shared, session, write)
    assert response.is_success
    assert response.headers["etag"] == etag(shared, session) != before


def test_a_stop_of_nothing_answers_with_the_revision_that_is(shared: Server, session: str) -> None:
    assert send(shared, session, WRITES["stop"]).headers["etag"] == etag(shared, session)


@pytest.mark.parametrize(("path", "body"), CREATING)
def test_what_makes_a_session_answers_with_its_revision(shared: Server, path: str, body: Any) -> None:
    response = shared.call("POST", path, body)
    session = response.headers.get("x-session-id") or response.json()["session_id"]
    if path.endswith("/stream"):
        assert response.headers["etag"] != etag(shared, session)  # the reply came after it
    else:
        assert response.headers["etag"] == etag(shared, session)


def test_the_head_of_a_stream_tells_the_revision_with_the_question_saved(
    shared: Server, shared_standin: StandInThread, session: str
) -> None:
    before, gate = etag(shared, session), Gate()
    shared_standin.script(Behaviour(pieces=("a2",), gate=gate))
    with raw_chat(shared, f"/chat/{session}/stream", {"message": "q2"}) as client:
        client.read_head()
        gate.wait()
        asked_for = etag(shared, session)
        gate.open()
        client.read_rest()
    assert client.answer.headers["Etag"] == asked_for != before
    assert etag(shared, session) not in {before, asked_for}


def test_a_write_that_changes_nothing_leaves_the_revision(shared: Server, session: str) -> None:
    send(shared, session, WRITES["no prompt"])
    now = etag(shared, session)
    for write in (Write("PATCH", "/sessions/{}", {}), WRITES["no prompt"]):
        response = send(shared, session, write, now)
        assert (response.is_success, response.headers["etag"]) == (True, now)
    assert etag(shared, session) == now


@pytest.mark.parametrize(("fault", "after"), [("status", 0), ("error_line", 1)])
def test_a_reply_that_failed_tells_the_revision_with_what_is_kept(
    shared: Server, shared_standin: StandInThread, session: str, fault: Any, after: int
) -> None:
    before = etag(shared, session)
    shared_standin.script(Behaviour(pieces=("a", "b"), fault=fault, after=after))
    response = send(shared, session, WRITES["send"], before)
    assert told(response)[0] == 502
    assert response.headers["etag"] == etag(shared, session) != before
    again = send(shared, session, WRITES["send"], response.headers["etag"])
    assert again.status_code == 200


def test_a_stop_tells_the_revision_with_what_it_kept(
    shared: Server, shared_standin: StandInThread, session: str
) -> None:
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with asked(shared, (f"/chat/{session}", {"message": "q2"})) as (reply,):
        generating(shared, session)
        seen = etag(shared, session)
        stopped = send(shared, session, WRITES["stop"], seen)
        answered = reply.result()
    assert stopped.json()["stopped"] is True
    assert stopped.headers["etag"] == answered.headers["etag"] == etag(shared, session) != seen


# What `If-Match` asks for


@EVERY_WRITE
@pytest.mark.parametrize("if_match", [("{}",), ("*",), (f'{NEVER} ,W/"x",{{}}',), (NEVER, "{}")])
def test_a_write_goes_through_under_the_revision_that_is_or_under_any(
    shared: Server, session: str, write: Write, if_match: tuple[str, ...]
) -> None:
    now = etag(shared, session)
    response = send(shared, session, write, *[one.format(now) for one in if_match])
    assert response.is_success, response.text


@EVERY_WRITE
def test_a_write_under_another_revision_changes_nothing_and_asks_nothing(
    shared: Server, shared_standin: StandInThread, session: str, write: Write
) -> None:
    old = etag(shared, session)
    shared.ok("PATCH", f"/sessions/{session}", {"title": "changed"})
    now, before = etag(shared, session), state(shared, shared_standin)
    for if_match in (old, NEVER, f"W/{now}", f'{NEVER}, "other", W/{now}', '""'):
        conflict(send(shared, session, write, if_match), session, now)
    assert state(shared, shared_standin) == before


@EVERY_WRITE
def test_an_if_match_that_is_none_is_refused(
    shared: Server, shared_standin: StandInThread, session: str, write: Write
) -> None:
    now, before = etag(shared, session), state(shared, shared_standin)
    for if_match in (now.strip('"'), '"', f'{now}, "', f"*, {now}", "", ",", f"{now} {now}", f"w/{now}", "**"):
        refused = told(send(shared, session, write, if_match))
        assert (if_match, *refused) == (if_match, 422, "validation_error", {"path": "If-Match"})
    assert state(shared, shared_standin) == before


@EVERY_WRITE
def test_a_session_that_is_not_there_or_not_readable_is_told_as_such(
    shared: Server, session: str, write: Write
) -> None:
    file = shared.sessions / f"{session}.json"
    write = WRITES["patch"] if write.path.endswith("/head") else write
    file.write_bytes(b"{oops")
    for if_match in ("*", NEVER):
        assert told(send(shared, session, write, if_match))[:2] == (409, "session_damaged")
    assert file.read_bytes() == b"{oops"
    file.unlink()
    for if_match in ("*", NEVER):
        assert told(send(shared, session, write, if_match))[:2] == (404, "session_not_found")


@EVERY_WRITE
def test_a_change_by_hand_is_another_revision(shared: Server, session: str, write: Write) -> None:
    before, file = etag(shared, session), shared.file(session)
    file["messages"][1]["content"] = "by hand"
    (shared.sessions / f"{session}.json").write_text(json.dumps(file, indent=4), "utf-8")
    response = send(shared, session, write, before)
    now = etag(shared, session)
    assert now != before
    conflict(response, session, now)
    assert shared.file(session) == file


@pytest.mark.parametrize(("path", "body"), CREATING)
@pytest.mark.parametrize("if_match", ["*", NEVER])
def test_what_makes_a_session_is_refused_under_any_revision(
    shared: Server, shared_standin: StandInThread, path: str, body: Any, if_match: str
) -> None:
    before = state(shared, shared_standin)
    assert shared.error("POST", path, body, If_Match=if_match)[:2] == (412, "revision_conflict")
    assert state(shared, shared_standin) == before


# At the same time


def at_once(*requests: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """The answers to requests sent at the same moment, the best first."""
    together = Barrier(len(requests), timeout=LIMIT)

    def ask(request: Callable[[], httpx.Response]) -> httpx.Response:
        together.wait()
        return request()

    with ThreadPoolExecutor(len(requests)) as pool:
        return sorted(pool.map(ask, requests), key=lambda answer: answer.status_code)


def test_of_two_changes_at_once_under_one_revision_exactly_one_goes_through(shared: Server, session: str) -> None:
    changes = [WRITES["edit"], WRITES["patch"], WRITES["prompt"], WRITES["edit"], WRITES["head"]]
    for one, other in [*product(changes, changes)] * 4:
        now = etag(shared, session)
        won, lost = at_once(*[partial(send, shared, session, write, now) for write in (one, other)])
        assert won.status_code == 200
        assert won.headers["etag"] == etag(shared, session)
        conflict(lost, session, won.headers["etag"])


def test_of_two_messages_at_once_under_one_revision_exactly_one_is_answered(
    shared: Server, shared_standin: StandInThread, session: str
) -> None:
    for number in range(20):
        now, chats = etag(shared, session), len(shared_standin.chats)
        asks = [Write("POST", "/chat/{}", {"message": f"{number} {word}"}) for word in ("one", "other")]
        won, lost = at_once(*[partial(send, shared, session, ask, now) for ask in asks])
        assert won.status_code == 200
        assert told(lost)[:2] in {(409, "session_busy"), (412, "revision_conflict")}
        assert len(shared_standin.chats) == chats + 1
        assert len(shared.contents(session)) == 3 + 2 * (number + 1)


# While a reply runs


@pytest.mark.parametrize("write", [WRITES["patch"], WRITES["stop"], DELETE], ids=["patch", "stop", "delete"])
def test_a_write_under_another_revision_does_not_disturb_a_reply(
    shared: Server, shared_standin: StandInThread, session: str, write: Write
) -> None:
    old, gate = etag(shared, session), Gate(1)
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with asked(shared, (f"/chat/{session}", {"message": "q2"})) as (reply,):
        generating(shared, session)
        conflict(send(shared, session, write, old), session, etag(shared, session))
        gate.open()
        assert reply.result().json()["message"]["content"] == "ab"


def test_what_may_be_done_while_a_reply_runs_may_be_done_under_the_revision_seen(
    shared: Server, shared_standin: StandInThread, session: str
) -> None:
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with asked(shared, (f"/chat/{session}", {"message": None})) as (reply,):
        generating(shared, session)
        assert shared.contents(session)[-1] == ("user", "q1")  # the old reply is not shown any more
        seen = etag(shared, session)
        changed = send(shared, session, WRITES["patch"], seen)
        assert changed.status_code == 200
        assert changed.headers["etag"] == etag(shared, session) != seen
        assert changed.json().items() <= shared.ok("GET", f"/sessions/{session}").items()
        conflict(send(shared, session, WRITES["patch"], seen), session, changed.headers["etag"])
        busy = send(shared, session, WRITES["edit"], etag(shared, session))
        assert told(busy)[:2] == (409, "session_busy")
        assert send(shared, session, DELETE, etag(shared, session)).status_code == 204
        assert reply.result().status_code in {200, 404}
    assert shared.error("GET", f"/sessions/{session}")[1] == "session_not_found"


def left(server: Server, standin: StandInThread, session: str, gate: Gate, message: str | None) -> str:
    """A client goes away in mid-reply; the revision that it was told."""
    standin.script(Behaviour(pieces=("half", " of", " it"), gate=gate))
    path = f"/chat/{session}/stream"
    with raw_chat(server, path, {"message": message}) as client:
        read_events(client, 2)
    noticed_leaving(server, path)
    return client.answer.headers["Etag"]


@EVERY_REWRITE
@pytest.mark.parametrize("message", ["q2", None], ids=["a new question", "an old question"])
def test_the_revision_seen_before_a_client_left_still_holds_though_ending_its_reply_makes_another(
    shared: Server, shared_standin: StandInThread, session: str, write: Write, message: str | None
) -> None:
    abandoned = shared_standin.abandoned
    told_to_it = left(shared, shared_standin, session, Gate(2), message)
    seen = etag(shared, session)  # of a reply made anew, what is shown of the session has a revision of its own
    response = send(shared, session, write, told_to_it if message else seen)
    assert response.status_code == 200, response.text
    shared_standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    tree = shared.ok("GET", f"/sessions/{session}/tree")["messages"]
    assert [m["done_reason"] for m in tree if m["content"] == "half of"] == ["superseded"]


@EVERY_REWRITE
def test_a_write_under_an_older_revision_does_not_end_a_reply_that_nobody_listens_to(
    shared: Server, shared_standin: StandInThread, session: str, write: Write
) -> None:
    old, gate = etag(shared, session), Gate(2)
    now = left(shared, shared_standin, session, gate, "q2")
    conflict(send(shared, session, write, old), session, now)
    gate.open()
    idle(shared, session)
    assert shared.contents(session)[-2:] == [("user", "q2"), ("assistant", "half of it")]


def test_a_change_while_nobody_listens_makes_the_revision_seen_before_it_an_old_one(
    shared: Server, shared_standin: StandInThread, session: str
) -> None:
    seen = left(shared, shared_standin, session, Gate(2), "q2")
    shared.ok("PATCH", f"/sessions/{session}", {"title": "by somebody else"})
    conflict(send(shared, session, WRITES["edit"], seen), session, etag(shared, session))
    assert eventually(lambda: send(shared, session, DELETE)).status_code == 204


def test_of_two_changes_at_once_exactly_one_goes_through_though_one_ends_a_reply(
    shared: Server, shared_standin: StandInThread
) -> None:
    edit = Write("PUT", "/sessions/{}/messages/0", {"content": "q anew"})
    for number in range(16):
        session = shared.new_session()
        seen = left(shared, shared_standin, session, Gate(2), "q")

        def a_moment_later(session: str = session, seen: str = seen, requests: int = number % 4) -> httpx.Response:
            for _ in range(requests):
                shared.client.get("/nothing")
            return send(shared, session, WRITES["patch"], seen)

        won, lost = at_once(partial(send, shared, session, edit, seen), a_moment_later)
        assert won.status_code == 200
        assert told(lost)[:2] == (412, "revision_conflict")
