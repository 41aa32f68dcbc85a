"""The running replies: at most one a session, each a task of the application's, none of a request's."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import anyio
import msgspec

from mochi_server.chat.admission import Admission, Ticket
from mochi_server.chat.ended import tell
from mochi_server.chat.generation import Generation, Keeping, Listener, Outcome, Stopped, StopReason
from mochi_server.chat.granting import check, demands_much
from mochi_server.chat.images import SightUnknown, check_sight
from mochi_server.chat.joining import Joining
from mochi_server.chat.keeping import InSession, Nowhere
from mochi_server.chat.phases import Phases
from mochi_server.chat.prompt import Ask, turned_to
from mochi_server.chat.repeats import Key, Repeats
from mochi_server.chat.start import Start, unkept_session, with_question
from mochi_server.chat.turn import ReplyLimits, Turn
from mochi_server.chat.unsettled import Unsettled
from mochi_server.chat.upkeep import Upkeep
from mochi_server.chat.windows import Windows
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import revised
from mochi_server.errors import (
    EmptyHistory,
    InternalError,
    RevisionConflict,
    SessionBusy,
    ShuttingDown,
)
from mochi_server.observability.logs import log_exception
from mochi_server.observability.metrics import Metrics
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.client import OllamaClient
from mochi_server.store.files import storage_error
from mochi_server.store.sessions import SessionStore, new_id
from mochi_server.store.threads import to_its_end

logger = logging.getLogger(__name__)

Expected = frozenset[str] | None
"""The revisions of which a session must be one; None where any will do."""

Check = Callable[[Session], Session]


class Generations:
    """Starts replies, knows which run, and keeps a session's history from changing under one.

    `grace` is how many seconds a reply goes on without listeners before it is stopped.
    """

    def __init__(
        self,
        store: SessionStore,
        ollama: OllamaClient,
        catalog: Catalog,
        admission: Admission,
        limits: ReplyLimits,
        grace: float,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._ollama = ollama
        self._catalog = catalog
        self._limits = limits
        self._grace = grace
        self._metrics = metrics
        self._unsettled = Unsettled(store)
        self._running: dict[str, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep = Upkeep(store, self._unsettled)
        self._admission = admission
        self.windows = Windows(catalog)
        self._phases = Phases(self.windows, self._all_running)
        self.joining = Joining(store, self._unsettled, self._begun)
        self._repeats = Repeats(store, self.joining.reply)
        self._closing = False

    async def open(self) -> None:
        """Save what an earlier process was shown of replies and could not save, and see what Ollama has."""
        self.windows.open()
        await self._unsettled.settle_all()
        if self._unsettled:
            self._upkeep.begin()

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
        return view if view is session else revised(view)

    async def load(self, session_id: str) -> Session:
        """The session as clients see it now. Raises what loading raises."""
        await self._unsettled.settle(session_id)
        return self.shown(await self._store.load(session_id))

    def expected(self, session: Session, revisions: Expected) -> Session:
        """The session, if it is of one of these revisions. Raises RevisionConflict."""
        if revisions is None or session.metadata.revision in revisions:
            return session
        now = self.shown(session).metadata.revision
        if now in revisions:
            return session
        raise RevisionConflict(
            "The session has changed since the revision in If-Match was read. Read it again, and repeat the change "
            "if it is still what you want.",
            {"session_id": session.metadata.session_id, "revision": now},
            {"ETag": f'"{now}"'},
        )

    async def send(
        self, session_id: str, ask: Ask, correlation_id: str, revisions: Expected = None, key: Key | None = None
    ) -> Listener:
        """Begin a reply in a session, the user's message durably saved before Ollama is asked.

        With a key that was used before: join the reply that it was used for. Raises what loading and saving raise,
        and SessionBusy, EmptyHistory, ValidationFailed, ModelNotFound, CapabilityMissing, ImageNotFound,
        RevisionConflict, QueueFull, ShuttingDown, IdempotencyMismatch, IdempotencyExpired.
        """

        async def begin() -> Listener:
            self.check_free(session_id)
            seeing: str | None = None
            if demands_much(ask) or self._catalog.restricted or session_id in self._running:
                # Before anything is held, or ended for it: a request that cannot be granted changes nothing.
                asked = with_question(await self._store.load(session_id), ask)
                seeing = await check(asked, ask, self._catalog, self._store)
            while True:
                try:
                    return await asked_of(seeing)
                except SightUnknown as unknown:
                    # Found in its history. Ollama is asked while nobody waits for this session, or in the queue for it.
                    await check_sight(unknown.shown, unknown.model, self._catalog)
                    seeing = unknown.model

        async def asked_of(seeing: str | None) -> Listener:
            changing, starting = self.changing(session_id, revisions), self._start(session_id, ask, key, seeing)
            async with changing as expected, starting as start:
                asked = await self._store.update_held(session_id, lambda session: start.prepared(expected(session)))
                return self._begin_kept(start, asked, correlation_id)

        if key is not None:
            await self._store.load(session_id)
        return await self._repeats.once(key, begin)

    async def send_first(
        self, make: Callable[[], Awaitable[Session]], ask: Ask, correlation_id: str, key: Key | None = None
    ) -> Listener:
        """As `send`, in the session that `make` makes, saved with its first message in one save.

        Where the key was used before nothing is made. Raises what `make` raises, too.
        """

        async def begin() -> Listener:
            self._admission.check_room()  # making a session asks Ollama: who is refused is so at once
            session = await make()
            self._refuse_when_closing()
            if ask.message is None:
                raise EmptyHistory("A session begins with a message. Send one in `message`.")
            seeing = await check(with_question(session, ask), ask, self._catalog, self._store)
            async with self._start(session.metadata.session_id, ask, key, seeing) as start:
                asked = await self._store.threads.run(start.prepared, session)
                return self._begin_kept(start, await self._store.create(asked), correlation_id)

        return await self._repeats.once(key, begin)

    async def send_unkept(self, ask: Ask, correlation_id: str) -> Listener:
        """Begin a reply in a session of this call's own, that is kept nowhere: it ends when its listener leaves.

        Raises EmptyHistory, ModelNotFound, CapabilityMissing, QueueFull, ShuttingDown.
        """
        self._refuse_when_closing()
        self._admission.check_room()
        asked = turned_to(with_question(unkept_session(), ask), ask)
        await check(asked, ask, self._catalog, self._store)
        ticket = self._admission.ticket()
        try:
            turn = await self._store.threads.run(self._turn, asked, msgspec.structs.replace(ask, images=()))
        except BaseException:
            ticket.release()
            raise
        return self._begin(
            turn, asked, ask, ticket, Nowhere(ask.images), correlation_id, generation_id=new_id(), grace=0
        )

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
    async def changing(
        self, session_id: str, revisions: Expected = None, *, ending: bool = False
    ) -> AsyncIterator[Check]:
        """Hold a session whose history is about to change, with no reply running in it.

        A reply that nobody listens to any more is ended for it, with `ending` every one. Yields what the session is to
        pass before it is changed. Raises SessionBusy for any other reply, RevisionConflict, ShuttingDown.
        """
        while True:
            if not ending:
                self.check_free(session_id)
            if (generation := self._running.get(session_id)) is not None:
                revisions = await self._once_ended(generation, revisions, "stopped" if ending else "superseded")
            async with self._store.locked(session_id):
                # While we waited for the session, another request may have begun a reply.
                if session_id not in self._running:
                    if not ending:
                        await self._unsettled.settle_held(session_id)
                    yield functools.partial(self.expected, revisions=revisions)
                    return

    async def _once_ended(self, generation: Generation, revisions: Expected, why: StopReason) -> Expected:
        """End a reply, if the session is of one of these revisions; those of which it may be then.

        Raises RevisionConflict.
        """
        seen: str | None = None
        if revisions is not None:
            seen = self.expected(await self._store.load(generation.session_id), revisions).metadata.revision
        generation.stop(why)
        outcome = await generation.ended()
        if revisions is None or outcome.revision is None or outcome.replaced != seen:
            return revisions
        # Our own doing, and nobody else's meanwhile: the client's revision is the one before it.
        return revisions | {outcome.revision}

    async def stop(self, session_id: str, generation_id: str | None) -> Stopped:
        """Stop the session's running reply and wait until it is saved. Another id than its own stops nothing."""
        generation = await self._begun(session_id)
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
        self.windows.close()
        await self._upkeep.close()

    def end_all(self) -> None:
        """Let no running reply go on; each is saved as it is."""
        for generation in list(self._running.values()):
            generation.stop("shutdown")

    @asynccontextmanager
    async def _start(self, session_id: str, ask: Ask, key: Key | None, seeing: str | None) -> AsyncIterator[Start]:
        """A reply that is about to begin; else no image, journal, key or place is left. Raises QueueFull."""
        start = Start(session_id, ask, key, self._admission.ticket(), self._turn, self._store, seeing)
        try:
            yield start
        except OSError as error:
            raise storage_error(error) from None
        finally:
            if not start.begun:
                start.ticket.release()
                await to_its_end(self._store.threads.run(start.abandon))
            if start.held:
                await to_its_end(self._store.let_go(start.held, saved=start.begun))

    def _turn(self, session: Session, ask: Ask) -> Turn:
        return Turn(
            session,
            ask,
            threads=self._store.threads,
            ollama=self._ollama,
            catalog=self._catalog,
            windows=self.windows,
            phases=self._phases,
            limits=self._limits,
        )

    def _begin_kept(self, start: Start, session: Session, correlation_id: str) -> Listener:
        turn, journal = start.ready()
        keeping = InSession(session.metadata.session_id, turn.question_id, journal, self._store, self._upkeep)
        return self._begin(
            turn,
            session,
            start.ask,
            start.ticket,
            keeping,
            correlation_id,
            generation_id=start.generation_id,
            grace=self._grace,
        )

    def _begin(
        self,
        turn: Turn,
        session: Session,
        ask: Ask,
        ticket: Ticket,
        keeping: Keeping,
        correlation_id: str,
        *,
        generation_id: str,
        grace: float,
    ) -> Listener:
        session_id = session.metadata.session_id
        generation = Generation(
            generation_id=generation_id,
            session_id=session_id,
            parent_id=turn.question_id,
            revision=session.metadata.revision,
            keeping=keeping,
            ticket=ticket,
            on_disconnect=ask.on_disconnect,
            correlation_id=correlation_id,
            began=time.monotonic(),
            grace=grace,
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
            outcome = Outcome(failure=InternalError(), settled=False)
        last = generation.last_words(outcome)
        await generation.keeping.end(outcome, last)
        # Before `done` goes out: who has seen it may send the next message at once.
        self._running.pop(generation.session_id, None)
        generation.finish(outcome, last)
        self._catalog.refresh_soon()
        # Nobody has heard the end yet: who has is to find it told.
        tell(generation, turn.model, outcome, self._metrics)

    async def _begun(self, session_id: str) -> Generation | None:
        """The session's running reply. One whose question is being saved right now is as good as running."""
        if (generation := self._running.get(session_id)) is None:
            async with self._store.locked(session_id):
                generation = self._running.get(session_id)
        return generation

    def _all_running(self) -> Iterable[Generation]:
        return self._running.values()

    async def _all_ended(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ShuttingDown


def _ended_by_itself(outcome: Outcome) -> bool:
    return outcome.failure is not None or (outcome.message is not None and outcome.message.status == "complete")
