"""What OpenAI's clients ask for: chat completions, whole or streamed, and the models."""

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.http import correlation_id, json_response, read_json, state
from mochi_server.api.openai_answer import Chunks, completion, head, whole_reply
from mochi_server.api.openai_request import ask_for
from mochi_server.api.openai_shapes import ChatCompletion
from mochi_server.api.preconditions import checked_key, idempotency_key, if_match, refuse_if_match
from mochi_server.api.replies import session_headers, whole
from mochi_server.api.sse import EventStream
from mochi_server.chat.generation import Listener
from mochi_server.chat.repeats import Key
from mochi_server.errors import ModelNotFound, ModelPathNotFound
from mochi_server.ollama.catalog import Model


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model as OpenAI's clients see it: its name, since when it is there (seconds since 1970), and whose it is."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelCards(msgspec.Struct, frozen=True, kw_only=True):
    """The models that can chat, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


async def chat_completions(request: Request) -> Response:
    """The answer to the conversation in the request; with `X-Session-Id` to what it adds to that session's."""
    asked = await read_json(request, ChatCompletion)
    session_id = request.headers.get("x-session-id")
    revisions, key_sent = if_match(request), checked_key(request)
    if session_id is None:
        refuse_if_match(request, "Without X-Session-Id nothing is kept, and nothing has a revision.")
    ask = await ask_for(request, asked, in_session=session_id is not None)
    parts, correlation = state(request), correlation_id(request.scope)
    if session_id is None:
        listener = await parts["generations"].send_unkept(ask, correlation)
    else:
        key: Key | None = None
        if key_sent is not None:
            # A body with images is large: its digest takes a while.
            key = await parts["store"].threads.run(idempotency_key, request, session_id, asked)
        listener = await parts["generations"].send(session_id, ask, correlation, revisions, key)
    return await (_streamed if asked.stream else _whole)(request, asked, listener, kept=session_id is not None)


async def _streamed(request: Request, asked: ChatCompletion, listener: Listener, *, kept: bool) -> Response:
    heartbeat = state(request)["settings"].heartbeat_seconds
    wants_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    chunks = Chunks(listener, head(listener, asked.model), patience=heartbeat, include_usage=wants_usage, kept=kept)
    headers = session_headers(listener, listener.revision) if kept else {}
    return EventStream(listener, heartbeat, headers, chunks)


async def _whole(request: Request, asked: ChatCompletion, listener: Listener, *, kept: bool) -> Response:
    answer = head(listener, asked.model)
    outcome = await whole(request, listener)
    message = whole_reply(outcome)
    headers: dict[str, str] = {}
    if kept:
        headers = session_headers(listener, outcome.revision or listener.revision)
        headers["X-Message-Id"] = message.message_id
    return json_response(completion(answer, message), headers=headers)


async def list_models(request: Request) -> Response:
    """The models that can chat, newest first, as OpenAI's clients read them."""
    models = await state(request)["catalog"].models()
    return json_response(ModelCards(data=[_card(model) for model in models]))


async def read_model(request: Request) -> Response:
    """One model by its name, as OpenAI's clients read it."""
    try:
        model = await state(request)["catalog"].find(request.path_params["name"])
    except ModelNotFound as error:
        raise ModelPathNotFound(error.message, error.details) from None
    return json_response(_card(model))


def _card(model: Model) -> ModelCard:
    namespace, slash, _ = model.name.rpartition("/")
    return ModelCard(
        id=model.name, created=max(int(model.modified_at.timestamp()), 0), owned_by=namespace if slash else "library"
    )
