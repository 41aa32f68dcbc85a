"""What is counted, for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.http import state


async def read(request: Request) -> Response:
    """All metrics, in the form that the request's `Accept` asks for."""
    content, media_type = state(request)["metrics"].text(", ".join(request.headers.getlist("accept")))
    return Response(content, headers={"Content-Type": media_type})
