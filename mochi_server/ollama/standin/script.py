"""How a chat reply of the stand-in goes, when it is to go otherwise than its model would have it."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

Fault = Literal[
    "status",
    "redirect",
    "error_line",
    "reset",
    "early_end",
    "no_done",
    "silence",
    "garbage",
    "wrong_shape",
    "huge_line",
]

LOADING = -1
"""The hold of a `Gate` at which the model is still loading: `/api/ps` does not list it yet."""


class Gate:
    """Holds replies at chosen places until a test, in another thread, lets them go on.

    A place is a number of pieces (lines of a streamed reply): 0 is before the first byte with the model loaded, n is
    after the n-th piece and before anything that follows it, `LOADING` is before the model counts as loaded. Without
    places it holds at 0. One gate may serve several replies.

    The usual dance: script a behaviour with `Gate(2)`; read two pieces as the client; `gate.wait(2)`, now nothing more
    comes; do what is to be tested; `gate.open()`.
    """

    def __init__(self, *places: int) -> None:
        self._held = set(places or (0,))
        self._reached: Counter[int] = Counter()
        self._changes = threading.Condition()
        self._wakers: list[Callable[[], object]] = []

    def wait(self, place: int = 0, *, replies: int = 1, limit: float = 5.0) -> None:
        """Block until that many replies have come to the place, whether it holds there or not.

        Raises `TimeoutError` after `limit` seconds.
        """
        with self._changes:
            if not self._changes.wait_for(lambda: self._reached[place] >= replies, limit):
                raise TimeoutError(f"{self._reached[place]} of {replies} replies came to {place} in {limit} s")

    def open(self, *places: int) -> None:
        """Hold no longer at these places, or at none at all; who waits there goes on. May come before the reply."""
        with self._changes:
            self._held -= set(places) or self._held.copy()
            for wake in self._wakers:
                wake()

    def holds(self, place: int) -> bool:
        """Tell whether a reply that comes to this place has to wait."""
        return place in self._held

    async def passed(self, place: int) -> None:
        """Wait, as a reply, until the gate is open at this place."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        with self._changes:
            self._reached[place] += 1
            self._changes.notify_all()
            self._wakers.append(wake)
        try:
            while self.holds(place):
                await woken.wait()
                woken.clear()
        finally:
            with self._changes:
                self._wakers.remove(wake)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How one chat call goes. What is left out is the model's own; times are in seconds.

    `pieces` and `thinking` replace the reply. `delay` passes before the first byte, status line included, as a real
    Ollama sends nothing before its first token; `interval` between pieces. `dribble` sends the body byte by byte, each
    its own transfer chunk; `coalesce` sends it all in one, up to the next hold or fault.

    `fault` happens after `after` pieces, or after the last if there are fewer; at 0 nothing has been sent:

    - "status": `status` with `{"error": error}`, or with the raw `body`; only at 0
    - "redirect": 302 to `location`; only at 0
    - "error_line": a line `{"error": error}`, then the proper end; a reply that is not streamed is a 500
    - "reset": a TCP reset
    - "early_end": the connection is closed without the last transfer chunk
    - "no_done": the proper end of the body, but no line with `done: true`
    - "silence": nothing more, until the client leaves
    - "garbage", "wrong_shape": a line that is not JSON, or not a chunk; then the reply goes on
    - "huge_line": a line that has not ended after `HUGE_LINE` bytes; then as "early_end"
    """

    pieces: tuple[str, ...] | None = None
    thinking: tuple[str, ...] = ()
    delay: float = 0.0
    interval: float | None = None
    gate: Gate | None = None
    fault: Fault | None = None
    after: int = 0
    status: int = 500
    error: str = "an error was encountered while running the model: unexpected EOF"
    body: bytes | None = None
    location: str = "/redirected"
    dribble: bool = False
    coalesce: bool = False
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    done_reason: str | None = None

    def __post_init__(self) -> None:
        if self.fault in {"status", "redirect"} and self.after:
            raise ValueError(f"{self.fault} can only happen before the first piece")
