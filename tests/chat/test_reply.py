"""A reply as it comes about, without a server: what the message at its end has."""

from mochi_server.chat.reply import ReplyInProgress
from mochi_server.domain.messages import AssistantMessage
from mochi_server.ollama.wire import Chunk, ChunkMessage

FUNCTION = {"name": "f", "arguments": {"a": 1}}


def test_tool_calls_keep_ollamas_ids_and_get_their_own_where_it_gave_none() -> None:
    reply = ReplyInProgress(0)
    calls = [{"id": "call_its", "function": FUNCTION}, {"function": FUNCTION}, {"id": "", "function": FUNCTION}]
    for call in calls:
        reply.add(Chunk(message=ChunkMessage(tool_calls=[call])), 1)
    begun = AssistantMessage(content="", message_id="0123456789", timestamp="2026-01-01T00:00:00Z")

    made = reply.measured(begun, 2).tool_calls or []

    assert [call["function"] for call in made] == [FUNCTION] * 3
    assert [call["id"] for call in made] == ["call_its", "call_01234567891", "call_01234567892"]
    assert reply.measured(begun, 3).tool_calls == made
