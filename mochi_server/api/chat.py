"""Chat: send a message, or answer anew; whole or as a stream, in a session or in a new one; and stop."""

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.http import correlation_id, etag, json_response, read_json, state
from mochi_server.api.new_session import check_length, new_session
from mochi_server.api.preconditions import if_match, refuse_idempotency_key, refuse_if_match
from mochi_server.api.shapes import ChatRequest, CreateSession, FirstChatRequest, StopRequest
from mochi_server.api.sse import EventStream
from mochi_server.chat.generation import Outcome, Subscription, complete_event
from mochi_server.chat.turn import Ask
from mochi_server.domain.session_file import message_json
from mochi_server.errors import ValidationFailed


async def send(request: Request) -> Response:
    """The whole reply to a message in a session."""
    return await _whole(request, await _sent(request))


async def stream(request: Request) -> Response:
    """The reply to a message in a session, as a stream of events."""
    return _stream(request, await _sent(request))


async def send_first(request: Request) -> Response:
    """The whole reply to the first message of a new session."""
    return await _whole(request, await _sent_first(request))


async def stream_first(request: Request) -> Response:
    """The reply to the first message of a new session, as a stream of events."""
    return _stream(request, await _sent_first(request))


async def stop(request: Request) -> Response:
    """End the running reply, keeping what it had."""
    asked = await read_json(request, StopRequest, empty=StopRequest())
    revisions = if_match(request)
    parts, session_id = state(request), request.path_params["session_id"]
    if revisions is not None:
        parts["generations"].expected(await parts["store"].load(session_id), revisions)
    # Before the file is looked at: a reply can be stopped when somebody has damaged or removed that.
    stopped = await parts["generations"].stop(session_id, asked.generation_id)
    return json_response(stopped, headers=etag(await parts["store"].load(session_id)))


async def _sent(request: Request) -> Subscription:
    asked = await read_json(request, ChatRequest)
    refuse_idempotency_key(request)
    session_id, revisions = request.path_params["session_id"], if_match(request)
    generations = state(request)["generations"]
    return await generations.send(session_id, _ask(request, asked), correlation_id(request.scope), revisions)


async def _sent_first(request: Request) -> Subscription:
    asked = await read_json(request, FirstChatRequest)
    refuse_idempotency_key(request)
    refuse_if_match(request)
    ask = _ask(request, asked)
    session = await new_session(request, CreateSession(model=asked.model, system_prompt=asked.system_prompt))
    return await state(request)["generations"].send_first(session, ask, correlation_id(request.scope))


def _ask(request: Request, asked: ChatRequest) -> Ask:
    if asked.message is not None:
        check_length(request, asked.message, "$.message")
    if asked.images:
        raise ValidationFailed("This version cannot take images yet. Leave `images` out.", {"path": "$.images"})
    if asked.history_limit == "fit":
        raise ValidationFailed(
            "This version cannot fit a history to the window yet. Give a number of messages.",
            {"path": "$.history_limit"},
        )
    return Ask(
        message=asked.message,
        think=asked.think,
        options=asked.options.values() if asked.options else {},
        format=asked.format,
        keep_alive=asked.keep_alive,
        on_disconnect=asked.on_disconnect or state(request)["settings"].on_disconnect,
        history_limit=asked.history_limit,
    )


def _stream(request: Request, subscription: Subscription) -> Response:
    heartbeat = state(request)["settings"].heartbeat_seconds
    return EventStream(subscription, heartbeat, _headers(subscription, subscription.generation.revision))


async def _whole(request: Request, subscription: Subscription) -> Response:
    """Wait for the reply's end. A client that leaves stops listening, as with a stream."""
    outcome = Outcome()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, request, group.cancel_scope)
            outcome = await subscription.generation.ended()
            group.cancel_scope.cancel()
    finally:
        subscription.close()
    headers = _headers(subscription, outcome.revision or subscription.generation.revision)
    if outcome.failure is not None:
        outcome.failure.headers.update(headers)
        raise outcome.failure
    message = outcome.message
    return json_response(
        {
            "session_id": subscription.generation.session_id,
            "message": msgspec.Raw(message_json(message)) if message else None,
            "tool_calls_executed": [],
            "context_window": complete_event(message).context_window if message else None,
        },
        headers=headers,
    )


async def _until_gone(request: Request, waiting: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    waiting.cancel()


def _headers(subscription: Subscription, revision: str) -> dict[str, str]:
    """Which session it is, and its revision with what is saved by now."""
    return {"X-Session-Id": subscription.generation.session_id, "ETag": f'"{revision}"'}
