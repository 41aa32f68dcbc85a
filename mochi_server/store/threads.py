"""Where disk work is done: threads of our own, so that nobody else's work stands before ours."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

COUNT = 8
"""How many files may be read and written at the same time."""


class Threads:
    """Runs what blocks. A trip costs a third of one through anyio's threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(COUNT, thread_name_prefix="store")

    async def run(self, work: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """What `work` returns or raises, done in a thread."""
        # With the context, by which log lines find the request that they belong to.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work, *arguments)

    def close(self) -> None:
        """Finish what was begun. Blocks."""
        self._pool.shutdown()


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do this to its end even when the caller is cancelled, however often: memory must learn what the disk holds, and
    a session's lock is not let go of before.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        raise
