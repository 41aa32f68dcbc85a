"""Whether what is asked can be granted: before anything is held, changed or queued for it."""

import contextlib

from mochi_server.chat.images import check_shown, to_be_shown
from mochi_server.chat.prompt import Ask, turned_to
from mochi_server.domain.session import Session
from mochi_server.errors import OllamaTimeout, OllamaUnreachable
from mochi_server.ollama.catalog import Catalog
from mochi_server.store.sessions import SessionStore


def demands_much(ask: Ask) -> bool:
    """Whether it takes more than what any model of a session can do."""
    return bool(ask.model or ask.think or ask.tools or ask.images)


async def check(session: Session, ask: Ask, catalog: Catalog, store: SessionStore) -> str | None:
    """Raise ModelNotFound, CapabilityMissing, ImageNotFound, where what is asked cannot be granted.

    The model that may be shown images, where there are any.
    """
    session = turned_to(session, ask)
    model = session.metadata.model
    await catalog.check_allowed(model)
    if ask.model is not None and catalog.known(model) is None:
        with contextlib.suppress(OllamaUnreachable, OllamaTimeout):  # it may be there: to ask it will tell
            await catalog.find(model)
    if ask.think:
        await catalog.require(model, "thinking")
    if ask.tools:
        await catalog.require(model, "tools")
    if not (shown := to_be_shown(session, ask)):
        return None
    await check_shown(shown, model, catalog, store, {image.reference for image in ask.images})
    return model
