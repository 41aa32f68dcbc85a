"""Many listeners to one reply: each hears the same events at its own pace, and none waits for another."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import (
    RawChat,
    ending,
    generating,
    last_message,
    leave_with_a_reset,
    parsed,
    raw_chat,
    read_events,
)
from tests.chat.listeners import WAYS, frames, heard, listening, stream_of, told_again
from tests.raw_http import RawAnswer, RawClient
from tests.server import API, LIMIT, Server, joined
from tests.standin_thread import StandInThread

ENVIRONMENT = {"MOCHI_MAX_REPLY_CHARS": "100000000"}
MANY = tuple(f"{n} " + "x" * 500 for n in range(20_000))
"""12 MB on the wire: far more than the system holds for who does not read it, which is 4 MB."""

SILENT = 10
RECEIVES = 200_000


@contextmanager
def deaf(server: Server, session: str) -> Iterator[RawClient]:
    """A listener that reads nothing by itself, and for which the system holds as little as it can."""
    with RawChat(server.url) as client:
        request = f"GET {API}{stream_of(session)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVES)
        client.socket.settimeout(LIMIT)
        client.socket.sendall(request.encode())
        yield client


def test_twenty_listeners_that_start_at_different_times_hear_the_same_events(
    server: Server, standin: StandInThread
) -> None:
    session, places = server.new_session(), [*range(3, 63, 3)]
    gate = Gate(*places)
    standin.script(Behaviour(pieces=tuple(f"{n}\u2028\n" for n in range(70)), gate=gate))

    with ExitStack() as stack:
        first = stack.enter_context(raw_chat(server, stream_of(session), {"message": "hi"}))
        generation, clients = "", []
        for number, place in enumerate(places):
            gate.wait(place)
            read_events(first, place)
            generation = generation or generating(server, session)
            last = f"{generation}-{place - number % 3}" if number % 2 else None
            clients.append(stack.enter_context(listening(server, session, last, WAYS[number % 4 // 2])))
            gate.open(place)
        whole = frames(first.read_rest().body)
        answers = [client.read_rest() for client in clients]

    assert len(answers) == 20
    for number, (place, answer) in enumerate(zip(places, answers, strict=True)):
        assert answer.whole
        assert frames(answer.body) == whole[place - number % 3 if number % 2 else 0 :]
    assert joined(parsed(answers[0].body)) == last_message(server, session)["content"]


def test_listeners_that_read_nothing_cost_little_hold_nobody_up_and_get_all_of_it_in_the_end(
    server: Server, standin: StandInThread
) -> None:
    session, gate = server.new_session(), Gate(1)
    standin.script(Behaviour(pieces=MANY, gate=gate))
    process = psutil.Process(server.process.pid)

    with raw_chat(server, stream_of(session), {"message": "hi"}) as reading, ExitStack() as stack:
        read_events(reading, 1)
        clients = [stack.enter_context(deaf(server, session)) for _ in range(SILENT)]
        before = process.memory_info().rss
        gate.open()
        whole = reading.read_rest()
        cost = process.memory_info().rss - before
        # It is over, saved and told to who listens, and the others have not read a byte of it.
        assert ending(last_message(server, session)) == ("".join(MANY), "complete", "stop")
        with ThreadPoolExecutor(SILENT) as pool:
            answers = [*pool.map(RawClient.read_rest, clients)]

    assert {answer.body for answer in answers} == {whole.body}
    assert joined(parsed(whole.body)) == "".join(MANY)
    # What the reply takes itself, while it is saved, is four times its length. One kept for each would be eleven.
    size = len(whole.body)
    assert cost < 6 * size


def in_the_middle_of_an_event(client: RawClient) -> None:
    """Read no further than into the next event."""
    client.socket.settimeout(LIMIT)
    assert client.socket.recv(9, socket.MSG_WAITALL)


@pytest.mark.parametrize("leave", [RawClient.leave, leave_with_a_reset])
def test_who_is_cut_off_in_the_middle_of_an_event_takes_nothing_from_the_others(
    server: Server, standin: StandInThread, leave: Callable[[RawClient], None]
) -> None:
    session, gate = server.new_session(), Gate(1000)
    standin.script(Behaviour(pieces=MANY[:2000], gate=gate))
    answers: list[RawAnswer] = []

    with raw_chat(server, stream_of(session), {"message": "hi"}) as first, ExitStack() as stack:
        leaving = [stack.enter_context(deaf(server, session)) for _ in range(5)]
        staying = stack.enter_context(listening(server, session))
        read_events(first, 1000)
        for client in leaving:
            in_the_middle_of_an_event(client)
            leave(client)
        gate.open()
        answers = [client.read_rest() for client in (first, staying)]

    assert answers[0].body == answers[1].body
    assert joined(parsed(answers[1].body)) == last_message(server, session)["content"]
    assert [line for line in server.log_lines() if line["level"] != "info"] == []


def test_when_all_are_cut_off_at_once_the_reply_waits_for_them_and_each_goes_on_where_it_was(
    server: Server, standin: StandInThread
) -> None:
    session, gate = server.new_session(), Gate(3, 6)
    standin.script(Behaviour(gate=gate))
    with ExitStack() as stack:
        first = stack.enter_context(raw_chat(server, stream_of(session), {"message": "hi"}))
        read_events(first, 3)
        clients = [first, *(stack.enter_context(listening(server, session)) for _ in range(4))]
        for number, client in enumerate(clients):
            read_events(client, 3)
            (RawClient.leave if number % 2 else leave_with_a_reset)(client)
    gate.open(3)
    generation = generating(server, session)

    with ExitStack() as stack:
        clients = [stack.enter_context(listening(server, session, f"{generation}-3")) for _ in range(5)]
        gate.open()
        answers = [client.read_rest() for client in clients]

    events = heard(server, session)
    assert [parsed(answer.body) for answer in answers] == [events[3:]] * 5
    assert joined(events) == last_message(server, session)["content"]


def test_a_listener_in_another_session_hears_nothing_of_it(server: Server, standin: StandInThread) -> None:
    sessions, gates = [server.new_session(), server.new_session()], [Gate(1), Gate(1)]
    with ExitStack() as stack:
        for session, gate in zip(sessions, gates, strict=True):
            standin.script(Behaviour(pieces=(session, "!"), gate=gate))
            first = stack.enter_context(raw_chat(server, stream_of(session), {"message": "hi"}))
            read_events(first, 1)
        clients = [stack.enter_context(listening(server, session)) for session in sessions]
        for gate in gates:
            gate.open()
        answers = [client.read_rest() for client in clients]

    assert [joined(parsed(answer.body)) for answer in answers] == [f"{session}!" for session in sessions]


def test_listeners_to_a_long_reply_that_has_ended_share_it_and_get_all_of_it_in_the_end(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=MANY))
    server.ok("POST", f"/chat/{session}", {"message": "hi"})
    process = psutil.Process(server.process.pid)

    with ExitStack() as stack, ThreadPoolExecutor(SILENT) as pool:
        before = process.memory_info().rss
        clients = [stack.enter_context(deaf(server, session)) for _ in range(SILENT)]
        for client in clients:
            read_events(client, 1)  # it has been read for this one, and goes no further
        cost = process.memory_info().rss - before
        whole = told_again(server, session)  # all of it is told to somebody else meanwhile
        answers = [*pool.map(RawClient.read_rest, clients)]

    assert {answer.body for answer in answers} == {whole}
    assert joined(parsed(whole)) == "".join(MANY)
    size = len(whole)
    assert cost < 6 * size
