"""What is kept of a session's JSON: whatever was done to the session, its file and its request are as without it."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test

from mochi_server.domain import elements
from mochi_server.domain.elements import KEPT_FROM, MOST_PARTS, Elements
from mochi_server.domain.messages import Message
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import message_json, messages_json, metadata_json, sealed
from mochi_server.domain.tokens import message_tokens, path_tokens
from mochi_server.ollama.wire import ChatRequest, encode_request, wire_element, wire_message
from tests.domain.made_up import MESSAGES, SOME, TEXT, sessions
from tests.domain.talk import at, conversation, new_session, reply, system, user
from tests.domain.test_session_tree import Talking


@pytest.fixture
def kept_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "KEPT_FROM", 2)


def plainly_sealed(session: Session) -> tuple[str, bytes]:
    """A session's revision and file, encoded in one piece."""
    bare = metadata_json(msgspec.structs.replace(session.metadata, revision=""))
    messages = b",".join(map(message_json, session.messages))
    detached = b",".join(map(message_json, session.detached))
    unknown = b"" if session.unknown is msgspec.UNSET else b"," + msgspec.json.encode(session.unknown)[1:-1]
    revision = hashlib.blake2b(b"\n".join((bare, messages, detached, unknown)), digest_size=8).hexdigest()
    metadata = metadata_json(msgspec.structs.replace(session.metadata, revision=revision))
    parts = (b'{"metadata":', metadata, b',"messages":[', messages, b'],"detached":[', detached, b"]", unknown, b"}")
    return revision, msgspec.json.format(b"".join(parts), indent=2) + b"\n"


def check(session: Session) -> None:
    """Its file, its messages for clients, its request to Ollama and its tokens are as without Elements."""
    for keep in (True, False):
        saved, data = sealed(session, keep=keep)
        assert (saved.metadata.revision, data) == plainly_sealed(session)
    assert messages_json(session) == b"[" + b",".join(map(message_json, session.messages)) + b"]"
    assert path_tokens(session.path_elements, session.path) == list(map(message_tokens, session.path))
    assert session.has_images == any(getattr(message, "images", None) for message in session.path)
    if session.path:
        kept = session.path_elements.of(session.path, wire_element, keep=True)
        assert request(session.path, kept) == request(session.path)


def request(path: tuple[Message, ...], elements: tuple[bytes, ...] | None = None) -> bytes:
    """A request with a path, made of these elements or else plainly."""
    messages = [wire_message(message) for message in path] if elements is None else elements
    return b"".join(encode_request(ChatRequest(model='"messages":[]', messages=messages, truncate=False)))


class Keeping(Talking):
    """A session of which everything is kept, all the time."""

    @invariant()
    def nobody_can_tell_what_was_kept(self) -> None:
        check(self.session)


@pytest.mark.usefixtures("kept_from_two")
def test_whatever_is_done_to_a_session_nobody_can_tell_what_was_kept() -> None:
    run_state_machine_as_test(Keeping, settings=SOME)


@pytest.mark.usefixtures("kept_from_two")
def test_any_session_is_written_as_without_it() -> None:
    @SOME
    @given(sessions(), st.lists(MESSAGES, max_size=4), TEXT)
    def written(session: Session, added: list[Message], text: str) -> None:
        check(session)
        longer = session.extend(added, at(1))
        check(longer)
        check(session)
        check(longer.with_system(system(text), at(2)).with_metadata(at(3), title=text))

    written()


@pytest.mark.parametrize("count", [KEPT_FROM - 2, KEPT_FROM + 2, KEPT_FROM + 3 * MOST_PARTS])
def test_a_long_session_is_written_as_without_it(count: int) -> None:
    session = new_session()
    for number in range(count):
        session = session.append(user(f"{number:010x}"), at(number))
        sealed(session, keep=True)
        if number % 50 == 49:
            check(session)
    check(session.truncate(count - 1, at(count)))
    check(session.truncate(5, at(count)))


@pytest.mark.usefixtures("kept_from_two")
def test_a_message_that_equals_the_one_before_is_written_as_it_is_itself() -> None:
    session = conversation("q").append(msgspec.structs.replace(reply("a"), options={"top_p": 1}), at(1))
    check(session)
    other = msgspec.structs.replace(session.path[1], options={"top_p": 1.0})
    assert session.path[1] == other
    check(msgspec.structs.replace(session, path=(session.path[0], other)))


@pytest.mark.usefixtures("kept_from_two")
def test_only_what_is_new_is_encoded() -> None:
    encoded: list[str] = []

    def element(message: Message) -> bytes:
        encoded.append(message.message_id)
        return message.content.encode()

    kept, path = Elements(), conversation("q", "a", "q2").path
    kept.of(path, element)
    assert kept.size == 0
    encoded.clear()
    kept.of(path, element, keep=True)
    kept.of((*path, reply("a2")), element)
    assert encoded == ["q", "a", "q2", "a2"]
    assert kept.size == len("qaq2a2")


def test_of_a_short_session_nothing_is_kept() -> None:
    session = sealed(conversation("q", "a"), keep=True)[0]
    path_tokens(session.path_elements, session.path)
    assert session.path_elements.size == 0
