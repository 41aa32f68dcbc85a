"""`X-Session-Id`: OpenAI's clients with a memory."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from mochi_server.ollama.standin import Behaviour, Fault, Gate
from tests.chat.clients import asked, eventually, generating, idle
from tests.openai.clients import (
    HELLO,
    WEATHER,
    ask,
    chunks_of,
    content,
    memory,
    official,
    post,
    raw_stream,
    refused,
    told,
)
from tests.openai.clients import stream as streamed
from tests.pictures import SEEING, base64_of, digest, png, references
from tests.raw_http import RawClient
from tests.server import Server, joined
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO as PIECES

ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "0.2"}
SAID = "".join(PIECES)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reached(standin: StandInThread) -> list[tuple[str, str]]:
    """Role and content of the messages that Ollama was sent last."""
    return [(m["role"], m["content"]) for m in standin.chats[-1].json["messages"]]


@pytest.fixture
def session(server: Server) -> str:
    return server.new_session(system_prompt="Be brief.", options={"seed": 7, "temperature": 0.5})


def test_what_was_said_before_is_the_sessions_and_what_is_new_is_added(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    ask(client, messages=[user("one")], **memory(session))
    ask(client, messages=[user("two")], **memory(session))
    whole_history = [user("not what was said"), {"role": "assistant", "content": "nor this"}, user("three")]
    streamed(client, messages=whole_history, **memory(session))

    turns = [turn for text in ("one", "two", "three") for turn in (("user", text), ("assistant", SAID))]
    assert server.contents(session) == [("system", "Be brief."), *turns]
    assert reached(standin) == [("system", "Be brief."), *turns[:-1]]


def test_the_saved_message_is_what_was_told_and_its_id_comes_with_it(
    client: OpenAI, server: Server, session: str
) -> None:
    response = client.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, **memory(session))
    saved = server.file(session)["messages"][-1]
    assert response.headers["x-message-id"] == saved["message_id"]
    assert response.headers["x-session-id"] == session
    assert response.headers["etag"] == server.call("GET", f"/sessions/{session}").headers["etag"]
    assert response.parse().choices[0].message.content == saved["content"]

    *chunks, last, usage = streamed(client, stream_options={"include_usage": True}, **memory(session))
    saved = server.file(session)["messages"][-1]
    assert content(chunks) == saved["content"]
    told = [chunk.model_extra and chunk.model_extra.get("message_id") for chunk in (last, usage)]
    assert told == [saved["message_id"]] * 2
    assert all(not chunk.model_extra for chunk in chunks)


def test_model_and_system_messages_hold_for_their_turn_only(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    messages = [
        {"role": "system", "content": "Be loud."},
        {"role": "developer", "content": "In French."},
        user("hi"),
    ]
    ask(client, model="tiny-think", messages=messages, temperature=0.1, **memory(session))

    sent = standin.chats[-1].json
    assert sent["model"] == "tiny-think"
    assert reached(standin) == [("system", "Be loud.\n\nIn French."), ("user", "hi")]
    assert sent["options"] == {"seed": 7, "temperature": 0.1}
    file = server.file(session)
    assert (file["metadata"]["model"], file["messages"][0]["content"]) == ("tiny", "Be brief.")
    assert file["messages"][-1]["model"] == "tiny-think"
    server.ok("POST", f"/chat/{session}", {"message": "and?"})
    assert standin.chats[-1].json["model"] == "tiny"
    assert reached(standin)[0] == ("system", "Be brief.")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_exchange_works_with_nothing_sent_but_what_is_new(
    client: OpenAI, server: Server, standin: StandInThread, session: str, *, stream: bool
) -> None:
    fields: dict[str, Any] = {"model": "tiny-tools", "tools": [WEATHER], "stream": stream, **memory(session)}

    def call(messages: list[Any]) -> None:
        answer = client.chat.completions.create(messages=messages, **fields)
        if stream:
            list(answer)

    call([user("hi")])
    calling = server.file(session)["messages"][-1]
    [made] = calling["tool_calls"]
    call([{"role": "tool", "tool_call_id": made["id"], "content": "sunny"}])

    assert server.contents(session)[1:] == [("user", "hi"), ("assistant", ""), ("tool", "sunny"), ("assistant", SAID)]
    _, _, _, result, answer = server.file(session)["messages"]
    assert (result["tool_name"], result["tool_call_id"]) == ("get_weather", made["id"])
    assert result["parent_id"] == calling["message_id"]
    assert answer["parent_id"] == result["message_id"]
    sent = standin.chats[-1].json["messages"]
    assert [m.get("tool_name") for m in sent] == [None, None, None, "get_weather"]
    assert sent[2]["tool_calls"] == calling["tool_calls"]


def test_our_own_api_goes_on_with_a_session_that_has_tools_in_it(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    ask(client, model="tiny-tools", tools=[WEATHER], **memory(session))
    [made] = server.file(session)["messages"][-1]["tool_calls"]
    result = {"role": "tool", "tool_call_id": made["id"], "content": "sunny"}
    ask(client, model="tiny-tools", tools=[WEATHER], messages=[result], **memory(session))
    whole = server.contents(session)

    server.ok("POST", f"/chat/{session}", {"message": "and now?"})
    assert reached(standin) == [*whole, ("user", "and now?")]
    server.ok("DELETE", f"/sessions/{session}/messages/5")
    assert server.contents(session) == whole
    server.ok("POST", f"/chat/{session}", {"message": None})  # back to the last thing that a person said
    assert reached(standin) == [("system", "Be brief."), ("user", "hi")]
    assert len(server.ok("GET", f"/sessions/{session}/tree")["messages"]) == 7
    assert server.events(f"/chat/{session}/stream", {"message": "once more"})[-1].data["status"] == "complete"


def test_a_result_of_a_tool_that_nobody_called_is_refused_and_nothing_added(
    client: OpenAI, server: Server, session: str
) -> None:
    result = {"role": "tool", "tool_call_id": "call_nobody", "content": "sunny"}
    error = refused(client, messages=[result], **memory(session))
    assert (error.status_code, error.param) == (400, "messages")
    assert server.contents(session) == [("system", "Be brief.")]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "so?"}],
        [user("hi"), {"role": "assistant", "content": "so?"}],
        [{"role": "system", "content": "be"}],
        [user("hi"), {"role": "assistant", "content": "so?"}, {"role": "system", "content": "be"}],
    ],
)
def test_nothing_to_add_is_refused(client: OpenAI, server: Server, session: str, messages: list[Any]) -> None:
    error = refused(client, messages=messages, **memory(session))
    assert (error.status_code, error.code, error.param) == (400, "empty_history", "messages")
    assert server.contents(session) == [("system", "Be brief.")]


@pytest.mark.parametrize("unknown", ["00000000ff", "not-an-id", "../../etc/passwd", ""])
def test_an_unknown_session_is_a_404(client: OpenAI, unknown: str) -> None:
    error = refused(client, **memory(unknown))
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "session_not_found"


@pytest.mark.parametrize("fields", [{"model": "no-such"}, {"tools": [WEATHER]}, {"reasoning_effort": "high"}])
def test_what_cannot_be_granted_changes_nothing(
    client: OpenAI, server: Server, session: str, fields: dict[str, Any]
) -> None:
    before = server.file(session)
    refused(client, **fields, **memory(session))
    assert server.file(session) == before


def failing(fault: Fault, after: int = 0, **more: Any) -> Behaviour:
    return Behaviour(pieces=("a", "b"), fault=fault, after=after, **more)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 2])
def test_a_repeat_by_the_client_itself_is_not_added_twice(
    server: Server, standin: StandInThread, session: str, after: int, *, stream: bool
) -> None:
    standin.script(failing("reset", after))
    with official(server, max_retries=0 if stream and after else 1) as client:
        if stream and after:
            # The client does not try a stream again once that has begun: its user does.
            with pytest.raises(openai.APIError):
                streamed(client, **memory(session))
        said = content(streamed(client, **memory(session))) if stream else ""
        if not stream:
            said = ask(client, **memory(session)).choices[0].message.content or ""

    assert said == SAID
    assert server.contents(session)[1:] == [("user", "hi"), ("assistant", SAID)]
    tree = server.ok("GET", f"/sessions/{session}/tree")["messages"]
    assert [m["content"] for m in tree if m["role"] == "assistant"] == ([SAID, "ab"] if after else [SAID])


def test_more_behind_an_unanswered_message_is_added_alone(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(failing("reset"))
    refused(client, messages=[user("one")], **memory(session))
    ask(client, messages=[user("one"), user("two")], **memory(session))
    assert server.contents(session)[1:] == [("user", "one"), ("user", "two"), ("assistant", SAID)]
    ask(client, messages=[user("two")], **memory(session))
    assert server.contents(session)[4:] == [("user", "two"), ("assistant", SAID)]


def test_a_tools_result_is_not_added_twice_either(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    ask(client, model="tiny-tools", tools=[WEATHER], **memory(session))
    [made] = server.file(session)["messages"][-1]["tool_calls"]
    result = {"role": "tool", "tool_call_id": made["id"], "content": "sunny"}
    standin.script(failing("reset"))
    refused(client, model="tiny-tools", messages=[result], **memory(session))
    ask(client, model="tiny-tools", messages=[result], **memory(session))
    assert [role for role, _ in server.contents(session)][1:] == ["user", "assistant", "tool", "assistant"]


def test_a_busy_session_is_told_so_and_an_abandoned_reply_is_ended(
    client: OpenAI, server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(1)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with asked(server, (f"/chat/{session}", {"message": "hi"})) as [first]:
        generating(server, session)
        error = refused(client, **memory(session))
        assert isinstance(error, openai.ConflictError)
        assert error.code == "session_busy"
        gate.open()
        first.result()

    standin.script(Behaviour(pieces=("c", "d"), gate=Gate(1)))
    with RawClient(server.url) as raw:
        raw.socket.sendall(raw_request(server, session))
        while b'"c"' not in raw.answer.body:
            raw.read_head() if not raw.answer.status else raw.read_chunk()
    assert eventually(lambda: ask_if_free(client, session)) == SAID
    last = server.file(session)["messages"][-3:]
    assert [m["content"] for m in last] == ["c", "again", SAID]
    assert last[0]["status"] == "interrupted"


def raw_request(server: Server, session: str) -> bytes:
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"X-Session-Id: {session}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask_if_free(client: OpenAI, session: str) -> str | None:
    """The answer, once the server has seen that the client before has gone."""
    try:
        return ask(client, messages=[user("again")], **memory(session)).choices[0].message.content
    except openai.ConflictError:
        return None


def test_a_reply_that_another_request_stopped_is_an_error_and_not_asked_for_again(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    before = len(standin.chats)
    with official(server, max_retries=3) as client:
        stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True, **memory(session))
        generating(server, session)
        server.ok("POST", f"/chat/{session}/stop")
        with pytest.raises(openai.APIError) as told:
            list(stream)
        assert told.value.code == "reply_stopped"
    assert len(standin.chats) == before + 1
    assert server.file(session)["messages"][-1]["status"] == "interrupted"


@pytest.mark.parametrize("stream", [False, True])
def test_one_stopped_before_its_first_token_is_told_by_its_status(
    server: Server, standin: StandInThread, session: str, *, stream: bool
) -> None:
    gate = Gate()
    standin.script(Behaviour(gate=gate))
    body = {"model": "tiny", "messages": HELLO, "stream": stream}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, server, body, X_Session_Id=session)
        gate.wait()
        server.ok("POST", f"/chat/{session}/stop")
        response = answer.result()
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert told(response)["code"] == "reply_stopped"
    assert server.contents(session)[1:] == [("user", "hi")]


def test_our_own_clients_can_join_the_reply(client: OpenAI, server: Server, session: str) -> None:
    ask(client, **memory(session))
    response = server.call("GET", f"/chat/{session}/stream")
    assert SAID.split()[0] in response.text
    assert joined(server.events(f"/chat/{session}/stream", {"message": "more"})) == SAID


def test_the_headers_of_chat_do_what_they_do_there(client: OpenAI, server: Server, session: str) -> None:
    stale = {"X-Session-Id": session, "If-Match": '"0123456789abcdef"'}
    error = refused(client, extra_headers=stale)
    assert (error.status_code, error.code) == (412, "revision_conflict")

    keyed = {"X-Session-Id": session, "Idempotency-Key": "k1"}
    first = post(server, **keyed)
    again = post(server, **keyed)
    assert again.json()["choices"] == first.json()["choices"]
    assert again.headers["x-message-id"] == first.headers["x-message-id"]
    replayed = post(server, {"model": "tiny", "messages": HELLO}, **keyed)
    assert replayed.json()["id"] == first.json()["id"]
    assert told(post(server, {"model": "tiny", "messages": [user("x")]}, **keyed))["code"] == "idempotency_mismatch"
    assert server.contents(session)[1:] == [("user", "hi"), ("assistant", SAID)]


def test_images_of_what_is_new_are_kept_and_shown(client: OpenAI, server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=SEEING)
    [sent] = base64_of(png(3))
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{sent}"}}]
    before = [{"role": "user", "content": parts}, {"role": "assistant", "content": "so?"}]
    ask(client, model=SEEING, messages=[{"role": "user", "content": parts}], **memory(session))
    ask(client, model=SEEING, messages=[*before, user("and?")], **memory(session))
    assert server.file(session)["messages"][0]["images"] == references(png(3))
    assert (server.sessions / ".mochi" / "images" / digest(png(3))).exists()
    assert [m.get("images") for m in standin.chats[-1].json["messages"]] == [[sent], None, None]
    error = refused(client, model="tiny", messages=[user("blind?")], **memory(session))
    assert (error.code, error.param) == ("capability_missing", "messages")


def test_a_leaving_client_stops_the_reply_as_in_chat(server: Server, standin: StandInThread, session: str) -> None:
    abandoned = standin.abandoned
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with RawClient(server.url) as raw:
        raw.socket.sendall(raw_request(server, session))
        while b'"a"' not in raw.answer.body:
            raw.read_head() if not raw.answer.status else raw.read_chunk()
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    idle(server, session)
    last = server.file(session)["messages"][-1]
    assert (last["content"], last["status"], last["done_reason"]) == ("a", "interrupted", "disconnected")


def test_without_the_header_a_stream_is_of_no_session(server: Server) -> None:
    before = server.ok("GET", "/sessions")["total"]
    with RawClient(server.url) as raw:
        raw_stream(server, raw)
        answer = raw.read_rest()
    assert "message_id" not in chunks_of(answer.body)[-1]
    assert {"x-session-id", "etag", "x-message-id"}.isdisjoint(name.lower() for name in answer.headers)
    assert server.ok("GET", "/sessions")["total"] == before


def test_a_revision_is_refused_where_nothing_is_kept(server: Server, standin: StandInThread) -> None:
    asked, before = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}, len(standin.chats)
    sent = (("If-Match", '"0123456789abcdef"', 412), ("If-Match", "*", 412), ("If-Match", "{}", 400))
    for name, value, status in (*sent, ("Idempotency-Key", "", 400)):
        answer = server.client.post("/v1/chat/completions", json=asked, headers={name: value})
        assert answer.status_code == status
    assert len(standin.chats) == before
