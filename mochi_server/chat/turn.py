"""The turn: a history goes to Ollama, events come out, a message is kept. Every endpoint's replies come this way."""

import asyncio
import contextlib
import functools
import time
from datetime import UTC, datetime

import msgspec

from mochi_server.chat.admission import Load, queue_full
from mochi_server.chat.generation import Generation, Outcome
from mochi_server.chat.images import with_images
from mochi_server.chat.phases import Phases
from mochi_server.chat.prompt import Ask, Prompt, Sending
from mochi_server.chat.reply import ReplyInProgress
from mochi_server.chat.windows import Windows
from mochi_server.domain.clock import timestamp
from mochi_server.domain.context_window import Choice
from mochi_server.domain.events import Entry, entry, said
from mochi_server.domain.messages import AssistantMessage, Status
from mochi_server.domain.session import Session
from mochi_server.errors import (
    ContextOverflow,
    MochiError,
    ModelNotFound,
    ShuttingDown,
)
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.client import OllamaClient
from mochi_server.ollama.failures import timed_out
from mochi_server.ollama.wire import Chunk
from mochi_server.store.journal import Head
from mochi_server.store.sessions import new_id
from mochi_server.store.threads import Threads


class ReplyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond this many characters or seconds a reply is not asked to go on; and how many seconds it may be queued."""

    characters: int
    seconds: float
    queue_seconds: float


class Turn:
    """One reply to what a session was last asked: when it is asked for, and what becomes of the answer.

    Raises EmptyHistory.
    """

    def __init__(
        self,
        session: Session,
        ask: Ask,
        *,
        threads: Threads,
        ollama: OllamaClient,
        catalog: Catalog,
        windows: Windows,
        phases: Phases,
        limits: ReplyLimits,
    ) -> None:
        self._threads = threads
        self._ollama = ollama
        self._catalog = catalog
        self._windows = windows
        self._phases = phases
        self._limits = limits
        self._session_id = session.metadata.session_id
        self._model = session.metadata.model
        self._prompt = Prompt(session, ask, windows.factor(self._model))
        self._sending: Sending | None = None
        self._again: Sending | None = None
        self._at_ollama = False
        self.question_id = self._prompt.question_id
        known = catalog.known(self._model)
        self._reply = AssistantMessage(
            content="",
            message_id=new_id(),
            timestamp=timestamp(datetime.now(UTC)),
            model=self._model,
            model_digest=known.digest if known else None,
            options=self._prompt.options() or None,
            context=self._prompt.context(None, None),
        )

    @property
    def model(self) -> str:
        """Who is asked."""
        return self._model

    def head(self, generation_id: str) -> Head:
        """What the journal knows of the reply before its first token."""
        return Head(
            session_id=self._session_id,
            generation_id=generation_id,
            question_id=self.question_id,
            reply=self._reply,
        )

    async def run(self, generation: Generation) -> Outcome:
        """Relay the reply to the generation's subscribers, then keep what came. Raises nothing but bugs."""
        reply = ReplyInProgress(generation.began)
        failure: MochiError | None = None
        timers: list[asyncio.TimerHandle] = []
        try:
            with generation.upstream:
                await self._asked(generation, reply, timers)
        except MochiError as error:
            failure = await self._explained(error)
        finally:
            self._leave(generation)
            for timer in timers:
                timer.cancel()
        if generation.failure is not None:
            # What came since is not shown, so it is not said either.
            failure = generation.failure
        content, thinking = said(generation.log)
        if content or thinking or (generation.failure is None and (reply.begun or reply.ended)):
            message = await self._message(reply, generation, failure, content, thinking)
            return await generation.keeping.save(message, failure)
        return Outcome(failure=failure or self._why_nothing_came(generation))

    def load(self) -> Load:
        """What it needs Ollama to have loaded, as things are."""
        known = self._windows.known(self._model)
        if self._again is None:
            self._sending = self._prompt.sending(known)
        elif self._again.choice.fixed:
            self._sending = self._again
        else:
            # Others may have needed a larger one since.
            choice = Choice(num_ctx=known.named, window=known.in_force)
            self._sending = msgspec.structs.replace(self._again, choice=choice)
        return self._prompt.load(self._chosen())

    def admitted(self) -> None:
        """It is its turn."""
        self._at_ollama = True
        self._windows.admitted(self._model, self._chosen().choice)

    async def _asked(self, generation: Generation, reply: ReplyInProgress, timers: list[asyncio.TimerHandle]) -> None:
        """Wait for a place at Ollama, then for the reply; once more in a larger window, should the first be refused."""
        generation.ticket.need(self)
        timers.append(self._phases.watch(generation))
        await self._admitted(generation)
        timers.append(asyncio.get_running_loop().call_later(self._limits.seconds, generation.stop, "length"))
        try:
            await self._ask(generation, reply)
        except ContextOverflow:
            if reply.begun or not await self._larger():
                raise
            self._leave(generation, again=True)
            generation.ticket.need(self)
            await self._admitted(generation)
            await self._ask(generation, reply)

    async def _ask(self, generation: Generation, reply: ReplyInProgress) -> None:
        sending = self._chosen()
        self._note(sending, generation)
        request = self._prompt.request(sending)
        if self._prompt.has_images:
            sent, read = self._prompt.sent(sending), generation.keeping.read_image
            request = await with_images(request, sent, self._prompt.question_index, read, self._threads)
        await self._ollama.chat(request, functools.partial(self._take, reply, generation))

    def _note(self, sending: Sending, generation: Generation) -> None:
        """Have it kept how it is asked for, should the process be killed before the reply's end."""
        self._reply = msgspec.structs.replace(
            self._reply,
            options=self._prompt.options(sending) or None,
            context=self._prompt.context(sending, sending.choice.window),
        )
        with contextlib.suppress(OSError):
            # Nothing is shown yet; a disk that fails is told with the first token.
            generation.keeping.begin(self.head(generation.id))

    async def _admitted(self, generation: Generation) -> None:
        """Wait for a place at Ollama, telling the client what it waits for. Raises QueueFull."""
        ticket = generation.ticket
        if not ticket.admitted.done():
            generation.phase = "queued"
            try:
                async with asyncio.timeout(self._limits.queue_seconds):
                    await ticket.admitted
            except TimeoutError:
                raise queue_full(
                    f"No place at Ollama came free within {self._limits.queue_seconds:g} s (MOCHI_QUEUE_TIMEOUT)."
                ) from None
        generation.phase = "waiting"

    async def _larger(self) -> bool:
        """After a refusal: whether there is a larger window to ask for, or less to send."""
        refused = self._chosen()
        in_force = await self._windows.refused(self._model, refused.choice, self._prompt.plain(refused))
        limit = self._windows.known(self._model).limit
        self._again = self._prompt.after_refusal(refused, in_force, limit)
        if self._again is not None and not self._again.choice.fixed and self._again.choice.num_ctx is not None:
            self._windows.name(self._model, self._again.choice.num_ctx)
        return self._again is not None

    def _leave(self, generation: Generation, *, again: bool = False) -> None:
        """Give the place at Ollama up, for good or for the first one in the queue."""
        if self._at_ollama:
            self._at_ollama = False
            self._windows.left(self._model)
        if again:
            generation.ticket.again()
        else:
            generation.ticket.release()

    def _chosen(self) -> Sending:
        if self._sending is None:
            raise RuntimeError("nothing was chosen")
        return self._sending

    def _take(self, reply: ReplyInProgress, generation: Generation, chunks: list[Chunk]) -> None:
        # Every token comes this way, and every call on it counts.
        first = not reply.begun
        now = time.monotonic() if first else 0.0
        entries: list[Entry] = []
        for chunk in chunks:
            for event in reply.add(chunk, now):
                entries.append(entry(event))  # noqa: PERF401 - a comprehension is one call more
        if entries:
            generation.publish(entries)
        if first and reply.begun:
            self._windows.begun(self._model, self._chosen().choice.num_ctx)
            if generation.failure is None:
                generation.phase = "generating"
        if reply.characters > self._limits.characters:
            generation.stop("length")

    async def _message(
        self, reply: ReplyInProgress, generation: Generation, failure: MochiError | None, content: str, thinking: str
    ) -> AssistantMessage:
        """The message that came about; its parent is for the session to say."""
        ended = time.monotonic()
        status, done_reason = _ending(reply, generation, failure)
        known, sending = self._catalog.known(self._model), self._chosen()
        waiting = generation.stop_reason != "shutdown"
        window = await self._windows.in_force(self._model, sending.choice, certain=reply.loaded, waiting=waiting)
        begun = msgspec.structs.replace(
            self._reply,
            content=content,
            thinking=thinking or None,
            timestamp=timestamp(datetime.now(UTC)),
            status=status,
            done_reason=done_reason,
            model_digest=known.digest if known else self._reply.model_digest,
            options=self._prompt.options(sending) or None,
            context=self._prompt.context(sending, window),
        )
        message = reply.measured(begun, ended)
        if message.prompt_eval_count:
            self._windows.counted(self._model, message.prompt_eval_count, self._prompt.plain(sending))
        return message

    async def _explained(self, failure: MochiError) -> MochiError:
        """The failure, with what can be found out about it."""
        match failure:
            case ModelNotFound():
                return await self._catalog.explained(failure)
            case ContextOverflow():
                known, sending = self._windows.known(self._model), self._chosen()
                window = await self._windows.in_force(self._model, sending.choice)
                failure.details |= {
                    "estimated_tokens": self._prompt.estimate(sending).likely,
                    "window": window,
                    "model_limit": known.limit,
                    "message_index": self._prompt.question_index,
                }
                larger = (
                    " or ask for a larger options.num_ctx," if sending.choice.fixed and window != known.limit else ""
                )
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
