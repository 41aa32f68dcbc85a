"""create_app: builds the parts, owns their lifetimes, hands them to the routes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mochi_server.api.application import Application, application
from mochi_server.api.http import LARGE_BODIES, State
from mochi_server.chat.admission import Admission
from mochi_server.chat.generations import Generations
from mochi_server.chat.turn import ReplyLimits
from mochi_server.observability.metrics import Metrics
from mochi_server.ollama.address import parse_address
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.client import Limits, OllamaClient
from mochi_server.settings import Settings
from mochi_server.store.prompts import PromptFiles
from mochi_server.store.sessions import SessionStore


def create_app(settings: Settings, store: SessionStore, metrics: Metrics) -> Application:
    """The application over a sessions folder that was taken; it lets go of the folder when it ends.

    `metrics` are those that the store counts in, too.
    """

    @asynccontextmanager
    async def lifespan(_: Application) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            await store.open()
            prompts = PromptFiles(settings.system_prompts_folder, store.threads)
            await prompts.open()
            ollama = await stack.enter_async_context(_ollama(settings, metrics))
            catalog = Catalog(ollama, settings.model, settings.allowed_models)
            stack.callback(catalog.close)
            admission = Admission(settings.max_concurrent, settings.max_queue)
            generations = Generations(
                store, ollama, catalog, admission, _reply_limits(settings), settings.disconnect_grace, metrics
            )
            _watch(metrics, admission, store)
            await generations.open()
            stack.push_async_callback(generations.drain, 0)
            yield State(
                settings=settings,
                store=store,
                prompts=prompts,
                ollama=ollama,
                catalog=catalog,
                generations=generations,
                metrics=metrics,
                large_bodies=asyncio.Semaphore(LARGE_BODIES),
            )

    return application(settings, lifespan, metrics)


async def require_model(settings: Settings) -> None:
    """Make sure that the default model is there. Raises ModelNotFound, and what asking Ollama raises."""
    async with _ollama(settings, Metrics()) as ollama:
        catalog = Catalog(ollama, settings.model, settings.allowed_models)
        await catalog.find(await catalog.choose(None))


@asynccontextmanager
async def _ollama(settings: Settings, metrics: Metrics) -> AsyncIterator[OllamaClient]:
    """The door to Ollama; with `--demo` to a stand-in that is there as long."""
    async with AsyncExitStack() as stack:
        address = settings.ollama
        if settings.demo:
            # A tenth of what a start takes, for --demo alone.
            from mochi_server.ollama.demo import demo_standin  # noqa: PLC0415

            standin = await stack.enter_async_context(demo_standin())
            address = parse_address(standin.url)
        ollama = OllamaClient(address, _limits(settings), metrics)
        stack.push_async_callback(ollama.close)
        yield ollama


def _watch(metrics: Metrics, admission: Admission, store: SessionStore) -> None:
    metrics.watch(
        running=lambda: admission.running,
        queued=lambda: admission.waiting,
        sessions=lambda: store.counts[0],
        damaged=lambda: store.counts[1],
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        connect=settings.connect_timeout, first_token=settings.first_token_timeout, token=settings.token_timeout
    )


def _reply_limits(settings: Settings) -> ReplyLimits:
    return ReplyLimits(
        characters=settings.max_reply_chars, seconds=settings.max_reply_seconds, queue_seconds=settings.queue_timeout
    )
