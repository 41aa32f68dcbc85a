"""A part of an answer's body written from where it comes about: no task is woken for it."""

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from mochi_server.api.edge import WriteNow


def write_now(cycle: RequestResponseCycle) -> WriteNow:
    """What writes a part of this answer's body as uvicorn's own `send` does, but for the coroutine."""

    def write(body: bytes | bytearray) -> bool:
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
            return False
        if cycle.transport.is_closing():
            return False  # it is told of a moment later that the client has left
        cycle.transport.write(b"%x\r\n" % len(body) + body + b"\r\n")
        return True

    return write
