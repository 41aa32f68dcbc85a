"""A session's system prompt."""

from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.http import etag, json_response, read_json
from mochi_server.api.new_session import prompt_text, system_message
from mochi_server.api.sessions import rewritten
from mochi_server.api.shapes import SetSystemPrompt
from mochi_server.domain.session import Session
from mochi_server.errors import ValidationFailed


async def set_system_prompt(request: Request) -> Response:
    """Give the session a system prompt; the one before is kept among the detached messages."""
    asked = await read_json(request, SetSystemPrompt)
    content = prompt_text(request, asked.content, asked.source_file, "$.content", "$.source_file")
    if content is None:
        raise ValidationFailed("Say the system prompt's text in `content`.", {"path": "$.content"})

    def with_prompt(session: Session, now: str) -> Session:
        return session.with_system(system_message(content, asked.source_file, now), now)

    saved = await rewritten(request, with_prompt)
    return json_response(
        {"content": content, "source_file": asked.source_file, "message_index": 0}, headers=etag(saved)
    )


async def remove_system_prompt(request: Request) -> Response:
    """Go on without a system prompt."""
    saved = await rewritten(request, lambda s, now: s if s.system is None else s.with_system(None, now))
    return Response(status_code=204, headers=etag(saved))
