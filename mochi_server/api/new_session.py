"""A session that is not saved yet, from what a request says of it."""

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from mochi_server.api.http import state
from mochi_server.api.shapes import CreateSession
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import SystemMessage
from mochi_server.domain.session import Metadata, Session
from mochi_server.errors import PayloadTooLarge, ValidationFailed
from mochi_server.store.listing import ID
from mochi_server.store.sessions import new_id

DEFAULT_TOOL_SETTINGS: dict[str, Any] = {"tools": [], "execution_policy": "always_confirm", "tool_policies": {}}
_DEFAULT_AGENT_SETTINGS: dict[str, Any] = {"enabled_agents": []}


async def new_session(request: Request, asked: CreateSession) -> Session:
    """The session that was asked for. Raises ModelNotFound, PromptNotFound, and what asking Ollama raises."""
    if asked.session_id is not None and not ID.match(asked.session_id):
        raise ValidationFailed(
            "A session_id is 10 lowercase hex characters. Leave it out to have one made.", {"path": "$.session_id"}
        )
    content = await prompt_text(
        request, asked.system_prompt, asked.system_prompt_source_file, "$.system_prompt", "$.system_prompt_source_file"
    )
    now = timestamp(datetime.now(UTC))
    metadata = Metadata(
        session_id=asked.session_id or new_id(),
        model=await state(request)["catalog"].choose(asked.model),
        title=asked.title,
        created_at=now,
        updated_at=now,
        options=asked.options.values() if asked.options else None,
        history_limit=asked.history_limit,
        tool_settings=DEFAULT_TOOL_SETTINGS if asked.tool_settings is None else asked.tool_settings,
        agent_settings=_DEFAULT_AGENT_SETTINGS if asked.agent_settings is None else asked.agent_settings,
    )
    session = Session(metadata=metadata)
    if content is None:
        return session
    return session.with_system(system_message(content, asked.system_prompt_source_file, now), now)


async def prompt_text(
    request: Request, content: str | None, source_file: str | None, path: str, file_path: str
) -> str | None:
    """The text of a system prompt: the one given, whose file name is then a label, else that of the file.

    The paths are where the two stand in the request. Raises PromptNotFound, PayloadTooLarge, StorageUnavailable.
    """
    if content is None and source_file is not None:
        content, path = await state(request)["prompts"].read(source_file), file_path
    if content is not None:
        check_length(request, content, path)
    return content


def system_message(content: str, source_file: str | None, now: str) -> SystemMessage:
    """A system prompt as a message."""
    return SystemMessage(content=content, message_id=new_id(), timestamp=now, source_file=source_file)


def check_length(request: Request, text: str, path: str) -> None:
    """Raise PayloadTooLarge for a message over the limit."""
    limit = state(request)["settings"].max_message_chars
    if len(text) > limit:
        raise PayloadTooLarge(
            f"The text has {len(text)} characters, {limit} are allowed. Send less, or raise MOCHI_MAX_MESSAGE_CHARS.",
            {"path": path, "limit_characters": limit},
        )
