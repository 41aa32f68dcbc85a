"""Sessions: create, list, read, change, delete; their messages and their tree."""

import base64
import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.answers import (
    DamagedSession,
    EditedMessage,
    RunningReply,
    SessionPage,
    SessionStatus,
    TruncatedSession,
    WindowStatus,
)
from mochi_server.api.http import etag, invalid_parameter, json_response, raw_response, read_json, state
from mochi_server.api.new_session import DEFAULT_TOOL_SETTINGS, check_length, new_session
from mochi_server.api.preconditions import if_match, refuse_if_match
from mochi_server.api.shapes import ChangeSession, CreateSession, EditMessage, SetHead
from mochi_server.chat.generation import Generation
from mochi_server.chat.prompt import outlook
from mochi_server.domain.clock import timestamp
from mochi_server.domain.context_window import used_tokens, window_reason
from mochi_server.domain.messages import AssistantMessage
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import message_json, messages_json, metadata_json
from mochi_server.errors import InvalidMessageIndex
from mochi_server.ollama.catalog import full_name
from mochi_server.store.index import Listed, Place
from mochi_server.store.listing import ID
from mochi_server.store.sessions import new_id, session_exists

PAGE_MOST = 1000
LONGEST_QUERY = 1000
Rewrite = Callable[[Session, str], Session]
_INDEX = re.compile(r"(?:0|-?[1-9][0-9]{0,8})\Z")
_LIMIT = re.compile(r"[0-9]{1,4}\Z")


async def create(request: Request) -> Response:
    """Make a session."""
    refuse_if_match(request)
    asked = await read_json(request, CreateSession, empty=CreateSession())
    if asked.session_id is not None and state(request)["generations"].running(asked.session_id) is not None:
        # Its file was removed by hand: the reply that still runs is not to end up in another conversation.
        raise session_exists(asked.session_id)
    saved = await state(request)["store"].create(await new_session(request, asked))
    location = f"/api/v1/sessions/{saved.metadata.session_id}"
    return raw_response(metadata_json(saved.metadata), 201, {"Location": location, **etag(saved)})


async def list_sessions(request: Request) -> Response:
    """The sessions, newest first."""
    query = request.query_params
    looked_for, model = query.get("q"), query.get("model")
    if looked_for is not None and len(looked_for) > LONGEST_QUERY:
        raise invalid_parameter("q", f"it has {len(looked_for)} characters, {LONGEST_QUERY} are allowed")
    page = await state(request)["store"].page(
        _limit(query.get("limit")),
        _place(query.get("cursor")),
        saying=looked_for,
        matches=None if model is None else _of_model(model),
    )
    return json_response(
        SessionPage(
            sessions=[msgspec.Raw(one.line) for one in page.sessions],
            next_cursor=_cursor(page.more) if page.more else None,
            total=page.total,
            damaged=[DamagedSession(one.session_id, one.reason) for one in page.damaged],
        )
    )


async def read(request: Request) -> Response:
    """One session with its messages."""
    return session_response(await _shown(request))


async def change(request: Request) -> Response:
    """Change a session's metadata; a running reply goes on as it was asked for."""
    asked = await read_json(request, ChangeSession)
    revisions = if_match(request)
    parts = state(request)
    session_id = request.path_params["session_id"]
    await parts["store"].load(session_id)
    changes: dict[str, Any] = {k: v for k, v in msgspec.to_builtins(asked).items() if k != "context_window_config"}
    if asked.model is not UNSET:
        changes["model"] = await parts["catalog"].choose(asked.model)
    window = {} if asked.context_window_config is UNSET else msgspec.to_builtins(asked.context_window_config)

    def changed(session: Session) -> Session:
        session = parts["generations"].expected(session, revisions)
        return _changed(session, changes, window) if changes or window else session

    # While a reply is made anew, a read shows another session than is saved: this tells what a read does.
    session = parts["generations"].shown(await parts["store"].update(session_id, changed))
    return raw_response(metadata_json(session.metadata), headers=etag(session))


async def delete(request: Request) -> Response:
    """Delete a session; a running reply is stopped first."""
    parts, session_id = state(request), request.path_params["session_id"]
    revisions = if_match(request)
    await parts["store"].load(session_id)
    async with parts["generations"].changing(session_id, revisions, ending=True) as expected:
        expected(await parts["store"].load(session_id))
        await parts["store"].delete(session_id)
    return Response(status_code=204)


async def read_messages(request: Request) -> Response:
    """The messages of a session: its system prompt and the active path."""
    session = await _shown(request)
    return raw_response(b'{"messages":' + messages_json(session) + b"}", headers=etag(session))


async def edit_message(request: Request) -> Response:
    """Say a user message differently; what followed it leaves the active path."""
    asked = await read_json(request, EditMessage)
    check_length(request, asked.content, "$.content")
    index = _index(request)
    saved = await rewritten(request, lambda s, now: s.edit(index, asked.content, new_id(), now))
    return json_response(
        EditedMessage(
            session_id=saved.metadata.session_id,
            message_index=index,
            message_count=saved.metadata.message_count,
            message=msgspec.Raw(message_json(saved.messages[index])),
        ),
        headers=etag(saved),
    )


