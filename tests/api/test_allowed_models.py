"""With MOCHI_ALLOWED_MODELS no other model is there: not in the list, not for a session, not for a reply."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server, told
from tests.standin_thread import StandInThread

ALLOWED = ["tiny-think:latest", "tiny:latest"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    # One that Ollama does not have, too.
    environment = {"MOCHI_ALLOWED_MODELS": "tiny, tiny-think:latest, gone:7b"}
    with Server(tmp_path_factory.mktemp("strict"), shared_standin.url, environment=environment) as server:
        yield server


def session_of(server: Server, model: str, session: str) -> str:
    """A session of this model, with a question and its answer, put there by hand."""
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    content = {"metadata": {"session_id": session, "model": model, "format_version": "1.4"}, "messages": messages}
    (server.sessions / f"{session}.json").write_text(json.dumps(content))
    return session


def refused(server: Server, method: str, path: str, body: object = None) -> tuple[int, list[str]]:
    """The status of a refusal that says that it is not a matter of getting the model, and what could be had."""
    response = server.call(method, path, body)
    status, code, details = told(response)
    message = response.json()["detail"]["error"]["message"]
    assert code == "model_not_found"
    assert "not allowed" in message
    assert "ollama pull" not in message
    return status, details["available"]


def test_only_allowed_models_are_listed_and_the_newest_of_them_is_the_default(strict: Server, shared: Server) -> None:
    everyone = [model["name"] for model in shared.ok("GET", "/models")["models"]]
    assert len(everyone) > len(ALLOWED)
    names = [model["name"] for model in strict.ok("GET", "/models")["models"]]
    assert names == [name for name in everyone if name in ALLOWED]
    assert everyone[0] not in ALLOWED  # or the default would be the same without
    assert strict.ok("POST", "/sessions", {})["model"] == names[0]
    for name in ("tiny", "tiny:latest", "tiny-think"):
        assert strict.ok("GET", f"/models/{name}")["name"] in ALLOWED
        assert strict.new_session(model=name)


@pytest.mark.parametrize("name", ["tiny-json", "tiny-json:latest", "tiny:7b", "none", "TINY", "x/tiny", "tiny:latest2"])
def test_any_other_model_is_refused_wherever_it_is_named(
    strict: Server, shared_standin: StandInThread, name: str
) -> None:
    session, chats = strict.new_session(), len(shared_standin.chats)
    before = strict.file(session)
    assert refused(strict, "GET", f"/models/{name}") == (404, ALLOWED)
    assert refused(strict, "POST", "/sessions", {"model": name}) == (400, ALLOWED)
    assert refused(strict, "PATCH", f"/sessions/{session}", {"model": name}) == (400, ALLOWED)
    for path in ("/chat", "/chat/stream"):
        assert refused(strict, "POST", path, {"message": "hi", "model": name}) == (400, ALLOWED)
    assert strict.file(session) == before
    assert len(shared_standin.chats) == chats


def test_a_session_of_another_model_is_read_but_gets_no_reply_until_its_model_is_changed(
    strict: Server, shared_standin: StandInThread
) -> None:
    session = session_of(strict, "tiny-json", "00000000aa")
    strict.ok("GET", f"/sessions/{session}")
    before, chats = (strict.sessions / f"{session}.json").read_bytes(), len(shared_standin.chats)
    for path in (f"/chat/{session}", f"/chat/{session}/stream"):
        for message in ("And?", None):
            assert refused(strict, "POST", path, {"message": message}) == (400, ALLOWED)
    assert (strict.sessions / f"{session}.json").read_bytes() == before
    assert not list((strict.sessions / ".mochi" / "journals").glob(f"{session}*"))
    assert len(shared_standin.chats) == chats

    strict.ok("PATCH", f"/sessions/{session}", {"model": "tiny"})
    strict.ok("POST", f"/chat/{session}", {"message": "And?"})
    assert [role for role, _ in strict.contents(session)] == ["user", "assistant", "user", "assistant"]


def test_an_allowed_model_that_ollama_does_not_have_can_be_pulled(strict: Server) -> None:
    response = strict.call("POST", "/sessions", {"model": "gone:7b"})
    assert told(response) == (400, "model_not_found", {"model": "gone:7b", "available": ALLOWED})
    assert "ollama pull gone:7b" in response.json()["detail"]["error"]["message"]


def test_while_ollama_is_down_only_allowed_models_are_taken_on_trust(
    strict: Server, shared_standin: StandInThread
) -> None:
    session = session_of(strict, "tiny-json", "00000000bb")
    shared_standin.close()
    try:
        assert strict.ok("POST", "/sessions", {"model": "gone:7b"})["model"] == "gone:7b"
        assert refused(strict, "POST", "/sessions", {"model": "none"})[0] == 400
        assert refused(strict, "POST", f"/chat/{session}", {"message": "hi"})[0] == 400
        assert strict.error("GET", "/models")[:2] == (502, "ollama_unreachable")
    finally:
        shared_standin.start()


def test_where_no_allowed_model_is_there_the_one_to_get_is_told(shared_standin: StandInThread, tmp_path: Path) -> None:
    environment = {"MOCHI_ALLOWED_MODELS": "gone"}
    with Server(tmp_path, shared_standin.url, environment=environment) as server:
        assert server.ok("GET", "/models") == {"models": []}
        response = server.call("POST", "/sessions", {})
        assert told(response) == (400, "model_not_found", {"available": []})
        message = response.json()["detail"]["error"]["message"]
        assert "ollama pull gone" in message
        assert "MOCHI_ALLOWED_MODELS" in message
