"""What the journals of running replies need: synced while they are written, ended, and saved later where need be."""

import asyncio
import contextvars
import functools
import logging

from mochi_server.chat.generation import Outcome
from mochi_server.chat.unsettled import Unsettled
from mochi_server.domain.events import Entry
from mochi_server.observability.logs import log
from mochi_server.store.files import reason
from mochi_server.store.journal import Journal
from mochi_server.store.sessions import SessionStore

logger = logging.getLogger(__name__)

SYNC_SECONDS = 0.5
"""How often journals are made durable: a power cut takes no more than this."""

RETRY_BEATS = 10
"""At every so many of those, replies that could not be saved are tried again."""


class Upkeep:
    """Works only while there is a journal being written, or a reply to be saved."""

    def __init__(self, store: SessionStore, unsettled: Unsettled) -> None:
        self._store = store
        self._unsettled = unsettled
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """There is something to keep up."""
        if self._task is None or self._task.done():
            # For all replies: its log lines are not those of the request that happened to begin it.
            context = contextvars.Context()
            self._task = asyncio.get_running_loop().create_task(self._keep_up(), context=context)

    async def end(self, session_id: str, journal: Journal, outcome: Outcome, last: list[Entry]) -> None:
        """End a reply's journal. Where that fails, what it holds is looked at again before the session is changed."""
        settled = outcome.settled
        journals = self._store.journals
        try:
            if outcome.message is not None:
                journal.saved()
            journal.append(last)
        except OSError as error:
            settled = False
            log(logger, logging.WARNING, "a journal cannot be written", reason=reason(error))
        try:
            await self._store.threads.run(functools.partial(journals.end, journal, settled=settled))
        except OSError as error:
            settled = False
            log(logger, logging.WARNING, "a journal cannot be ended", reason=reason(error))
        if not settled:
            self._unsettled.add(session_id, last)
            self.begin()

    async def close(self) -> None:
        """Save what can be saved now."""
        if self._task is not None:
            self._task.cancel()
        await self._unsettled.settle_all()

    async def _keep_up(self) -> None:
        beats = 0
        while self._store.journals.writing or self._unsettled:
            await asyncio.sleep(SYNC_SECONDS)
            beats += 1
            try:
                await self._store.threads.run(self._store.journals.sync)
            except OSError as error:
                log(logger, logging.WARNING, "the journals cannot be synced", reason=reason(error))
            if beats % RETRY_BEATS == 0:
                await self._unsettled.settle_all()