async def truncate(request: Request) -> Response:
    """Take a message and all after it off the active path."""
    index = _index(request)
    saved = await rewritten(request, lambda s, now: s.truncate(index, now))
    told = TruncatedSession(session_id=saved.metadata.session_id, message_count=saved.metadata.message_count)
    return json_response(told, headers=etag(saved))


async def read_tree(request: Request) -> Response:
    """Every message that was ever in a session, as a tree."""
    session = await _shown(request)
    head = msgspec.json.encode(session.head.message_id if session.head else None)
    tree = b",".join([message_json(message) for message in session.tree()])
    return raw_response(b'{"messages":[' + tree + b'],"head":' + head + b"}", headers=etag(session))


async def set_head(request: Request) -> Response:
    """Make another branch the active path."""
    asked = await read_json(request, SetHead)
    return session_response(await rewritten(request, lambda s, now: s.with_head(asked.message_id, now)))


async def read_status(request: Request) -> Response:
    """What a session is set to, and what goes on in it."""
    session = await _shown(request)
    metadata = session.metadata
    generation = state(request)["generations"].running(metadata.session_id)
    tool_settings = metadata.tool_settings or DEFAULT_TOOL_SETTINGS
    status = SessionStatus(
        session_id=metadata.session_id,
        model=metadata.model,
        message_count=metadata.message_count,
        context_window=await _window_status(request, session),
        execution_policy=tool_settings.get("execution_policy", "always_confirm"),
        system_prompt_file=session.system.source_file if session.system else None,
        summary=metadata.summary,
        summary_model=metadata.summary_model,
        generation=_running(generation) if generation else None,
    )
    return json_response(status, headers=etag(session))


def session_response(session: Session) -> Response:
    """A session as clients get it: the metadata's fields, and beside them the messages."""
    body = metadata_json(session.metadata)[:-1] + b',"messages":' + messages_json(session) + b"}"
    return raw_response(body, headers=etag(session))


async def rewritten(request: Request, rewrite: Rewrite) -> Session:
    """The session with its history changed and saved. Raises SessionBusy while a reply is being generated."""
    parts, session_id = state(request), request.path_params["session_id"]
    revisions = if_match(request)
    # What cannot be done changes nothing, and ends no reply that nobody listens to.
    parts["generations"].check_free(session_id)
    rewrite(await parts["store"].load(session_id), timestamp(datetime.now(UTC)))
    async with parts["generations"].changing(session_id, revisions) as expected:
        return await parts["store"].update_held(
            session_id, lambda session: rewrite(expected(session), timestamp(datetime.now(UTC)))
        )


async def _shown(request: Request) -> Session:
    return await state(request)["generations"].load(request.path_params["session_id"])


def _changed(session: Session, changes: dict[str, Any], window: dict[str, Any]) -> Session:
    if window:
        changes = {**changes, "context_window_config": {**(session.metadata.context_window_config or {}), **window}}
    return session.with_metadata(timestamp(datetime.now(UTC)), **changes)


def _running(generation: Generation) -> RunningReply:
    position = generation.ticket.position
    return RunningReply(
        generation_id=generation.id,
        phase=generation.phase,
        age_ms=generation.age_ms(),
        position=UNSET if position is None else position,
    )


async def _window_status(request: Request, session: Session) -> WindowStatus:
    metadata, windows = session.metadata, state(request)["generations"].windows
    config = metadata.context_window_config or {}
    known = await windows.known_now(metadata.model)
    next_turn = outlook(session, known, windows.factor(metadata.model))
    last = next((m for m in reversed(session.path) if isinstance(m, AssistantMessage)), None)
    window, estimated = next_turn.window, next_turn.estimated_tokens
    return WindowStatus(
        dynamic_enabled=config.get("dynamic_enabled", True),
        current_window=window,
        usage_tokens=used_tokens(last) if last else 0,
        estimated_tokens=estimated,
        remaining_tokens=None if window is None else max(window - estimated, 0),
        reason=window_reason(fixed=next_turn.fixed, named=known.named is not None and not next_turn.fixed),
        model_max_context=known.limit,
        manual_override=config.get("manual_override", False),
    )


def _index(request: Request) -> int:
    text = request.path_params["index"]
    if not _INDEX.match(text):
        raise InvalidMessageIndex(f"{text[:40]!r} is no message's index: they count from 0.", {"index": text[:40]})
    return int(text)


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_MOST
    if not _LIMIT.match(text) or not 1 <= int(text) <= PAGE_MOST:
        raise invalid_parameter("limit", f"{text[:40]!r} is not a number from 1 to {PAGE_MOST}")
    return int(text)


def _of_model(model: str) -> Callable[[Listed], bool]:
    name = full_name(model)
    return lambda one: full_name(one.model) == name


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode("\n".join(place).encode()).decode()


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    with contextlib.suppress(ValueError):
        # From the right: a time that somebody wrote by hand may hold anything.
        updated_at, session_id = base64.b64decode(cursor, b"-_", validate=True).decode().rsplit("\n", 1)
        if ID.match(session_id):
            return updated_at, session_id
    raise invalid_parameter("cursor", "it is not the next_cursor of an earlier answer")
