"""What is kept of an `Idempotency-Key`: through a restart and a kill, for a day, a thousand, without a word."""

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import generating, idle
from tests.chat.keyed import (
    IN_A_SESSION,
    ONE_CALL,
    QUESTION,
    ask,
    events_of,
    heard,
    keys_file,
    new_key,
    refused,
    write_keys,
)
from tests.server import Server, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
PIECES = ("a", "b", "c")
DAY = 24 * 3600


def terminate(server: Server) -> None:
    assert server.stop(signal.SIGTERM) == 0


ENDS: dict[str, Callable[[Server], None]] = {"asked to end": terminate, "killed": Server.kill}


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    """A server that ends running replies as soon as it is told to stop."""
    environment = {"MOCHI_SHUTDOWN_SECONDS": "1"}
    with Server(tmp_path_factory.mktemp("hurried"), standin.url, environment=environment) as server:
        yield server


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_replies_that_have_ended_are_told_again_after_a_restart(
    hurried: Server, standin: StandInThread, end: Callable[[Server], None]
) -> None:
    session, key = hurried.new_session(), new_key()
    paths = [form.format(session) for form in (*IN_A_SESSION.values(), *ONE_CALL.values())]
    keys = [f"{key}, {path}" for path in paths]
    first = [heard(ask(hurried, path, key)) for path, key in zip(paths, keys, strict=True)]
    chats = len(standin.chats)

    end(hurried)
    hurried.start()

    assert [heard(ask(hurried, path, key)) for path, key in zip(paths, keys, strict=True)] == first
    assert refused(ask(hurried, paths[0], keys[0], message="other words")) == (422, "idempotency_mismatch")
    assert len(standin.chats) == chats


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize(("end", "why"), [(terminate, "shutdown"), (Server.kill, "crashed")], ids=ENDS)
def test_a_reply_that_the_servers_end_cut_off_is_told_as_far_as_it_came(
    hurried: Server, standin: StandInThread, end: Callable[[Server], None], why: str, place: int
) -> None:
    session, key, gate = hurried.new_session(), new_key(), Gate(place)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = f"/chat/{session}/stream"
    with hurried.stream(path, {"message": QUESTION, "on_disconnect": "continue"}, idempotency_key=key) as events:
        gate.wait(place)
        shown = [next(events) for _ in range(place)]
    end(hurried)
    chats = len(standin.chats)
    hurried.start()

    again = events_of(ask(hurried, path, key, on_disconnect="continue"))

    assert again[:place] == shown
    assert len(standin.chats) == chats
    saved = hurried.file(session)["messages"]
    if place:
        assert names(again) == ["content_delta", "message_complete", "done"]
        assert (again[-2].data["message_id"], again[-2].data["done_reason"]) == (saved[-1]["message_id"], why)
        assert (saved[-1]["content"], saved[-1]["status"]) == ("ab", "interrupted")
    else:
        assert names(again) == (["error", "done"] if why == "shutdown" else ["done"])
        assert [message["content"] for message in saved] == [QUESTION]


def age(server: Server, scope: str, seconds: float) -> None:
    """Make all keys of the scope older."""
    write_keys(server, scope, [{**one, "at": one["at"] - seconds} for one in keys_file(server, scope)])


@pytest.mark.parametrize("path", [IN_A_SESSION["whole"], *ONE_CALL.values()])
def test_a_key_is_kept_for_a_day(server: Server, standin: StandInThread, path: str) -> None:
    session, key = server.new_session(), new_key()
    scope = session if path in IN_A_SESSION.values() else "server"
    path, chats = path.format(session), len(standin.chats)
    first = heard(ask(server, path, key))

    age(server, scope, DAY - 60)
    assert heard(ask(server, path, key)) == first
    assert len(standin.chats) == chats + 1

    age(server, scope, 61)
    assert heard(ask(server, path, key, message="other words")).message_id != first.message_id
    assert len(standin.chats) == chats + 2
    assert hashed(key) in [one["key"] for one in keys_file(server, scope)]


def hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize("form", [IN_A_SESSION, ONE_CALL], ids=["of a session", "of the server"])
def test_of_more_than_a_thousand_keys_the_oldest_goes(
    server: Server, standin: StandInThread, form: dict[str, str]
) -> None:
    session, oldest, second, newest = server.new_session(), new_key(), new_key(), new_key()
    scope, path = session if form is IN_A_SESSION else "server", form["whole"].format(session)
    replies = [heard(ask(server, path, key)) for key in (oldest, second)]
    kept = keys_file(server, scope)[-2:]
    others = [{**kept[-1], "key": hashed(f"other {n}")} for n in range(998)]
    write_keys(server, scope, [*kept, *others])

    ask(server, path, newest)

    chats = len(standin.chats)
    assert [one["key"] for one in keys_file(server, scope)] == [
        one["key"] for one in [kept[1], *others, {"key": hashed(newest)}]
    ]
    assert heard(ask(server, path, second)) == replies[1]
    assert len(standin.chats) == chats
    assert heard(ask(server, path, oldest)).message_id != replies[0].message_id


