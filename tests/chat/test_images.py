"""Images in a conversation: shown to the model in every turn, by a model that sees, or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked
from tests.pictures import BLIND, GIF, JPEG, SEEING, base64_of, digest, png, references, seeing_standin
from tests.server import Server, names, told
from tests.standin_thread import StandInThread

FORMS = ["/chat/{}", "/chat/{}/stream", "/chat", "/chat/stream"]


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread(seeing_standin()) as standin:
        yield standin


def shown(standin: StandInThread) -> list[list[str] | None]:
    """The images of each user message that Ollama was sent last."""
    return [m.get("images") for m in standin.chats[-1].json["messages"] if m["role"] == "user"]


def look(server: Server, session: str, *images: bytes, message: str | None = "look") -> dict[str, Any]:
    answer: dict[str, Any] = server.ok("POST", f"/chat/{session}", {"message": message, "images": base64_of(*images)})
    return answer


def file_of(server: Server, image: bytes) -> Path:
    return server.sessions / ".mochi" / "images" / digest(image)


@pytest.fixture
def talk(server: Server) -> str:
    """A session with a system prompt, a message without images, one with two, and their replies."""
    session = server.new_session(model=SEEING, system_prompt="Look closely.")
    look(server, session, message="hi")
    look(server, session, png(1), JPEG)
    return session


def test_images_are_shown_in_their_turn_and_in_all_later_ones(
    server: Server, standin: StandInThread, talk: str
) -> None:
    assert shown(standin) == [None, base64_of(png(1), JPEG)]
    look(server, talk, message="and?")
    assert shown(standin) == [None, base64_of(png(1), JPEG), None]
    server.events(f"/chat/{talk}/stream", {"message": "and this?", "images": base64_of(GIF)})
    assert shown(standin) == [None, base64_of(png(1), JPEG), None, base64_of(GIF)]


def test_an_edit_an_answer_made_anew_and_another_branch_keep_the_images(
    server: Server, standin: StandInThread, talk: str
) -> None:
    look(server, talk, message=None)
    assert shown(standin) == [None, base64_of(png(1), JPEG)]

    old = server.ok("GET", f"/sessions/{talk}")["messages"][3]
    edited = server.ok("PUT", f"/sessions/{talk}/messages/3", {"content": "look again"})["message"]
    assert edited["images"] == old["images"] == references(png(1), JPEG)
    look(server, talk, message=None)
    assert standin.chats[-1].json["messages"][-1] == {
        "role": "user",
        "content": "look again",
        "images": base64_of(png(1), JPEG),
    }

    server.ok("PUT", f"/sessions/{talk}/messages/1", {"content": "hello"})
    look(server, talk, GIF, message="another branch")
    server.ok("PUT", f"/sessions/{talk}/head", {"message_id": old["message_id"]})
    look(server, talk, message="and?")
    assert shown(standin) == [None, base64_of(png(1), JPEG), None]


def test_a_second_request_in_a_larger_window_has_the_images_too(server: Server, standin: StandInThread) -> None:
    session, before = server.new_session(model=SEEING), len(standin.chats)
    standin.script(Behaviour(fault="status", status=400, error="the input length exceeds the context length"))
    look(server, session, GIF)
    refused, taken = standin.chats[before:]
    assert refused.json["messages"] == taken.json["messages"]
    assert shown(standin) == [base64_of(GIF)]


def test_images_that_are_left_out_to_fit_the_window_are_not_sent(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=SEEING, history_limit="fit", options={"num_ctx": 256})
    look(server, session, GIF, message="x" * 1_000)
    look(server, session, JPEG, message="y" * 200)
    assert shown(standin) == [base64_of(JPEG)]


def test_a_message_may_be_images_alone(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=SEEING)
    look(server, session, GIF, message="")
    assert standin.chats[-1].json["messages"] == [{"role": "user", "content": "", "images": base64_of(GIF)}]
    assert server.ok("GET", "/sessions")["sessions"][0]["preview"] == "I see."


@pytest.mark.parametrize("images", [None, []])
def test_none_is_the_same_as_left_out(server: Server, standin: StandInThread, images: object) -> None:
    session = server.new_session(model=BLIND)
    server.ok("POST", f"/chat/{session}", {"message": "hi", "images": images})
    assert standin.chats[-1].json["messages"] == [{"role": "user", "content": "hi"}]
    assert server.file(session)["messages"][0]["images"] is None


def test_a_second_try_is_one_of_the_same_words_and_the_same_images(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=SEEING)
    tries = [(), (GIF,), (GIF,), (GIF, JPEG), (JPEG, GIF), (JPEG, GIF)]
    standin.script(*(Behaviour(fault="status") for _ in tries))
    for images in tries:
        body = {"message": "look", "images": base64_of(*images)}
        assert server.error("POST", f"/chat/{session}", body)[1] == "ollama_error"
    saved = [m["images"] for m in server.file(session)["messages"]]
    assert saved == [None, references(GIF), references(GIF, JPEG), references(JPEG, GIF)]


def test_a_repeated_key_is_the_same_request_only_with_the_same_images(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=SEEING)
    body = {"message": "look", "images": base64_of(GIF)}
    first = server.ok("POST", f"/chat/{session}", body, Idempotency_Key="one")
    before = len(standin.chats)
    assert server.ok("POST", f"/chat/{session}", body, Idempotency_Key="one") == first
    other = {"message": "look", "images": base64_of(JPEG)}
    assert server.error("POST", f"/chat/{session}", other, Idempotency_Key="one")[1] == "idempotency_mismatch"
    assert len(standin.chats) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_does_not_see_is_refused_before_anything_is_saved_or_asked(
    server: Server, standin: StandInThread, form: str
) -> None:
    session, sessions, before = (
        server.new_session(model=BLIND),
        server.ok("GET", "/sessions")["total"],
        len(standin.chats),
    )
    never = png(10_000)
    body = {"message": "look", "images": base64_of(never)} | ({} if "{}" in form else {"model": BLIND})
    status, code, details = server.error("POST", form.format(session), body)
    assert (status, code) == (400, "capability_missing")
    assert details == {"capability": "vision", "model": BLIND, "message_index": 0}
    assert server.contents(session) == []
    assert server.ok("GET", "/sessions")["total"] == sessions
    assert len(standin.chats) == before
    assert not file_of(server, never).exists()


@pytest.mark.parametrize("message", ["and?", None])
def test_images_in_the_history_need_a_model_that_sees_too(
    server: Server, standin: StandInThread, talk: str, message: str | None
) -> None:
    server.ok("PATCH", f"/sessions/{talk}", {"model": BLIND})
    file, before = server.file(talk), len(standin.chats)
    for form in FORMS[:2]:
        status, code, details = server.error("POST", form.format(talk), {"message": message})
        assert (status, code, details["message_index"]) == (400, "capability_missing", 3)
    assert server.file(talk) == file
    assert len(standin.chats) == before

    if message is not None:
        # What is left out needs nobody who sees it.
        server.ok("POST", f"/chat/{talk}", {"message": message, "history_limit": 1})
        assert shown(standin) == [None]
    server.ok("DELETE", f"/sessions/{talk}/messages/3")
    look(server, talk, message="never mind")
    assert shown(standin) == [None, None]


def test_images_that_somebody_wrote_into_a_file_are_looked_at_too(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model=BLIND)
    look(server, session, message="hi")
    path = server.sessions / f"{session}.json"
    path.write_text(path.read_text("utf-8").replace('"images": null', f'"images": ["{references(GIF)[0]}"]'), "utf-8")
    before = len(standin.chats)
    assert server.error("POST", f"/chat/{session}", {"message": "and?"})[:2] == (400, "capability_missing")
    path.write_text(path.read_text("utf-8").replace("sha256:", "a photo of "), "utf-8")
    assert server.ok("GET", f"/sessions/{session}")["messages"][0]["images"][0].startswith("a photo of ")
    server.ok("PATCH", f"/sessions/{session}", {"model": SEEING})
    status, code, details = server.error("POST", f"/chat/{session}", {"message": "and?"})
    assert (status, code, details["message_index"]) == (404, "image_not_found", 0)
    assert len(standin.chats) == before


def test_a_model_of_which_nobody_can_tell_is_left_to_ollama(server: Server, standin: StandInThread) -> None:
    standin.close()
    session = server.new_session(model="new-vision")
    assert server.error("POST", f"/chat/{session}", {"message": "look", "images": base64_of(GIF)})[1] == (
        "ollama_unreachable"
    )
    standin.start()
    assert server.error("POST", f"/chat/{session}", {"message": None})[:2] == (400, "model_not_found")
    assert standin.chats[-1].json["messages"] == [{"role": "user", "content": "look", "images": base64_of(GIF)}]


@pytest.mark.parametrize("message", ["and?", None])
def test_an_image_that_is_gone_is_told_before_anything_is_saved_or_asked(
    server: Server, standin: StandInThread, talk: str, message: str | None
) -> None:
    file, before = server.file(talk), len(standin.chats)
    image = file_of(server, JPEG)
    image.unlink()
    for form in FORMS[:2]:
        response = server.call("POST", form.format(talk), {"message": message})
        assert told(response) == (404, "image_not_found", {"image": references(JPEG)[0], "message_index": 3})
        assert "truncate the history from message 3 on" in response.json()["detail"]["error"]["message"]
    assert server.file(talk) == file
    assert len(standin.chats) == before

    image.write_bytes(JPEG)
    look(server, talk, message=message)
    assert shown(standin)[:2] == [None, base64_of(png(1), JPEG)]


def test_an_image_that_is_sent_again_is_there_again(server: Server, standin: StandInThread, talk: str) -> None:
    file_of(server, JPEG).unlink()
    look(server, talk, JPEG, message="once more")
    assert shown(standin) == [None, base64_of(png(1), JPEG), base64_of(JPEG)]
    file_of(server, JPEG).write_bytes(b"something else")
    look(server, talk, JPEG, message="and once more")
    assert shown(standin)[1:] == [base64_of(png(1), JPEG), base64_of(JPEG), base64_of(JPEG)]


def test_an_image_that_is_another_now_is_not_sent(server: Server, standin: StandInThread, talk: str) -> None:
    before = len(standin.chats)
    file_of(server, JPEG).write_bytes(GIF)
    assert server.error("POST", f"/chat/{talk}", {"message": "and?"})[:2] == (404, "image_not_found")
    events = server.events(f"/chat/{talk}/stream", {"message": None})
    assert names(events) == ["error", "done"]
    assert (events[0].data["code"], events[0].data["details"]["message_index"]) == ("image_not_found", 3)
    assert len(standin.chats) == before
    file_of(server, JPEG).write_bytes(JPEG)


def test_an_image_that_goes_while_its_reply_waits_in_the_queue_is_told(server: Server, standin: StandInThread) -> None:
    first, second, gate, image = server.new_session(model=SEEING), server.new_session(model=SEEING), Gate(0), png(77)
    standin.script(Behaviour(pieces=("x",), gate=gate))
    before = len(standin.chats)
    # Another window is another load of the model: the second waits for the first, here and not at Ollama.
    with asked(server, (f"/chat/{first}", {"message": "hi", "options": {"num_ctx": 2048}})) as [running]:
        gate.wait()
        body = {"message": "look", "images": base64_of(image), "options": {"num_ctx": 1024}}
        with server.stream(f"/chat/{second}/stream", body) as events:
            file_of(server, image).unlink()
            gate.open()
            assert [(e.name, e.data.get("code")) for e in events if e.name != "status"] == [
                ("error", "image_not_found"),
                ("done", None),
            ]
        assert running.result().is_success
    assert len(standin.chats) == before + 1
    assert server.contents(second) == [("user", "look")]


def test_a_reply_that_nobody_listens_to_is_not_ended_for_what_cannot_be_granted(
    server: Server, standin: StandInThread
) -> None:
    session, gate = server.new_session(model=BLIND), Gate(1)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        assert next(events).data["content"] == "a"
    body = {"message": "look", "images": base64_of(GIF)}
    assert server.error("POST", f"/chat/{session}", body)[:2] == (400, "capability_missing")
    assert server.ok("GET", f"/sessions/{session}/status")["generation"] is not None
    gate.open()
    server.client.get(f"/api/v1/chat/{session}/stream")
    assert server.contents(session) == [("user", "hi"), ("assistant", "ab")]
