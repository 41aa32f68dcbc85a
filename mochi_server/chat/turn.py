"""The turn: a history goes to Ollama, events come out, a message is saved. Every endpoint's replies come this way."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import msgspec

from mochi_server.chat.admission import RELOADING, Load, queue_full
from mochi_server.chat.generation import Generation, OnDisconnect, Outcome
from mochi_server.chat.images import with_images
from mochi_server.chat.phases import Phases
from mochi_server.chat.reply import ReplyInProgress
from mochi_server.domain.clock import timestamp
from mochi_server.domain.context_window import estimated_tokens, with_fixed_window
from mochi_server.domain.events import said
from mochi_server.domain.history import newest_turns
from mochi_server.domain.images import Image
from mochi_server.domain.messages import AssistantMessage, Context, Status
from mochi_server.domain.options import OptionValues
from mochi_server.domain.session import HistoryLimit, Session
from mochi_server.errors import (
    ContextOverflow,
    EmptyHistory,
    MochiError,
    ModelNotFound,
    SessionDamaged,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
)
from mochi_server.ollama.catalog import Catalog, full_name
from mochi_server.ollama.client import OllamaClient
from mochi_server.ollama.failures import timed_out
from mochi_server.ollama.wire import ChatRequest, Chunk, Format, Think, wire_message
from mochi_server.store.journal import Head
from mochi_server.store.sessions import SessionStore, new_id


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks a session for. No `message`: answer the last user message anew. `images` go with a message."""

    message: str | None = None
    images: tuple[Image, ...] = ()
    think: Think | None = None
    options: OptionValues = {}
    format: Format | None = None
    keep_alive: str | float | int | None = None
    on_disconnect: OnDisconnect = "cancel"
    history_limit: HistoryLimit = None


class ReplyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond this many characters or seconds a reply is not asked to go on; and how many seconds it may be queued."""

    characters: int
    seconds: float
    queue_seconds: float


class Turn:
    """One reply to the last user message of a session: what is sent, and what becomes of the answer."""

    def __init__(
        self,
        session: Session,
        ask: Ask,
        *,
        store: SessionStore,
        ollama: OllamaClient,
        catalog: Catalog,
        phases: Phases,
        limits: ReplyLimits,
    ) -> None:
        question = session.last_user()
        if question is None:
            raise EmptyHistory("There is no user message to answer. Send one in `message`.")
        history = session.taken_back_to(question.message_id).path
        self._store = store
        self._ollama = ollama
        self._catalog = catalog
        self._phases = phases
        self._limits = limits
        self.question_id = question.message_id
        self._message_index = len(history) - (session.system is None)
        self._session_id = session.metadata.session_id
        self._model = session.metadata.model
        options = with_fixed_window(
            {**(session.metadata.options or {}), **ask.options}, session.metadata.context_window_config
        )
        limit = ask.history_limit if ask.history_limit is not None else session.metadata.history_limit
        sent = newest_turns(history, limit) if isinstance(limit, int) else history
        self._sent = (*sent,) if session.system is None else (session.system, *sent)
        self._asked_window = options.get("num_ctx")
        self._load = Load(full_name(self._model), self._asked_window, tuple(map(options.get, RELOADING)))
        self._reply = AssistantMessage(
            content="",
            message_id=new_id(),
            timestamp=timestamp(datetime.now(UTC)),
            model=self._model,
            model_digest=known.digest if (known := catalog.known(self._model)) else None,
            options=options or None,
            context=Context(
                window=self._asked_window,
                messages_sent=len(self._sent),
                messages_left_out=len(history) - len(sent),
            ),
        )
        self._request = ChatRequest(
            model=self._model,
            messages=[wire_message(message) for message in self._sent],
            truncate=False,
            options=options or None,
            think=ask.think,
            format=ask.format,
            keep_alive=ask.keep_alive,
        )

    def head(self, generation_id: str) -> Head:
        """What the journal knows of the reply before its first token."""
        return Head(
            session_id=self._session_id,
            generation_id=generation_id,
            question_id=self.question_id,
            reply=self._reply,
        )

    async def run(self, generation: Generation) -> Outcome:
        """Relay the reply to the generation's subscribers, then save what came. Raises nothing but bugs."""
        reply = ReplyInProgress(generation.began)
        failure: MochiError | None = None
        timers: list[asyncio.TimerHandle] = []
        try:
            with generation.upstream:
                await self._admitted(generation, timers)
                timers.append(asyncio.get_running_loop().call_later(self._limits.seconds, generation.stop, "length"))
                await self._ollama.chat(
                    await with_images(self._request, self._sent, self._message_index, self._store),
                    lambda chunks: self._take(chunks, reply, generation),
                )
        except MochiError as error:
            failure = await self._explained(error)
        finally:
            generation.ticket.release()
            for timer in timers:
                timer.cancel()
        if generation.failure is not None:
            # What came since is not shown, so it is not said either.
            failure = generation.failure
        content, thinking = said(generation.log)
        if content or thinking or (generation.failure is None and (reply.begun or reply.ended)):
            message = self._message(reply, generation, failure, content, thinking)
            return await self._saved(message, generation, failure)
        return Outcome(failure=failure or self._why_nothing_came(generation))

    async def _admitted(self, generation: Generation, timers: list[asyncio.TimerHandle]) -> None:
        """Wait for a place at Ollama, telling the client what it waits for. Raises QueueFull."""
        ticket = generation.ticket
        ticket.need(self._load)
        timers.append(self._phases.watch(generation))
        if not ticket.admitted.done():
            try:
                async with asyncio.timeout(self._limits.queue_seconds):
                    await ticket.admitted
            except TimeoutError:
                raise queue_full(
                    f"No place at Ollama came free within {self._limits.queue_seconds:g} s (MOCHI_QUEUE_TIMEOUT)."
                ) from None
        generation.phase = "waiting"

    def _take(self, chunks: list[Chunk], reply: ReplyInProgress, generation: Generation) -> None:
        now = time.monotonic()
        events = [event for chunk in chunks for event in reply.add(chunk, now)]
        if events:
            generation.publish(events)
        if reply.begun and generation.failure is None:
            generation.phase = "generating"
        if reply.characters > self._limits.characters:
            generation.stop("length")

    def _message(
        self, reply: ReplyInProgress, generation: Generation, failure: MochiError | None, content: str, thinking: str
    ) -> AssistantMessage:
        """The message that came about; its parent is for the session to say."""
        status, done_reason = _ending(reply, generation, failure)
        known = self._catalog.known(self._model)
        begun = msgspec.structs.replace(
            self._reply,
            content=content,
            thinking=thinking or None,
            timestamp=timestamp(datetime.now(UTC)),
            status=status,
            done_reason=done_reason,
            model_digest=known.digest if known else self._reply.model_digest,
        )
        return reply.measured(begun, time.monotonic())

    async def _saved(self, message: AssistantMessage, generation: Generation, failure: MochiError | None) -> Outcome:
        with contextlib.suppress(OSError):
            # Should the save fail, or the process end here, the journal has all of it.
            generation.journal.ending(message)
        replaced = ""

        def answered(session: Session) -> Session:
            nonlocal replaced
            replaced = session.metadata.revision
            return session.answered(generation.parent_id, message, message.timestamp)

        try:
            session = await self._store.update(generation.session_id, answered)
        except (StorageFull, StorageUnavailable) as error:
            error.message += " What was shown of the reply is kept beside the sessions, and added as soon as it can be."
            return Outcome(failure=error, settled=False)
        except SessionDamaged as error:
            error.message += " The reply is kept beside the sessions, and added once the file is mended."
            return Outcome(failure=error, settled=False)
        except MochiError as error:
            return Outcome(failure=error)
        if failure is not None:
            failure.message += " What had come is kept."
            failure.details["message_id"] = message.message_id
        saved = msgspec.structs.replace(message, parent_id=generation.parent_id)
        return Outcome(message=saved, revision=session.metadata.revision, replaced=replaced, failure=failure)

    async def _explained(self, failure: MochiError) -> MochiError:
        """The failure, with what can be found out about it."""
        match failure:
            case ModelNotFound():
                return await self._catalog.explained(failure)
            case ContextOverflow():
                known = self._catalog.known(self._model)
                window, limit = await self._window(), known.context_length if known else None
                failure.details |= {
                    "estimated_tokens": estimated_tokens(self._sent),
                    "window": window,
                    "model_limit": limit,
                    "message_index": self._message_index,
                }
                larger = "" if window is not None and window == limit else " or ask for a larger options.num_ctx,"
                failure.message += f" Edit or truncate the history,{larger} or choose a model with a larger window."
        return failure

    def _why_nothing_came(self, generation: Generation) -> MochiError | None:
        """The failure that it is when we ended a reply before its first token; a stop that was asked for is none."""
        match generation.stop_reason:
            case "shutdown":
                return ShuttingDown()
            case "length":
                return timed_out("send its first token", self._limits.seconds, "MOCHI_MAX_REPLY_SECONDS")
        return None

    async def _window(self) -> int | None:
        """The window that the model is loaded with, where Ollama says so."""
        try:
            loaded = (await self._ollama.running()).models
        except MochiError:
            return self._asked_window
        names = {self._model, f"{self._model}:latest"}
        return next((m.context_length for m in loaded if m.model in names), self._asked_window)


def _ending(reply: ReplyInProgress, generation: Generation, failure: MochiError | None) -> tuple[Status, str | None]:
    """Status and done_reason: None where Ollama's own stands."""
    if generation.failure is not None:
        return "interrupted", "error"
    if reply.ended:
        return "complete", None
    if generation.stop_reason == "length":
        # As with Ollama's own limit: the reply ends there, and says why.
        return "complete", "length"
    if failure is not None:
        return "interrupted", "error"
    return "interrupted", generation.stop_reason
