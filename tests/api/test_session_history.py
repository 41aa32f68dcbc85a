"""A session's history: its messages, edits, truncation, system prompt, tree and head."""

from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.server import Server
from tests.standin_thread import StandInThread


def talk(server: Server, standin: StandInThread, *said: str, **fields: object) -> str:
    """A session in which this was said, in turns: `q1`, `a1`, `q2`, `a2`, ..."""
    session = server.new_session(**fields)
    for question, answer in zip(said[::2], said[1::2], strict=True):
        standin.script(Behaviour(pieces=(answer,)))
        server.ok("POST", f"/chat/{session}", {"message": question})
    return session


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [m["content"] for m in messages]


def path(server: Server, session: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = server.ok("GET", f"/sessions/{session}/messages")["messages"]
    return messages


def tree(server: Server, session: str) -> dict[str, Any]:
    found: dict[str, Any] = server.ok("GET", f"/sessions/{session}/tree")
    return found


def test_messages_are_the_active_path_with_every_key_of_their_role(
    shared: Server, shared_standin: StandInThread
) -> None:
    session = talk(shared, shared_standin, "q1", "a1", system_prompt="s")
    answer = shared.ok("GET", f"/sessions/{session}/messages")
    assert list(answer) == ["messages"]
    system, user, assistant = answer["messages"]
    common = {"role", "content", "message_id", "parent_id", "timestamp"}
    assert set(system) == common | {"source_file"}
    assert set(user) == common | {"images"}
    assert set(assistant) == common | {
        *("model", "thinking", "tool_calls", "eval_count", "prompt_eval_count", "status", "done_reason"),
        *("model_digest", "options", "context", "stats"),
    }
    assert (system["parent_id"], user["parent_id"], assistant["parent_id"]) == (None, None, user["message_id"])


def test_an_edit_replaces_the_message_and_drops_what_followed_into_the_tree(
    shared: Server, shared_standin: StandInThread
) -> None:
    session = talk(shared, shared_standin, "q1", "a1", "q2", "a2", "q3", "a3")
    before = path(shared, session)
    response = shared.call("PUT", f"/sessions/{session}/messages/2", {"content": "q2 anew"})
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == ["session_id", "message_index", "message_count", "message"]
    assert (answer["session_id"], answer["message_index"], answer["message_count"]) == (session, 2, 3)
    new = answer["message"]
    assert (new["role"], new["content"], new["parent_id"]) == ("user", "q2 anew", before[1]["message_id"])
    assert new["message_id"] not in {m["message_id"] for m in before}
    assert path(shared, session) == [*before[:2], new]
    assert shared.file(session)["detached"] == before[2:]
    seen = tree(shared, session)
    assert seen == {"messages": [*before[:2], new, *before[2:]], "head": new["message_id"]}
    assert response.headers["etag"] == f'"{shared.file(session)["metadata"]["revision"]}"'


@pytest.mark.parametrize("index", [1, 3])
def test_only_a_users_message_can_be_edited(shared: Server, shared_standin: StandInThread, index: int) -> None:
    session = talk(shared, shared_standin, "q1", "a1", "q2", "a2")
    before = shared.file(session)
    status, code, _ = shared.error("PUT", f"/sessions/{session}/messages/{index}", {"content": "x"})
    assert (status, code) == (400, "invalid_message_index")
    assert shared.file(session) == before


@pytest.mark.parametrize(("index", "left"), [(0, []), (1, ["q1"]), (2, ["q1", "a1"]), (3, ["q1", "a1", "q2"])])
def test_truncating_takes_a_message_and_all_after_it_off_the_path_and_keeps_them(
    shared: Server, shared_standin: StandInThread, index: int, left: list[str]
) -> None:
    session = talk(shared, shared_standin, "q1", "a1", "q2", "a2")
    before = path(shared, session)
    response = shared.call("DELETE", f"/sessions/{session}/messages/{index}")
    assert response.status_code == 200
    assert response.json() == {"session_id": session, "message_count": index}
    assert texts(path(shared, session)) == left
    assert shared.file(session)["detached"] == before[index:]
    assert texts(tree(shared, session)["messages"]) == ["q1", "a1", "q2", "a2"]
    assert tree(shared, session)["head"] == (before[index - 1]["message_id"] if index else None)
    assert response.headers["etag"] == f'"{shared.file(session)["metadata"]["revision"]}"'


@pytest.mark.parametrize(("method", "body"), [("PUT", {"content": "x"}), ("DELETE", None)])
def test_an_index_beyond_the_messages_is_refused(
    shared: Server, shared_standin: StandInThread, method: str, body: object
) -> None:
    session = talk(shared, shared_standin, "q1", "a1")
    for index in (2, 99, 999_999_999, 10**30, -1):
        status, code, _ = shared.error(method, f"/sessions/{session}/messages/{index}", body)
        assert (index, status, code) == (index, 400, "invalid_message_index")
    empty = shared.new_session()
    assert shared.error(method, f"/sessions/{empty}/messages/0", body)[:2] == (400, "invalid_message_index")


def test_the_system_prompt_has_index_0_and_is_refused_to_edit_and_truncate(
    shared: Server, shared_standin: StandInThread
) -> None:
    session = talk(shared, shared_standin, "q1", "a1", system_prompt="s")
    before = shared.file(session)
    for method, body in (("PUT", {"content": "x"}), ("DELETE", None)):
        status, code, _ = shared.error(method, f"/sessions/{session}/messages/0", body)
        assert (status, code) == (400, "invalid_message_index")
    assert shared.file(session) == before
    answer = shared.ok("PUT", f"/sessions/{session}/messages/1", {"content": "q1 anew"})
    assert (answer["message_index"], answer["message_count"], answer["message"]["content"]) == (1, 2, "q1 anew")
    assert shared.contents(session) == [("system", "s"), ("user", "q1 anew")]
    assert shared.ok("DELETE", f"/sessions/{session}/messages/1")["message_count"] == 1


def test_a_system_prompt_is_set_replaced_and_removed_and_shifts_the_indexes(
    shared: Server, shared_standin: StandInThread
) -> None:
    session = talk(shared, shared_standin, "q1", "a1")
    nodes = tree(shared, session)
    response = shared.call("PUT", f"/sessions/{session}/system-prompt", {"content": "s1", "source_file": "s1.md"})
    assert (response.status_code, response.json()) == (
        200,
        {"content": "s1", "source_file": "s1.md", "message_index": 0},
    )
    assert response.headers["etag"] == f'"{shared.file(session)["metadata"]["revision"]}"'
    assert texts(path(shared, session)) == ["s1", "q1", "a1"]
    first = path(shared, session)[0]
    status = shared.ok("GET", f"/sessions/{session}/status")
    assert (status["message_count"], status["system_prompt_file"]) == (3, "s1.md")

    second = shared.ok("PUT", f"/sessions/{session}/system-prompt", {"content": "s2"})
    assert second == {"content": "s2", "source_file": None, "message_index": 0}
    assert shared.file(session)["detached"] == [first]
    assert tree(shared, session) == nodes
    shared.ok("POST", f"/chat/{session}", {"message": "q2"})
    assert texts(shared_standin.chats[-1].json["messages"]) == ["s2", "q1", "a1", "q2"]

    gone = shared.call("DELETE", f"/sessions/{session}/system-prompt")
    assert (gone.status_code, gone.content) == (204, b"")
    assert texts(shared.file(session)["detached"]) == ["s1", "s2"]
    assert [role for role, _ in shared.contents(session)] == ["user", "assistant"] * 2
    assert shared.call("DELETE", f"/sessions/{session}/system-prompt").status_code == 204
    assert shared.ok("GET", f"/sessions/{session}/status")["message_count"] == 4


def test_a_prompt_file_that_is_not_there_is_told(shared: Server) -> None:
    session = shared.new_session()
    told = shared.error("PUT", f"/sessions/{session}/system-prompt", {"source_file": "brief.md"})
    assert told[:2] == (404, "prompt_not_found")
    assert shared.error("POST", "/sessions", {"system_prompt_source_file": "brief.md"})[:2] == (404, "prompt_not_found")


def test_a_branch_that_was_left_can_be_made_active_again(shared: Server, shared_standin: StandInThread) -> None:
    session = talk(shared, shared_standin, "q1", "a1", "q2", "a2", "q3", "a3", system_prompt="s")
    old = path(shared, session)
    shared.ok("PUT", f"/sessions/{session}/messages/3", {"content": "q2 anew"})
    shared_standin.script(Behaviour(pieces=("a2 anew",)))
    shared.ok("POST", f"/chat/{session}", {"message": None})
    other = path(shared, session)
    assert texts(other) == ["s", "q1", "a1", "q2 anew", "a2 anew"]

    response = shared.call("PUT", f"/sessions/{session}/head", {"message_id": old[3]["message_id"]})
    answer = response.json()
    assert response.status_code == 200
    assert answer["messages"] == old  # on from the message to its newest leaf
    assert answer["message_count"] == 7
    assert answer == shared.ok("GET", f"/sessions/{session}")
    assert tree(shared, session)["head"] == old[-1]["message_id"]

    up = shared.ok("PUT", f"/sessions/{session}/head", {"message_id": old[1]["message_id"]})
    assert texts(up["messages"]) == texts(other)  # the newest leaf of all is the later branch's
    everything = {m["message_id"] for m in (*old[1:], *other[1:])}
    assert {m["message_id"] for m in tree(shared, session)["messages"]} == everything
    assert len(tree(shared, session)["messages"]) == len(everything)


def test_a_head_that_is_no_message_of_the_tree_is_refused(shared: Server, shared_standin: StandInThread) -> None:
    session = talk(shared, shared_standin, "q1", "a1", system_prompt="s")
    before = shared.file(session)
    for message_id in ("0000000000", "../..", "", path(shared, session)[0]["message_id"]):
        status, code, _ = shared.error("PUT", f"/sessions/{session}/head", {"message_id": message_id})
        assert (status, code) == (404, "message_not_found")
    assert shared.file(session) == before


def test_the_tree_of_an_empty_session_is_empty(shared: Server) -> None:
    session = shared.new_session(system_prompt="s")
    assert tree(shared, session) == {"messages": [], "head": None}


def test_every_write_answers_with_a_new_revision(shared: Server, shared_standin: StandInThread) -> None:
    session = talk(shared, shared_standin, "q1", "a1")
    user = path(shared, session)[0]["message_id"]
    seen = [shared.call("GET", f"/sessions/{session}").headers["etag"]]
    writes: list[tuple[str, str, object]] = [
        ("PATCH", "", {"title": "x"}),
        ("PUT", "/system-prompt", {"content": "s"}),
        ("PUT", "/messages/1", {"content": "x"}),
        ("PUT", "/head", {"message_id": user}),
        ("DELETE", "/messages/2", None),
        ("DELETE", "/system-prompt", None),
    ]
    for method, below, body in writes:
        response = shared.call(method, f"/sessions/{session}{below}", body)
        assert response.is_success
        seen.append(response.headers["etag"])
        assert shared.call("GET", f"/sessions/{session}").headers["etag"] == seen[-1]
    assert len(set(seen)) == len(seen)


def test_a_limit_on_the_history_is_kept_and_obeyed_until_a_request_says_otherwise(
    shared: Server, shared_standin: StandInThread
) -> None:
    session = talk(shared, shared_standin, "q1", "a1", "q2", "a2", history_limit=1, options={"seed": 3})
    shared.ok("POST", f"/chat/{session}", {"message": "q3"})
    asked = shared_standin.chats[-1].json
    assert (texts(asked["messages"]), asked["options"]) == (["q3"], {"seed": 3})
    assert path(shared, session)[-1]["context"]["messages_left_out"] == 4
    shared.ok("POST", f"/chat/{session}", {"message": "q4", "history_limit": 100, "options": {"top_k": 1}})
    asked = shared_standin.chats[-1].json
    assert (len(asked["messages"]), asked["options"]) == (7, {"seed": 3, "top_k": 1})
    assert shared.ok("GET", f"/sessions/{session}")["options"] == {"seed": 3}
