"""One call for all who ask at the same time."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class SharedCall(Generic[_T]):
    """Runs `call` at most once at a time; who asks meanwhile gets the same answer. A failure is of whose call it was:
    who asked meanwhile has it called once more.

    Nobody who leaves cancels it: httpx loses a connection of its pool with many a cancelled request, and with the
    last one the pool is stuck for good.
    """

    def __init__(self, call: Callable[[], Awaitable[_T]]) -> None:
        self._call = call
        self._task: asyncio.Future[_T] | None = None

    async def __call__(self) -> _T:
        """The answer of the call that runs, or of a new one."""
        if self._task is not None:
            with contextlib.suppress(Exception):
                return await asyncio.shield(self._task)
        if self._task is None:
            self._task = asyncio.ensure_future(self._call())
            self._task.add_done_callback(self._ended)
        return await asyncio.shield(self._task)

    def _ended(self, task: "asyncio.Future[_T]") -> None:
        # Even when it was cancelled before its first step: the next to ask begins a new one.
        self._task = None
        if not task.cancelled():
            task.exception()  # taken, so that asyncio does not complain when all who asked have left
