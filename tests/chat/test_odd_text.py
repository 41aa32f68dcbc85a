"""Text that trips careless readers comes through whole: in the stream, in the file, in the whole form, both ways."""

import json
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mochi_server.ollama.standin import Behaviour
from tests.chat.clients import parsed, raw_chat
from tests.server import LIMIT, Server, joined
from tests.standin_thread import StandInThread
from tests.tiny_models import UNICODE

FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
ODD = {
    "next line": ("a\x85b", "\x85", "c"),
    "line and paragraph separators": ("a\u2028b", "\u2029", "\u2028\u2029"),
    "nul and other controls": ("\x00", "a\x00b", "\x01\x0b\x0c\x1c\x1d\x1e\x1f\x7f"),
    "emoji": ("\N{ROCKET}", "ok \N{ROCKET}\N{ROCKET}"),
    "a family in pieces": (*FAMILY,),
    "accents apart from their letters": ("e", "\u0301", "n\u0303"),
    "fields of a stream": ("data: x\n\n", "event: done\ndata: {}\n\n", "id: 1\n", ": hm\n", "retry: 1\n"),
    "blank lines": ("\n", "\n\n", "a\n\n\nb"),
    "carriage returns": ("\r\n", "a\rb", "\r\n\r\n", "\r"),
    "quotes and backslashes": ('"', "\\", '\\"', "\\n", "\\u0041", "</script>"),
    "a byte order mark and what is no character": ("\ufeff", "\ufffe", "\uffff", "\U0010ffff"),
    "right to left": ("\u202eabc", "שלום", "\u200f"),
    "spaces": (" ", "  ", "\t", "\u00a0", " x "),
    "empty pieces": ("", "a", "", "b", ""),
    "json": ('{"done": true}', '\n{"error": "x"}\n'),
}
WAYS: dict[str, dict[str, Any]] = {"one by one": {}, "byte by byte": {"dribble": True}, "in one": {"coalesce": True}}


def raw_reply(server: Server, session: str, message: object = "hi") -> bytes:
    with raw_chat(server, f"/chat/{session}/stream", {"message": message}) as client:
        answer = client.read_rest()
    assert (answer.status, answer.whole) == (200, True)
    return answer.body


def check(server: Server, standin: StandInThread, behaviour: Behaviour, text: str) -> None:
    """The reply is this text, whoever reads it, and wherever it is kept."""
    session = server.new_session()
    standin.script(behaviour, behaviour, behaviour)

    assert joined(server.events(f"/chat/{session}/stream", {"message": "hi"})) == text
    assert server.file(session)["messages"][-1]["content"] == text
    assert joined(parsed(raw_reply(server, session, None))) == text
    answer = server.ok("POST", f"/chat/{session}", {"message": None})
    assert answer["message"]["content"] == text
    assert answer["message"] == server.file(session)["messages"][-1]
    assert server.contents(session) == [("user", "hi"), ("assistant", text)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD)
def test_odd_pieces_come_through_whole(
    server: Server, standin: StandInThread, pieces: tuple[str, ...], way: str
) -> None:
    check(server, standin, Behaviour(pieces=pieces, **WAYS[way]), "".join(pieces))


@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD)
def test_each_piece_is_one_delta_however_the_bytes_come(
    server: Server, standin: StandInThread, pieces: tuple[str, ...]
) -> None:
    session = server.new_session()

    for way in WAYS.values():
        standin.script(Behaviour(pieces=pieces, **way))
        events = server.events(f"/chat/{session}/stream", {"message": "hi"})
        deltas = [e.data["content"] for e in events if e.name == "content_delta"]
        assert deltas == [piece for piece in pieces if piece]


@given(
    pieces=st.lists(st.text(max_size=20), max_size=20).map(tuple),
    thoughts=st.lists(st.text(max_size=10), max_size=4).map(tuple),
    way=st.sampled_from([*WAYS.values()]),
)
@example(pieces=(), thoughts=(), way={})
@settings(max_examples=60, deadline=None, database=None)
def test_any_pieces_joined_are_the_saved_message(
    server: Server, standin: StandInThread, pieces: tuple[str, ...], thoughts: tuple[str, ...], way: dict[str, Any]
) -> None:
    behaviour = Behaviour(pieces=pieces, thinking=thoughts, **way)
    session = server.new_session()
    standin.script(behaviour, behaviour)

    events = parsed(raw_reply(server, session))
    streamed = server.file(session)["messages"][-1]
    whole = server.ok("POST", f"/chat/{session}", {"message": None})["message"]

    text, thinking = "".join(pieces), "".join(thoughts)
    assert (joined(events), joined(events, "thinking_delta")) == (text, thinking)
    assert (streamed["content"], streamed["thinking"]) == (text, thinking or None)
    assert (whole["content"], whole["thinking"]) == (text, thinking or None)


@given(message=st.text(min_size=1, max_size=200))
@settings(max_examples=60, deadline=None, database=None)
def test_any_message_of_the_users_reaches_ollama_and_the_file_as_it_was_typed(
    server: Server, standin: StandInThread, message: str
) -> None:
    session = server.new_session()

    server.ok("POST", f"/chat/{session}", {"message": message})

    assert standin.chats[-1].json["messages"] == [{"role": "user", "content": message}]
    assert server.file(session)["messages"][0]["content"] == message
    assert server.contents(session)[0] == ("user", message)


@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD)
def test_an_odd_reply_goes_back_to_ollama_as_it_came(
    server: Server, standin: StandInThread, pieces: tuple[str, ...]
) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=pieces))
    server.ok("POST", f"/chat/{session}", {"message": "hi"})

    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert standin.chats[-1].json["messages"][1] == {"role": "assistant", "content": "".join(pieces)}


def test_half_of_a_surrogate_pair_is_refused(server: Server) -> None:
    session = server.new_session()

    response = server.client.post(
        f"/api/v1/chat/{session}", content=rb'{"message": "\ud83d"}', headers={"content-type": "application/json"}
    )

    assert (response.status_code, response.json()["detail"]["error"]["code"]) == (400, "invalid_json")
    assert server.contents(session) == []


def test_a_delta_of_a_megabyte_comes_through(server: Server, standin: StandInThread) -> None:
    piece = "\N{ROCKET} data:\n\n" * 100_000

    check(server, standin, Behaviour(pieces=(piece, "end")), piece + "end")


def test_many_lines_in_one_chunk_are_as_many_deltas(server: Server, standin: StandInThread) -> None:
    pieces = tuple(f"{n}\x85" for n in range(5000))
    session = server.new_session()
    standin.script(Behaviour(pieces=pieces, coalesce=True))

    events = server.events(f"/chat/{session}/stream", {"message": "hi"})

    assert [e.data["content"] for e in events if e.name == "content_delta"] == [*pieces]
    assert [e.id.rpartition("-")[2] for e in events] == [str(n) for n in range(1, 5003)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_prints_a_stream_that_parses(server: Server) -> None:
    session = server.new_session(model="tiny-unicode")
    url = f"{server.url}/api/v1/chat/{session}/stream"
    command = ["curl", "-sSN", "-H", "Content-Type: application/json", "--data-binary", "@-", url]

    printed = subprocess.run(
        command, input=json.dumps({"message": "Zoë\x85\n"}).encode(), capture_output=True, check=True, timeout=LIMIT
    )

    assert printed.stderr == b""
    assert joined(parsed(printed.stdout)) == "".join(UNICODE)
    assert server.contents(session)[0] == ("user", "Zoë\x85\n")
