"""Every route, in one table: what is served, what is documented, and what the tests hold every answer to."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from mochi_server import errors
from mochi_server.api import answers, chat, docs, health, images, metrics, models, openai, prompts, sessions, shapes
from mochi_server.api import parameters as p
from mochi_server.api.openai_answer import Chunk, Completion
from mochi_server.api.openai_shapes import ChatCompletion
from mochi_server.api.route import HTML, METRICS_TEXT, OPENAI, STREAM, Answer, Handler, Kinds, Route
from mochi_server.chat.generation import Stopped
from mochi_server.domain.events import Event
from mochi_server.domain.images import MEDIA_TYPES
from mochi_server.domain.messages import AssistantMessage, UserMessage
from mochi_server.domain.session import Metadata
from mochi_server.store.index import Summary

# What may go wrong.
BODY: Kinds = (errors.InvalidJson, errors.ValidationFailed, errors.PayloadTooLarge)
DISK: Kinds = (errors.StorageFull, errors.StorageUnavailable)
OLLAMA: Kinds = (
    errors.OllamaUnreachable,
    errors.OllamaFailed,
    errors.OllamaBusy,
    errors.OllamaTimeout,
    errors.OllamaRejected,
)
LOADING: Kinds = (errors.SessionNotFound, errors.SessionDamaged, errors.StorageUnavailable)
LISTING: Kinds = (errors.ValidationFailed, errors.StorageUnavailable)
MODEL_CHOOSING: Kinds = (errors.ModelNotFound, *OLLAMA)
MODEL_READING: Kinds = (errors.ModelPathNotFound, *OLLAMA)
CHANGING: Kinds = (errors.RevisionConflict, *MODEL_CHOOSING, *LOADING, *DISK, *BODY)
MAKING: Kinds = (errors.PromptNotFound, errors.SessionExists, *MODEL_CHOOSING, errors.RevisionConflict, *DISK, *BODY)
FREE: Kinds = (errors.SessionBusy, errors.ShuttingDown)
REWRITING: Kinds = (errors.RevisionConflict, errors.ValidationFailed, *FREE, *LOADING, *DISK)
TRUNCATING: Kinds = (errors.InvalidMessageIndex, *REWRITING)
EDITING: Kinds = (*TRUNCATING, *BODY)
HEAD_SETTING: Kinds = (errors.MessageNotFound, *REWRITING, *BODY)
ITS_SETTING: Kinds = (errors.PromptNotFound, *REWRITING, *BODY)
PROMPT_READING: Kinds = (errors.PromptNotFound, errors.StorageUnavailable)
PROMPT_REMOVING: Kinds = (errors.PromptNotFound, *DISK)
PROMPT_CHANGING: Kinds = (*PROMPT_REMOVING, *BODY)
PROMPT_MAKING: Kinds = (errors.PromptExists, *DISK, *BODY)
UNABLE: Kinds = (errors.CapabilityMissing, errors.ImageNotFound, errors.QueueFull, errors.ShuttingDown)
REPEATED: Kinds = (errors.IdempotencyMismatch, errors.IdempotencyExpired)
BEGINNING: Kinds = (errors.EmptyHistory, *UNABLE, *REPEATED, *MODEL_CHOOSING)
SENDING: Kinds = (*BODY, *REWRITING, *BEGINNING)
FIRST: Kinds = (*BODY, *DISK, *BEGINNING, errors.SessionDamaged, errors.RevisionConflict)
REPLYING: Kinds = (errors.ContextOverflow, *UNABLE, *MODEL_CHOOSING, *LOADING, *DISK, errors.InternalError)
LISTENING: Kinds = (errors.NoGeneration, errors.ValidationFailed, *LOADING)
STOPPING: Kinds = (errors.RevisionConflict, *LOADING, *BODY)
IMAGE_READING: Kinds = (errors.ImageNotFound, errors.StorageUnavailable)

# What is answered.
HEALTH = (Answer(shape=answers.Health),)
READY = (Answer(shape=answers.Ready), Answer(shape=answers.NotReady, status=503))
MODEL_LIST = (Answer(shape=answers.ModelList),)
MODEL = (Answer(shape=answers.ModelInfo),)
MADE = (Answer(shape=Metadata, status=201, headers=(p.LOCATION, p.ETAG)),)
CHANGED = (Answer(shape=Metadata, headers=(p.ETAG,)),)
PAGE = (Answer(shape=answers.SessionPage[Summary]),)
WHOLE_SESSION = (Answer(shape=answers.WholeSession, headers=(p.ETAG,)),)
MESSAGES = (Answer(shape=answers.MessageList, headers=(p.ETAG,)),)
EDITED = (Answer(shape=answers.EditedMessage[UserMessage], headers=(p.ETAG,)),)
TRUNCATED = (Answer(shape=answers.TruncatedSession, headers=(p.ETAG,)),)
ITS = (Answer(shape=answers.SessionPrompt, headers=(p.ETAG,)),)
ITS_GONE = (Answer(status=204, headers=(p.ETAG,)),)
STATUS = (Answer(shape=answers.SessionStatus, headers=(p.ETAG,)),)
TREE = (Answer(shape=answers.MessageTree, headers=(p.ETAG,)),)
PROMPT_LIST = (Answer(shape=answers.PromptList),)
PROMPT_FILE = (Answer(shape=answers.PromptFile),)
PROMPT_MADE = (Answer(shape=answers.PromptFile, status=201, headers=(p.LOCATION,)),)
REPLY = (Answer(shape=answers.WholeReply[AssistantMessage], headers=(p.ETAG, p.SESSION), told=REPLYING),)
EVENTS = (Answer(shape=Event, media_types=STREAM, headers=(p.ETAG, p.SESSION), told=REPLYING),)
HEARD = (*EVENTS, Answer(status=204))
STOPPED = (Answer(shape=Stopped, headers=(p.ETAG,)),)
KEPT_REPLY = (p.ETAG, p.SESSION, p.MESSAGE)
COMPLETION = (
    Answer(shape=Completion, sometimes=KEPT_REPLY, told=(*REPLYING, errors.ReplyStopped)),
    Answer(shape=Chunk, media_types=STREAM, sometimes=KEPT_REPLY[:2], told=(*REPLYING, errors.ReplyStopped)),
)
CARDS = (Answer(shape=openai.ModelCards),)
CARD = (Answer(shape=openai.ModelCard),)
IMAGE = (Answer(shape=bytes, media_types=MEDIA_TYPES, headers=(p.CONTENT_ETAG, p.CACHE_CONTROL)),)
METRICS = (Answer(shape=str, media_types=METRICS_TEXT),)
GONE = (Answer(status=204),)
KEPT = Answer(status=304, headers=(p.CONTENT_ETAG, p.CACHE_CONTROL))
DOCUMENT = (Answer(shape=dict[str, Any], headers=KEPT.headers), KEPT)
DOCS = (Answer(shape=str, media_types=HTML, headers=(*KEPT.headers, p.CONTENT_POLICY)), KEPT)

MATCH = (p.IF_MATCH,)
KEYED = (p.IDEMPOTENCY_KEY,)
MATCH_KEYED = (*MATCH, *KEYED)
IN_SESSION = (p.IN_SESSION, *MATCH_KEYED)
KNOWN = (p.IF_NONE_MATCH,)

MODEL_NAMED = "/api/v1/models/{name:path}"
SESSIONS = "/api/v1/sessions"
SESSION = f"{SESSIONS}/{{session_id}}"
MESSAGE = f"{SESSION}/messages/{{index}}"
ITS_PROMPT = f"{SESSION}/system-prompt"
PROMPTS = "/api/v1/system-prompts"
PROMPT = f"{PROMPTS}/{{filename:path}}"
CHAT = "/api/v1/chat/{session_id}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", health.health, "Health", HEALTH, keyless=True),
    Route("GET", "/health/ready", health.ready, "Health", READY, keyless=True),
    Route("GET", "/api/v1/health", health.health, "Health", HEALTH, keyless=True),
    Route("GET", "/api/v1/health/ready", health.ready, "Health", READY, keyless=True),
    Route("GET", "/api/v1/models", models.list_models, "Models", MODEL_LIST, OLLAMA),
    Route("GET", MODEL_NAMED, models.read_model, "Models", MODEL, MODEL_READING),
    Route("POST", SESSIONS, sessions.create, "Sessions", MADE, MAKING, shapes.CreateSession, body_optional=True),
    Route("GET", SESSIONS, sessions.list_sessions, "Sessions", PAGE, LISTING, query=p.PAGE),
    Route("GET", SESSION, sessions.read, "Sessions", WHOLE_SESSION, LOADING),
    Route("PATCH", SESSION, sessions.change, "Sessions", CHANGED, CHANGING, shapes.ChangeSession, MATCH),
    Route("DELETE", SESSION, sessions.delete, "Sessions", GONE, REWRITING, headers=MATCH),
    Route("GET", f"{SESSION}/messages", sessions.read_messages, "Sessions", MESSAGES, LOADING),
    Route("PUT", MESSAGE, sessions.edit_message, "Sessions", EDITED, EDITING, shapes.EditMessage, MATCH),
    Route("DELETE", MESSAGE, sessions.truncate, "Sessions", TRUNCATED, TRUNCATING, headers=MATCH),
    Route("PUT", ITS_PROMPT, prompts.set_system_prompt, "Sessions", ITS, ITS_SETTING, shapes.SetSystemPrompt, MATCH),
    Route("DELETE", ITS_PROMPT, prompts.remove_system_prompt, "Sessions", ITS_GONE, REWRITING, headers=MATCH),
    Route("GET", f"{SESSION}/status", sessions.read_status, "Sessions", STATUS, LOADING),
    Route("GET", f"{SESSION}/tree", sessions.read_tree, "Sessions", TREE, LOADING),
    Route("PUT", f"{SESSION}/head", sessions.set_head, "Sessions", WHOLE_SESSION, HEAD_SETTING, shapes.SetHead, MATCH),
    Route("GET", PROMPTS, prompts.list_prompts, "System prompts", PROMPT_LIST, (errors.StorageUnavailable,)),
    Route("POST", PROMPTS, prompts.create_prompt, "System prompts", PROMPT_MADE, PROMPT_MAKING, shapes.NewPrompt),
    Route("GET", PROMPT, prompts.read_prompt, "System prompts", PROMPT_FILE, PROMPT_READING),
    Route("PUT", PROMPT, prompts.replace_prompt, "System prompts", PROMPT_FILE, PROMPT_CHANGING, shapes.ReplacePrompt),
    Route("DELETE", PROMPT, prompts.delete_prompt, "System prompts", GONE, PROMPT_REMOVING),
    Route("POST", "/api/v1/chat", chat.send_first, "Chat", REPLY, FIRST, shapes.FirstChatRequest, KEYED),
    Route("POST", "/api/v1/chat/stream", chat.stream_first, "Chat", EVENTS, FIRST, shapes.FirstChatRequest, KEYED),
    Route("POST", CHAT, chat.send, "Chat", REPLY, SENDING, shapes.ChatRequest, MATCH_KEYED),
    Route("POST", f"{CHAT}/stream", chat.stream, "Chat", EVENTS, SENDING, shapes.ChatRequest, MATCH_KEYED),
    Route("GET", f"{CHAT}/stream", chat.listen, "Chat", HEARD, LISTENING, None, (p.LAST_EVENT_ID,), (p.AFTER,)),
    Route("POST", f"{CHAT}/stop", chat.stop, "Chat", STOPPED, STOPPING, shapes.StopRequest, MATCH, body_optional=True),
    Route("GET", "/api/v1/images/{sha256}", images.read, "Images", IMAGE, IMAGE_READING),
    Route("GET", "/metrics", metrics.read, "Metrics", METRICS),
    Route(
        *("POST", "/v1/chat/completions", openai.chat_completions, "OpenAI", COMPLETION, SENDING, ChatCompletion),
        headers=IN_SESSION,
        dialect=OPENAI,
    ),
    Route("GET", "/v1/models", openai.list_models, "OpenAI", CARDS, OLLAMA, dialect=OPENAI),
    Route("GET", "/v1/models/{name:path}", openai.read_model, "OpenAI", CARD, MODEL_READING, dialect=OPENAI),
    Route("GET", "/openapi.json", docs.openapi, "This document", DOCUMENT, headers=KNOWN, keyless=True),
    Route("GET", "/docs", docs.page, "This document", DOCS, headers=KNOWN, keyless=True),
)


OPEN_PATHS = frozenset(route.path for route in ROUTES if route.keyless)
"""What needs no key."""


FASTEST = ("/api/v1/chat/", "/v1/chat/")
"""How the paths begin that somebody waits for a first token behind."""


class Methods:
    """One path's handlers, by method. Raises MethodNotAllowed, naming all that there are."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to this path."""
        handler = self._handlers.get(scope["method"])
        if handler is None:
            allowed = ", ".join(sorted(self._handlers))
            raise errors.MethodNotAllowed(f"This path takes {allowed}.", {"allow": allowed}, {"Allow": allowed})
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def routes() -> list[StarletteRoute]:
    """The table for Starlette: one route a path."""
    by_path: dict[str, dict[str, Handler]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route.handler
    # They are tried in this order: what is to be fastest comes first.
    paths = sorted(by_path, key=lambda path: not path.startswith(FASTEST))
    return [_route(path, Methods(by_path[path])) for path in paths]


def _route(path: str, methods: Methods) -> StarletteRoute:
    route = StarletteRoute(path, methods)
    # Starlette's pattern ends in `$`, which a line feed at the path's end slips past, and has a name of several
    # segments end at one.
    route.path_regex = re.compile(rf"{route.path_regex.pattern.removesuffix('$')}\Z", re.DOTALL)
    return route


async def nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Every other path."""
    raise errors.NotFound(
        "There is nothing at this path. The API lies under /api/v1, what OpenAI's clients need under /v1."
    )
