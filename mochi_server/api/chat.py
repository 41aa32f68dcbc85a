"""Chat: send a message, or answer anew; whole or as a stream, in a session or in a new one; and stop."""

import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.answers import WholeReply
from mochi_server.api.format_schema import check_format
from mochi_server.api.http import correlation_id, etag, invalid_parameter, json_response, read_json, state
from mochi_server.api.images import sent_images
from mochi_server.api.new_session import check_length, new_session
from mochi_server.api.preconditions import idempotency_key, if_match, refuse_if_match
from mochi_server.api.replies import session_headers, whole
from mochi_server.api.shapes import ChatRequest, CreateSession, FirstChatRequest, StopRequest
from mochi_server.api.sse import EventStream
from mochi_server.chat.generation import Listener, complete_event
from mochi_server.chat.joining import Known
from mochi_server.chat.prompt import Ask
from mochi_server.chat.repeats import Key
from mochi_server.domain.session_file import message_json
from mochi_server.errors import ValidationFailed
from mochi_server.store.keys import SERVER

EVENT_ID = re.compile(r"(?P<generation>[0-9a-f]{10})-(?P<number>[1-9][0-9]{0,9})\Z")


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


async def listen(request: Request) -> Response:
    """The running reply, or the last one once more, from its first event on or behind one that is known."""
    after = _known_event(request)
    listener = await state(request)["generations"].joining.last(request.path_params["session_id"], after)
    if listener is None:
        return Response(status_code=204)  # which ends a browser's EventSource
    return _stream(request, listener)


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


async def _sent(request: Request) -> Listener:
    asked = await read_json(request, ChatRequest)
    await check_format(asked.format)
    session_id = request.path_params["session_id"]
    key = await _key(request, session_id, asked)
    revisions = if_match(request)
    ask = await _ask(request, asked)
    return await state(request)["generations"].send(session_id, ask, correlation_id(request.scope), revisions, key)


async def _sent_first(request: Request) -> Listener:
    asked = await read_json(request, FirstChatRequest)
    await check_format(asked.format)
    refuse_if_match(request)
    key = await _key(request, SERVER, asked)
    ask = await _ask(request, asked)
    wanted = CreateSession(model=asked.model, system_prompt=asked.system_prompt)
    return await state(request)["generations"].send_first(
        lambda: new_session(request, wanted), ask, correlation_id(request.scope), key
    )


async def _key(request: Request, scope: str, asked: ChatRequest) -> Key | None:
    """The request's `Idempotency-Key`. A body with images is large: its digest takes a while."""
    if not asked.images:
        return idempotency_key(request, scope, asked)
    return await state(request)["store"].threads.run(idempotency_key, request, scope, asked)


def _known_event(request: Request) -> Known | None:
    """The last event that the client has: the header wins over `after`."""
    header = request.headers.get("last-event-id")
    name, text = ("after", request.query_params.get("after")) if header is None else ("Last-Event-ID", header)
    if text is None:
        return None
    match = EVENT_ID.match(text)
    if match is None:
        raise invalid_parameter(name, f"{text[:60]!r} is no event's id, such as 1970cc586e-12")
    return Known(generation_id=match["generation"], number=int(match["number"]), told_in=name)


async def _ask(request: Request, asked: ChatRequest) -> Ask:
    if asked.message is not None:
        check_length(request, asked.message, "$.message")
    if asked.message == "" and not asked.images:
        raise ValidationFailed(
            "`message` must not be empty. Leave it out to have the last message answered anew.", {"path": "$.message"}
        )
    if asked.message is None and asked.images:
        raise ValidationFailed(
            "`images` go with a `message`, which may be empty. What is answered anew has its images already.",
            {"path": "$.images"},
        )
    return Ask(
        message=asked.message,
        images=await sent_images(request, {f"images[{n}]": text for n, text in enumerate(asked.images or ())}),
        think=asked.think,
        options=asked.options.values() if asked.options else {},
        format=asked.format,
        keep_alive=asked.keep_alive,
        on_disconnect=asked.on_disconnect or state(request)["settings"].on_disconnect,
        history_limit=asked.history_limit,
    )


def _stream(request: Request, listener: Listener) -> Response:
    heartbeat = state(request)["settings"].heartbeat_seconds
    return EventStream(listener, heartbeat, session_headers(listener, listener.revision))


async def _whole(request: Request, listener: Listener) -> Response:
    outcome = await whole(request, listener)
    headers = session_headers(listener, outcome.revision or listener.revision)
    if outcome.failure is not None:
        outcome.failure.headers.update(headers)
        raise outcome.failure
    message = outcome.message
    return json_response(
        WholeReply(
            session_id=listener.session_id,
            message=msgspec.Raw(message_json(message)) if message else None,
            context_window=complete_event(message).context_window if message else None,
        ),
        headers=headers,
    )