def test_a_key_that_was_refused_for_its_body_stays_the_first_ones(server: Server) -> None:
    session, key = server.new_session(), new_key()
    first = heard(ask(server, f"/chat/{session}", key))
    kept = keys_file(server, session)

    assert refused(ask(server, f"/chat/{session}", key, message="other words")) == (422, "idempotency_mismatch")

    assert keys_file(server, session) == kept
    assert heard(ask(server, f"/chat/{session}", key)) == first


BROKEN = {
    "no JSON": b"\xff\xfe" + "geheime Wörter".encode(),
    "torn": b'[{"key": "0123", "body": "45',
    "another shape": b'{"geheime": "Woerter"}',
    "nested too deep": b"[" * 100_000,
    "empty": b"",
}


@pytest.mark.parametrize("path", [IN_A_SESSION["whole"], ONE_CALL["whole"]], ids=["of a session", "of the server"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_of_keys_is_begun_anew_and_told_in_the_log(server: Server, broken: bytes, path: str) -> None:
    session, key = server.new_session(), new_key()
    scope, path = session if path != ONE_CALL["whole"] else "server", path.format(session)
    first = heard(ask(server, path, key))
    (server.sessions / ".mochi" / "keys" / f"{scope}.json").write_bytes(broken)
    logged = len(server.log_lines())

    second = heard(ask(server, path, key))

    assert second.message_id != first.message_id
    assert heard(ask(server, path, key)) == second
    warnings = [line for line in server.log_lines()[logged:] if line["level"] == "warning"]
    assert len(warnings) >= 1
    assert {(line["event"], line["scope"]) for line in warnings} == {
        ("a file of idempotency keys is broken, and begun anew", scope)
    }
    assert "geheime" not in server.log.read_text()


def test_the_files_of_keys_hold_no_words_and_no_keys_and_nobody_else_may_read_them(server: Server) -> None:
    session, key = server.new_session(), f"{new_key()} of mine"
    for path in (f"/chat/{session}", "/chat"):
        ask(server, path, key, message="Nobody else's business")

    folder = server.sessions / ".mochi" / "keys"
    for file in (folder / f"{session}.json", folder / "server.json"):
        text = file.read_text()
        assert all(word not in text for word in ("Nobody", "business", "of mine", SAID, *HELLO[:1]))
        assert file.stat().st_mode & 0o777 == 0o600
        used = json.loads(text)[-1]
        assert set(used) == {"key", "body", "session_id", "generation_id", "question_id", "message_id", "at"}
        assert used["at"] == pytest.approx(time.time(), abs=60)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("journal", [True, False], ids=["with its journal", "without"])
def test_a_server_killed_between_key_and_question_answers_the_repeat(
    hurried: Server, standin: StandInThread, journal: bool
) -> None:
    session, key = hurried.new_session(), new_key()
    before = (hurried.sessions / f"{session}.json").read_bytes()
    ask(hurried, f"/chat/{session}", key)
    hurried.kill()
    (hurried.sessions / f"{session}.json").write_bytes(before)
    leave_only_the_head(hurried.sessions / ".mochi" / "journals" / session, keep=journal)
    chats = len(standin.chats)
    hurried.start()

    reply = heard(ask(hurried, f"/chat/{session}", key))

    assert (reply.text, len(standin.chats)) == (SAID, chats + 1)
    assert hurried.contents(session) == [("user", QUESTION), ("assistant", SAID)]
    assert heard(ask(hurried, f"/chat/{session}/stream", key)) == reply
    assert len(standin.chats) == chats + 1


def test_a_server_killed_between_key_and_session_answers_the_repeat(hurried: Server, standin: StandInThread) -> None:
    key = new_key()
    never_made = heard(ask(hurried, "/chat", key)).session
    hurried.kill()
    (hurried.sessions / f"{never_made}.json").unlink()
    leave_only_the_head(hurried.sessions / ".mochi" / "journals" / never_made, keep=True)
    chats = len(standin.chats)
    hurried.start()

    reply = heard(ask(hurried, "/chat", key))

    assert (reply.text, len(standin.chats)) == (SAID, chats + 1)
    assert heard(ask(hurried, "/chat/stream", key)) == reply
    assert len(standin.chats) == chats + 1


def leave_only_the_head(journal: Path, *, keep: bool) -> None:
    """Make an ended journal what it was right before its question was saved, or nothing."""
    head, _, _ = journal.with_suffix(".ended").read_bytes().partition(b"\n")
    journal.with_suffix(".ended").unlink()
    if keep:
        journal.with_suffix(".running").write_bytes(head + b"\n")


def test_the_keys_of_sessions_that_are_no_more_are_removed_at_the_start(hurried: Server) -> None:
    session, key = hurried.new_session(), new_key()
    ask(hurried, f"/chat/{session}", key)
    hurried.kill()
    (hurried.sessions / f"{session}.json").unlink()

    hurried.start()

    assert not (hurried.sessions / ".mochi" / "keys" / f"{session}.json").exists()


def test_a_repeat_hears_a_reply_that_goes_on_without_its_first_client(server: Server, standin: StandInThread) -> None:
    session, key, gate = server.new_session(), new_key(), Gate(1)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = f"/chat/{session}/stream"
    with server.stream(path, {"message": QUESTION, "on_disconnect": "continue"}, idempotency_key=key) as events:
        next(events)
    generating(server, session)
    gate.open()
    idle(server, session)

    assert heard(ask(server, f"/chat/{session}", key, on_disconnect="continue")).text == "abc"
