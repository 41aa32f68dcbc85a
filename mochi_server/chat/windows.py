"""The window that each model is loaded with: what we name for it, and what Ollama shows.

One window serves all sessions of a model, since another one has it loaded anew. Ollama is looked at once a reply has
begun, and while nothing runs: never on the way to a first token.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine

import msgspec

from mochi_server.domain.context_window import USUAL_WINDOW, Choice, Known
from mochi_server.domain.tokens import factor_of
from mochi_server.errors import MochiError
from mochi_server.ollama.catalog import Catalog, Loaded, full_name
from mochi_server.ollama.shared import SharedCall

AFTER_BEGINNING = 0.3
"""Seconds from a reply's first token until Ollama is looked at: the token goes out first."""

WHILE_UNKNOWN = 0.02
"""The same where nothing is known of the window, which is saved with the reply."""

PATIENCE = 1.0
"""Seconds that a reply's end waits for Ollama to say in which window it was made."""

FRESH = 0.9
"""Seconds for which a look serves others too."""

WATCH_SECONDS = 30.0
"""How often a model is looked at whose window was made larger: once it is unloaded, the next may be a small one."""


MOST_KEPT = 256
"""Of models, and of windows of one model, that are kept in mind: clients may name any."""


class _Window(msgspec.Struct):
    """What is known of one model. `seen` is the window in force by the `num_ctx` that was sent, None for none."""

    named: int | None = None
    seen: dict[int | None, int] = {}
    running: int = 0
    """Replies of ours that are at Ollama."""
    loaded_with: int | msgspec.UnsetType | None = msgspec.UNSET
    """The `num_ctx` that it was last loaded with for us; unset while that is not certain."""
    fixed: set[int] = set()
    """Windows that sessions had fixed: to find the model in one of these means nothing for others."""
    began: float = 0.0
    """When a reply of ours last began, in seconds of the monotonic clock."""
    factor: float | None = None
    """What its tokens are to our estimate."""


