"""uvicorn as mochi-server runs it, around another application: the same parser, the same event loop, no access log."""

import socket

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 2048


def serve(application: ASGIApp) -> None:
    """Serve it on a free port, which is printed, until the process is told to end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        application,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
