"""A streamed reply."""

from tests.server import Server, joined, names
from tests.standin_thread import StandInThread


def test_a_message_is_answered_in_deltas_and_both_are_kept(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    events = server.events(f"/chat/{session}/stream", {"message": "hi"})
    assert names(events) == ["content_delta", "message_complete", "done"]
    said = "Hello there! I am a tiny model, and this is all I say."
    assert joined(events) == said
    assert server.contents(session) == [("user", "hi"), ("assistant", said)]
    assert len(standin.chats) == 1
