"""An Ollama that costs next to nothing: lines made beforehand, sent on a clock. For benchmarks only."""

import argparse
import asyncio
import json
import re

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)
TAGS = b'{"models":[{"name":"bench:latest","model":"bench:latest","digest":"0","size":1}]}'
PS = b'{"models":[{"name":"bench:latest","model":"bench:latest","digest":"0","size":1,"context_length":4096}]}'
MOST_TOKENS = 20_000
NUM_PREDICT = re.compile(rb'"num_predict":\s*(\d+)')
SHOW = b'{"capabilities":["completion"],"model_info":{}}'


def line(content: str, *, done: bool = False) -> bytes:
    """One line of a reply as a transfer chunk, with the fields and the length of a real one."""
    chunk = {
        "model": "bench",
        "created_at": "2026-01-01T00:00:00.000000000Z",
        "message": {"role": "assistant", "content": content},
        "done": done,
    }
    if done:
        chunk |= {"done_reason": "stop", "total_duration": 1, "load_duration": 1, "prompt_eval_count": 5}
        chunk |= {"prompt_eval_duration": 1, "eval_count": 100, "eval_duration": 1}
    data = json.dumps(chunk, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int, rate: float) -> None:
    """Answer every chat with `num_predict` tokens, at this many a second (0: as fast as they go)."""
    pieces = [line(f" w{i}") for i in range(MOST_TOKENS)]
    last = line("", done=True) + b"0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked = NUM_PREDICT.search(await read_body(reader, head))
            if b"/api/chat" in head and asked:
                await say(writer, int(asked[1]))
            else:
                body = SHOW if b"/api/show" in head else PS if b"/api/ps" in head else TAGS
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def say(writer: asyncio.StreamWriter, tokens: int) -> None:
        writer.write(HEAD)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for piece in pieces[:tokens]:
            writer.write(piece)
            await writer.drain()
            if rate:
                due += 1 / rate
                await asyncio.sleep(max(due - loop.time(), 0))
        writer.write(last)
        await writer.drain()

    async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=2048) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The request's body."""
    for header in head.split(b"\r\n"):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            return await reader.readexactly(int(value))
    return b""


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.rate))
