"""The ASGI application: the routes, and the layers around them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from sse_starlette.sse import AppStatus
from starlette.applications import Starlette
from starlette.middleware import Middleware

from mochi_server.api.edge import Edge
from mochi_server.api.http import State
from mochi_server.api.routes import routes
from mochi_server.api.security import Security
from mochi_server.settings import Settings

Application = Starlette


def application(settings: Settings, lifespan: Callable[[Starlette], AbstractAsyncContextManager[State]]) -> Application:
    """All that speaks HTTP, with the parts that `lifespan` yields at hand."""
    # Every stream of ours ends by itself once its reply has: nobody's last events are to be cut off.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # its type was left out
    security = Middleware(
        Security, bound_host=settings.host, allow_host=settings.allow_host, allow_origin=settings.allow_origin
    )
    app = Starlette(routes=routes(), middleware=[Middleware(Edge), security], lifespan=lifespan)
    # A path with a slash too many is a 404 like any other, not a redirect.
    app.router.redirect_slashes = False
    return app
