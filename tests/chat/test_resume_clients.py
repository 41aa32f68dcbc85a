"""Ordinary clients resume as they would any stream of events: curl, and httpx-sse."""

import json
import shutil
import subprocess

import httpx_sse
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import generating, last_message, parsed, raw_chat, read_events
from tests.chat.listeners import stream_of, told_again
from tests.server import API, LIMIT, Event, Server, joined
from tests.standin_thread import StandInThread
from tests.tiny_models import UNICODE


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_prints_the_rest_of_a_running_reply_as_it_comes(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(3)
    standin.script(Behaviour(pieces=UNICODE, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as first:
        read_events(first, 3)
        generation = generating(server, session)
        url = f"{server.url}{API}{stream_of(session)}"
        command = ["curl", "-sSN", "--max-time", f"{LIMIT:g}", "-H", f"Last-Event-ID: {generation}-2", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            begun = b"".join(curl.stdout.readline() for _ in range(5))  # retry, the third event, its blank line
            assert [event.id for event in parsed(begun)] == [f"{generation}-3"]
            gate.open()
            rest = begun + curl.stdout.read()
        first.read_rest()

    assert curl.returncode == 0
    assert parsed(rest) == parsed(told_again(server, session))[2:]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_is_told_that_there_is_no_more(server: Server) -> None:
    session = server.new_session()
    done = server.events(stream_of(session), {"message": "hi"})[-1]
    url = f"{server.url}{API}{stream_of(session)}?after={done.id}"

    told = subprocess.run(["curl", "-sSN", "-w", "%{http_code}", url], capture_output=True, check=True, timeout=LIMIT)

    assert told.stdout == b"204"


def test_httpx_sse_goes_on_with_the_last_id_that_it_knows(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(5)
    standin.script(Behaviour(pieces=UNICODE, gate=gate))
    events: list[Event] = []
    with raw_chat(server, stream_of(session), {"message": "hi"}) as asking:
        read_events(asking, 5)
        for most in (2, 2, len(UNICODE)):
            headers = {"Last-Event-ID": events[-1].id} if events else {}
            with httpx_sse.connect_sse(server.client, "GET", API + stream_of(session), headers=headers) as source:
                for number, event in enumerate(source.iter_sse(), 1):
                    assert event.retry == (1000 if number == 1 else None)
                    events.append(Event(event.id, event.event, json.loads(event.data)))
                    if number == most:
                        break
                    if len(events) == 5:
                        gate.open()
        asking.read_rest()

    assert events == parsed(told_again(server, session))
    assert joined(events) == "".join(UNICODE) == last_message(server, session)["content"]