class Windows:
    """Knows the models' windows. `catalog` knows their own lengths, and what Ollama has loaded."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._windows: dict[str, _Window] = {}
        self._loaded: list[Loaded] | None = None
        self._looked = float("-inf")
        self._look = SharedCall(self._look_at_ollama)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Find out what Ollama has and has loaded, in the background."""
        self._in_background(self._look_in(0))
        self._catalog.refresh_soon()

    def close(self) -> None:
        """Look no more."""
        for task in (*self._tasks, *filter(None, [self._watching])):
            task.cancel()

    def known(self, model: str) -> Known:
        """What is known of the model's window now."""
        window, limit = self._window(model), self._limit(model)
        in_force = window.seen.get(window.named)
        if in_force is None and window.named is not None:
            in_force = window.named if limit is None else min(window.named, limit)
        return Known(named=window.named, in_force=in_force, limit=limit)

    async def known_now(self, model: str) -> Known:
        """As `known`, as of this second where Ollama answers at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.loaded()
        return self.known(model)

    def factor(self, model: str) -> float | None:
        """What the model's tokens are to our estimate, as its last reply told."""
        return self._window(model).factor

    def admitted(self, model: str, choice: Choice) -> None:
        """A reply in this window goes to Ollama. One that was chosen for its history is from now on the model's."""
        window = self._window(model)
        window.running += 1
        if window.loaded_with != choice.num_ctx:
            window.loaded_with = msgspec.UNSET
        if choice.fixed and choice.window is not None:
            if len(window.fixed) >= MOST_KEPT:
                window.fixed.clear()
            window.fixed.add(choice.window)
        elif choice.num_ctx is not None:
            self.name(model, choice.num_ctx)

    def name(self, model: str, num_ctx: int) -> None:
        """Name this window in every request to the model, unless a larger one is named already."""
        window = self._window(model)
        window.named = max(window.named or 0, num_ctx)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def begun(self, model: str, num_ctx: int | None) -> None:
        """Its first token has come: it is loaded with that."""
        window = self._window(model)
        window.loaded_with, window.began = num_ctx, time.monotonic()
        if num_ctx not in window.seen:
            self._in_background(self._look_since(window.began, WHILE_UNKNOWN))
        else:
            self._in_background(self._look_in(AFTER_BEGINNING))

    def left(self, model: str) -> None:
        """The reply is at Ollama no more."""
        self._window(model).running -= 1

    async def refused(self, model: str, choice: Choice, plain: float) -> int | None:
        """A prompt was refused as too long, which has the model loaded all the same. Returns its window, if known.

        `plain` is the prompt's estimate, uncorrected: its tokens are more than that window has.
        """
        window = self._window(model)
        window.loaded_with, window.began = choice.num_ctx, time.monotonic()
        in_force = await self.in_force(model, choice, certain=True)
        if in_force is not None:
            window.factor = max(window.factor or 1.0, factor_of(in_force, plain))
        return in_force

    def counted(self, model: str, tokens: int, plain: float) -> None:
        """A prompt had so many tokens; `plain` is its estimate, uncorrected."""
        self._window(model).factor = factor_of(tokens, plain)

    async def in_force(self, model: str, choice: Choice, *, certain: bool = False, waiting: bool = True) -> int | None:
        """The window in which a reply is that was asked for so; None where Ollama does not say.

        Where it is not known yet, or has to be `certain`, Ollama is waited for, for a moment, unless not `waiting`.
        """
        window = self._window(model)
        if waiting and (certain or choice.num_ctx not in window.seen):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._look_since(window.began)
        return window.seen.get(choice.num_ctx, choice.window)

    async def loaded(self) -> list[Loaded] | None:
        """The models that Ollama has loaded, as of this second; None where it does not say."""
        if time.monotonic() - self._looked >= FRESH:
            await self._look()
        return self._loaded

    def _window(self, model: str) -> _Window:
        name = full_name(model)
        window = self._windows.get(name)
        if window is None:
            idle = [other for other, known in self._windows.items() if not known.running]
            if len(self._windows) >= MOST_KEPT and idle:
                del self._windows[idle[0]]
            window = self._windows[name] = _Window()
        return window

    def _limit(self, model: str) -> int | None:
        found = self._catalog.known(model)
        return found.context_length if found else None

    def _in_background(self, look: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(look)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_in(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await self.loaded()

    async def _look_since(self, moment: float, delay: float = 0.0) -> None:
        """Look, unless that was done since; one that began before may have seen another model's reply."""
        await asyncio.sleep(delay)
        for _ in range(2):
            if self._looked < moment:
                await self._look()

    async def _watch(self) -> None:
        while any(window.named is not None for window in self._windows.values()):
            await asyncio.sleep(WATCH_SECONDS)
            await self.loaded()

    async def _look_at_ollama(self) -> None:
        began = time.monotonic()
        before = {name: (window.loaded_with, window.running) for name, window in self._windows.items()}
        try:
            self._loaded = await self._catalog.loaded()
        except MochiError:
            self._loaded = None
            return
        finally:
            self._looked = began
        found = {name: one.window for one in self._loaded for name in one.names}
        for name in found.keys() | self._windows.keys():
            window = self._window(name)
            now = (window.loaded_with, window.running)
            # What changed while we looked was perhaps seen as it was before.
            if before.get(name, now) == now:
                _note(window, found.get(name), self._limit(name), none=not found)


def _note(window: _Window, found: int | None, limit: int | None, *, none: bool) -> None:
    """Take in that Ollama shows the model with this window; None: it is not shown, or without one.

    Of models that share their weights Ollama shows one: not to be shown means nothing where it never was, unless none
    at all is shown.
    """
    last = window.loaded_with
    if found is None:
        if not window.running and (window.seen or none):
            window.named, window.loaded_with = None, msgspec.UNSET
    elif last is not msgspec.UNSET and (window.running or last not in window.seen):
        if len(window.seen) >= MOST_KEPT:
            window.seen = {num_ctx: window.seen[num_ctx] for num_ctx in {None, window.named} & window.seen.keys()}
        window.seen[last] = found
    elif not window.running and found != window.seen.get(None if last is msgspec.UNSET else last):
        # Somebody else had it loaded so, or we did before a restart: to go with that costs no reload.
        usual = USUAL_WINDOW if limit is None else min(USUAL_WINDOW, limit)
        if found in {window.seen.get(None), usual} | window.fixed:
            window.named, window.loaded_with = None, msgspec.UNSET
        else:
            window.named = window.loaded_with = found
            window.seen[found] = found
