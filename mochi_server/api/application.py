"""The ASGI application: the routes, and the layers around them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.routing import Router
from starlette.types import ASGIApp

from mochi_server.api.edge import Edge
from mochi_server.api.http import State
from mochi_server.api.routes import OPEN_PATHS, nothing_here, routes
from mochi_server.api.security import Security
from mochi_server.observability.metrics import Metrics
from mochi_server.settings import Settings

Application = ASGIApp


def application(
    settings: Settings, lifespan: Callable[[Application], AbstractAsyncContextManager[State]], metrics: Metrics
) -> Application:
    """All that speaks HTTP, with the parts that `lifespan` yields at hand.

    A bare router, not a Starlette application: that one's two error layers would answer in another shape, and wrap
    each of a stream's events.
    """
    router = Router(routes(), redirect_slashes=False, default=nothing_here, lifespan=lifespan)
    return Edge(Security(router, settings, OPEN_PATHS), metrics)
