"""The running replies: at most one a session, each a task of the application's, none of a request's."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import msgspec

from mochi_server.chat.generation import Generation, Outcome, Subscription
from mochi_server.chat.turn import Ask, ReplyLimits, Turn
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import UserMessage
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import sealed
from mochi_server.errors import EmptyHistory, InternalError, SessionBusy, ShuttingDown
from mochi_server.observability.logs import log_exception
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.client import OllamaClient
from mochi_server.store.sessions import SessionStore, new_id

logger = logging.getLogger(__name__)


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What a stop did; nulls where there was nothing to stop, or nothing to keep."""

    stopped: bool
    generation_id: str | None = None
    message_id: str | None = None


class Generations:
    """Starts replies, knows which run, and keeps a session's history from changing under one.

    `grace` is how many seconds a reply goes on without listeners before it is stopped.
    """

    def __init__(
        self, store: SessionStore, ollama: OllamaClient, catalog: Catalog, limits: ReplyLimits, grace: float
    ) -> None:
        self._store = store
        self._ollama = ollama
        self._catalog = catalog
        self._limits = limits
        self._grace = grace
        self._running: dict[str, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def running(self, session_id: str) -> Generation | None:
        """The session's running reply."""
        return self._running.get(session_id)

    @property
    def closing(self) -> bool:
        """Whether no new replies are begun."""
        return self._closing

    def shown(self, session: Session) -> Session:
        """The session as clients see it now: a reply made anew replaces the old one from its first token on."""
        generation = self._running.get(session.metadata.session_id)
        if generation is None or generation.phase != "generating":
            return session
        view = session.taken_back_to(generation.parent_id)
        # Another content under another revision, though no file has it.
        return view if view is session else sealed(view)[0]

    async def send(self, session_id: str, ask: Ask, correlation_id: str) -> Subscription:
        """Begin a reply in a session, the user's message durably saved before Ollama is asked.

        Raises what loading and saving raise, and SessionBusy, EmptyHistory, CapabilityMissing, ShuttingDown.
        """
        self.check_free(session_id)
        if ask.think or session_id in self._running:
            # Before anything is held, or ended for it: a request that cannot be granted changes nothing.
            await self._check(_with_question(await self._store.load(session_id), ask), ask)
        async with self.changing(session_id):
            asked = await self._store.update_held(session_id, lambda session: _with_question(session, ask))
            return self._begin(asked, ask, correlation_id)

    async def send_first(self, session: Session, ask: Ask, correlation_id: str) -> Subscription:
        """As `send`, in a session that is made with its first message in one save."""
        self._refuse_when_closing()
        if ask.message is None:
            raise EmptyHistory("A session begins with a message. Send one in `message`.")
        asked = _with_question(session, ask)
        await self._check(asked, ask)
        return self._begin(await self._store.create(asked), ask, correlation_id)

    def check_free(self, session_id: str) -> None:
        """Raise SessionBusy where `changing` would, ShuttingDown where it would."""
        self._refuse_when_closing()
        generation = self._running.get(session_id)
        if generation is not None and not generation.abandoned:
            raise SessionBusy(
                "A reply is being generated in this session. Wait for its end, or stop it with "
                f"POST /api/v1/chat/{session_id}/stop.",
                {"generation_id": generation.id, "session_id": session_id},
            )

    @asynccontextmanager
    async def changing(self, session_id: str, *, ending: bool = False) -> AsyncIterator[None]:
        """Hold a session whose history is about to change, with no reply running in it.

        A reply that nobody listens to any more is ended for it, with `ending` every one. Raises SessionBusy for
        any other, ShuttingDown.
        """
        while True:
            if not ending:
                self.check_free(session_id)
            if (generation := self._running.get(session_id)) is not None:
                generation.stop("stopped" if ending else "superseded")
                await generation.ended()
            async with self._store.locked(session_id):
                # While we waited for the session, another request may have begun a reply.
                if session_id not in self._running:
                    yield
                    return

    async def stop(self, session_id: str, generation_id: str | None) -> Stopped:
        """Stop the session's running reply and wait until it is saved. Another id than its own stops nothing."""
        generation = self._running.get(session_id)
        if generation is None:
            # A reply whose question is being saved right now is as good as running.
            async with self._store.locked(session_id):
                generation = self._running.get(session_id)
        if generation is None or generation_id not in {None, generation.id}:
            return Stopped(stopped=False)
        generation.stop("stopped")
        outcome = await generation.ended()
        return Stopped(
            stopped=generation.stop_reason is not None and not _ended_by_itself(outcome),
            generation_id=generation.id,
            message_id=outcome.message.message_id if outcome.message else None,
        )

    async def drain(self, seconds: float) -> None:
        """Take no new work; let running replies finish for this long, then save them as they are.

        A second call waits for what the first one began.
        """
        if self._closing:
            await self._all_ended()
            return
        self._closing = True
        with anyio.move_on_after(seconds):
            await self._all_ended()
        self.end_all()
        await self._all_ended()

    def end_all(self) -> None:
        """Let no running reply go on; each is saved as it is."""
        for generation in list(self._running.values()):
            generation.stop("shutdown")

    def _begin(self, session: Session, ask: Ask, correlation_id: str) -> Subscription:
        session_id = session.metadata.session_id
        question = session.last_user()
        if question is None:
            raise EmptyHistory("There is no user message to answer. Send one in `message`.")
        history = session.taken_back_to(question.message_id).path
        generation = Generation(
            generation_id=new_id(),
            session_id=session_id,
            parent_id=question.message_id,
            on_disconnect=ask.on_disconnect,
            correlation_id=correlation_id,
            began=time.monotonic(),
            grace=self._grace,
        )
        turn = Turn(
            session=session,
            history=history,
            ask=ask,
            store=self._store,
            ollama=self._ollama,
            catalog=self._catalog,
            limits=self._limits,
        )
        self._running[session_id] = generation
        if self._closing:
            # Its question was being saved when the stop came.
            generation.stop("shutdown")
        task = asyncio.get_running_loop().create_task(self._run(generation, turn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return generation.subscribe()

    async def _run(self, generation: Generation, turn: Turn) -> None:
        try:
            outcome = await turn.run(generation)
        except Exception as error:  # noqa: BLE001 - whatever broke, every stream ends with `done`
            log_exception(logger, error, generation.correlation_id)
            outcome = Outcome(failure=InternalError())
        # Before `done` goes out: who has seen it may send the next message at once.
        self._running.pop(generation.session_id, None)
        generation.finish(outcome)

    async def _check(self, session: Session, ask: Ask) -> None:
        if ask.think:
            await self._catalog.require(session.metadata.model, "thinking")

    async def _all_ended(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ShuttingDown


def _with_question(session: Session, ask: Ask) -> Session:
    """The session with what is asked as its last message.

    Raises EmptyHistory. A message equal to the last one, still unanswered, is a second try and is not added twice.
    """
    if ask.message is None:
        if session.last_user() is None:
            raise EmptyHistory(
                "There is no user message to answer in this session. Send one in `message`.",
                {"session_id": session.metadata.session_id},
            )
        return session
    head = session.head
    if isinstance(head, UserMessage) and head.content == ask.message and not head.images:
        return session
    now = timestamp(datetime.now(UTC))
    return session.append(UserMessage(content=ask.message, message_id=new_id(), timestamp=now), now)


def _ended_by_itself(outcome: Outcome) -> bool:
    return outcome.failure is not None or (outcome.message is not None and outcome.message.status == "complete")
