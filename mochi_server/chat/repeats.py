"""`Idempotency-Key`: a request that was sent before joins the reply of the first one."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable

import msgspec

from mochi_server.chat.generation import Listener
from mochi_server.chat.replay import from_message
from mochi_server.domain.messages import AssistantMessage
from mochi_server.errors import IdempotencyExpired, IdempotencyMismatch, SessionNotFound
from mochi_server.store.files import storage_error
from mochi_server.store.keys import Used
from mochi_server.store.sessions import SessionStore

Join = Callable[[str, str], Awaitable[Listener | None]]
"""Listens to a session's reply with this id, running or kept in its journal; None where it is neither."""


class Key(msgspec.Struct, frozen=True):
    """A key in its scope, a session's id or the server; key and body as digests."""

    scope: str
    key: str
    body: str


class Repeats:
    """Knows which replies keys were used for."""

    def __init__(self, store: SessionStore, join: Join) -> None:
        self._store = store
        self._join = join
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()

    async def once(self, key: Key | None, begin: Callable[[], Awaitable[Listener]]) -> Listener:
        """The reply that the key was used for, or else the one that `begin` begins, which notes the key.

        Raises IdempotencyMismatch, IdempotencyExpired, and what `begin` raises: such a request does not use it up.
        """
        if key is None:
            return await begin()
        place = Key(key.scope, key.key, "")
        lock = self._locks.get(place)
        if lock is None:
            lock = self._locks[place] = asyncio.Lock()
        async with lock:
            used = await self._used(key)
            return await begin() if used is None else used

    async def _used(self, key: Key) -> Listener | None:
        try:
            used = await self._store.threads.run(self._store.keys.find, key.scope, key.key)
        except OSError as error:
            raise storage_error(error) from None
        if used is None:
            return None
        if used.body != key.body:
            raise IdempotencyMismatch("This Idempotency-Key came with another body before. Use a new one for this.")
        return await self._joined(used)

    async def _joined(self, used: Used) -> Listener | None:
        """Listen to that reply. None where its process was killed before its question was saved."""
        try:
            session = await self._store.load(used.session_id)
            messages = {m.message_id: m for m in (*session.path, *session.detached)}
            if not messages.keys() & {used.question_id, used.message_id}:
                return None
            if (listener := await self._join(used.session_id, used.generation_id)) is not None:
                return listener
        except SessionNotFound:
            raise _expired(used) from None
        reply = messages.get(used.message_id)
        if isinstance(reply, AssistantMessage):
            return from_message(used.session_id, used.generation_id, session.metadata.revision, reply)
        raise _expired(used)


def _expired(used: Used) -> IdempotencyExpired:
    return IdempotencyExpired(
        "The reply that this Idempotency-Key was used for is gone. Use a new key to ask again.",
        {"session_id": used.session_id, "generation_id": used.generation_id},
    )
