"""Lists over HTTP: pages, searches, one model's sessions, and what is changed by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.test_session_history import talk
from tests.chat.clients import eventually
from tests.server import API, Server
from tests.standin_thread import StandInThread

SEEN_BY_HAND = 2.0
"""Seconds after which a list has a change by hand."""


def page(server: Server, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = server.ok("GET", f"/sessions?{query}")
    assert list(found) == ["sessions", "next_cursor", "total", "damaged"]
    return found


def ids(server: Server, query: str = "") -> list[str]:
    return [one["session_id"] for one in page(server, query)["sessions"]]


def walked(
    server: Server, query: str, limit: int, between: Callable[[], object] = lambda: None
) -> tuple[list[list[str]], list[int]]:
    """The ids of each page and the totals that they told; `between` is done after each."""
    pages: list[list[str]] = []
    totals: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        assert len(pages) < 50, "the pages have no end"
        found = page(server, f"{query}&limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        pages.append([one["session_id"] for one in found["sessions"]])
        totals.append(found["total"])
        cursor = found["next_cursor"]
        between()
    return pages, totals


def write(server: Server, session: str, **changes: Any) -> Path:
    """Change the metadata in a session's file by hand."""
    file = server.file(session)
    file["metadata"] |= changes
    path = server.sessions / f"{session}.json"
    path.write_text(json.dumps(file, indent=4), "utf-8")
    return path


def soon(server: Server, query: str, expected: list[str]) -> None:
    """The list is this within the time that a change by hand may take to be seen."""
    eventually(lambda: ids(server, query) == expected or None, SEEN_BY_HAND)


# Parameters


@pytest.mark.parametrize(
    "limit", ["0", "1001", "abc", "", "-1", "1.5", "+5", " 5", "1e2", "\u0665", "99999999999999999999"]
)
def test_a_limit_that_is_no_number_from_1_to_1000_is_refused(shared: Server, limit: str) -> None:
    refused = shared.error("GET", f"/sessions?limit={quote(limit)}")
    assert refused == (422, "validation_error", {"path": "limit"})


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_the_least_and_the_largest_limit_are_taken(shared: Server, limit: str) -> None:
    assert shared.call("GET", f"/sessions?limit={limit}").status_code == 200


@pytest.mark.parametrize(
    "cursor", ["", "x", "abc", "AAAA", "=", "!!!!", "_-8=", "eA==", "eAp5", "Cg==", "é", "\x00", "a" * 5000]
)
def test_a_cursor_that_no_answer_told_is_refused(shared: Server, cursor: str) -> None:
    refused = shared.error("GET", f"/sessions?cursor={quote(cursor)}")
    assert refused == (422, "validation_error", {"path": "cursor"})


def test_a_search_for_a_text_that_is_too_long_is_refused(shared: Server) -> None:
    assert shared.error("GET", f"/sessions?q={'x' * 1001}") == (422, "validation_error", {"path": "q"})
    assert page(shared, f"q={'x' * 1000}")["sessions"] == []
    assert page(shared, f"q={quote('ü' * 1000)}")["sessions"] == []


def test_a_list_of_more_than_the_default_limit_has_a_next_page(server: Server) -> None:
    made = server.new_session()
    text = (server.sessions / f"{made}.json").read_text("utf-8")
    server.stop()
    for number in range(1000):
        name = f"{number:010x}"
        (server.sessions / f"{name}.json").write_text(text.replace(made, name), "utf-8")
    server.start()
    first = page(server)
    assert (len(first["sessions"]), first["total"]) == (1000, 1001)
    rest = page(server, f"cursor={first['next_cursor']}")
    assert (len(rest["sessions"]), rest["total"], rest["next_cursor"]) == (1, 1001, None)
    assert len({one["session_id"] for one in (*first["sessions"], *rest["sessions"])}) == 1001


# Searches


@pytest.mark.parametrize(
    ("said", "q"),
    [
        ("Grüße aus Köln", "GRÜSSE"),
        ("GRÜSSE", "grüße"),
        ("Ångström", "a\u030angstro\u0308m"),
        ("cafe\u0301", "CAFÉ"),
        ("ΟΔΟΣ", "οδος"),
        ("NUL \x00 within", "\x00"),
        ("100% sure", "0% S"),
        ("snake_case", "E_C"),
        ('it\'s "quoted"', "'S \""),
        ("C:\\path\\x", "h\\X"),
        ("two\nlines", "o\nl"),
        ("日本語", "本"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("a&b=c#d+e f", "a&b=c#d+e f"),
        ("* OR 1=1 --", "* or 1=1 --"),
    ],
)
def test_what_was_said_is_found_in_any_case_whatever_the_letters(
    shared: Server, shared_standin: StandInThread, said: str, q: str
) -> None:
    found = {
        talk(shared, shared_standin, f"({said})", "-"),
        talk(shared, shared_standin, "-", f"({said})"),
        shared.new_session(title=f"({said})"),
        shared.new_session(system_prompt=f"({said})"),
    }
    other = shared.new_session(title="something else")
    answer = page(shared, f"q={quote(q)}")
    assert found <= {one["session_id"] for one in answer["sessions"]}
    assert other not in {one["session_id"] for one in answer["sessions"]}
    assert answer["total"] == len(answer["sessions"])


def test_only_the_title_and_the_active_path_are_searched(server: Server, standin: StandInThread) -> None:
    session = talk(server, standin, "left behind", "and its answer", "stays", "here", title="old title")
    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "said instead"})
    server.ok("PATCH", f"/sessions/{session}", {"title": "another"})
    for gone in ("left", "its answer", "stays", "here", "old", "tiny", session, "user", "content", "another\nsaid"):
        assert ids(server, f"q={quote(gone)}") == []
    assert ids(server, "q=INSTEAD") == ids(server, "q=another") == [session]
    first = next(m for m in server.file(session)["detached"] if m["content"] == "left behind")
    server.ok("PUT", f"/sessions/{session}/head", {"message_id": first["message_id"]})
    assert ids(server, "q=instead") == []
    assert ids(server, "q=its+answer") == [session]


def test_a_search_for_nothing_is_a_list(server: Server) -> None:
    made = [server.new_session(title=title) for title in ("a", None)]
    assert ids(server, "q=") == made[::-1]


def test_what_is_said_is_found_at_once_and_after_a_restart_and_what_is_deleted_is_not(
    server: Server, standin: StandInThread
) -> None:
    session = talk(server, standin, "the needle", "-")
    assert ids(server, "q=needle") == [session]
    server.stop()
    server.start()
    assert ids(server, "q=needle") == [session]
    server.ok("DELETE", f"/sessions/{session}")
    assert ids(server, "q=needle") == []


def test_a_search_of_one_model_goes_through_its_pages_and_counts_what_matches(server: Server) -> None:
    made: dict[tuple[str, str], list[str]] = {}
    for number in range(24):
        model, title = ("tiny", "tiny-json", "tiny:latest")[number % 3], ("Äpfel", "Birnen")[number % 2]
        made.setdefault((model.removesuffix(":latest"), title), []).insert(
            0, server.new_session(model=model, title=title)
        )
    for (model, title), expected in made.items():
        for limit in (1, 3, len(expected), 1000):
            pages, totals = walked(server, f"q={quote(title.upper())}&model={model}", limit)
            assert [one for each in pages for one in each] == expected
            assert all(len(each) == limit for each in pages[:-1])
            assert set(totals) == {len(expected)}
    assert ids(server, "model=tiny:latest") == ids(server, "model=tiny")
    assert page(server, "q=pfel&model=none") == {"sessions": [], "next_cursor": None, "total": 0, "damaged": []}


# While sessions change


@pytest.mark.parametrize("query", ["", "q=title", "model=tiny", "q=title&model=tiny"])
def test_nothing_is_listed_twice_while_sessions_move_up_and_what_rests_is_not_missed(
    server: Server, query: str
) -> None:
    made = [server.new_session(title=f"title {n}") for n in range(12)]
    to_touch = iter([made[11], made[3], made[0], made[3], made[10], made[7]])
    touched: set[str] = set()

    def touch() -> None:
        if (session := next(to_touch, None)) is not None:
            touched.add(session)
            server.ok("PATCH", f"/sessions/{session}", {"history_limit": len(touched)})

    pages, totals = walked(server, query, 2, touch)
    seen = [one for each in pages for one in each]
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one not in touched] == [one for one in made[::-1] if one not in touched]
    assert set(totals) == {12}


def test_a_page_goes_on_though_the_session_it_ended_with_is_gone(server: Server) -> None:
    made = [server.new_session() for _ in range(4)]
    first = page(server, "limit=2")
    server.ok("DELETE", f"/sessions/{made[2]}")
    rest = page(server, f"cursor={first['next_cursor']}")
    assert [one["session_id"] for one in rest["sessions"]] == [made[1], made[0]]
    assert rest["total"] == 3


def test_a_cursor_holds_through_a_restart(server: Server) -> None:
    made = [server.new_session() for _ in range(4)]
    first = page(server, "limit=2")
    server.stop()
    server.start()
    assert ids(server, f"cursor={first['next_cursor']}") == made[1::-1]


# Changes by hand


def test_a_change_by_hand_is_listed_and_found_within_two_seconds(server: Server, standin: StandInThread) -> None:
    first, second = talk(server, standin, "q1", "a1"), server.new_session()
    assert ids(server) == [second, first]
    write(server, first, title="By Hand", updated_at="2999-01-01T00:00:00.000000Z")
    soon(server, "", [first, second])
    assert page(server)["sessions"][0]["title"] == "By Hand"
    assert ids(server, "q=by+hand") == [first]
    file = server.file(first)
    file["messages"][0]["content"] = "another question"
    (server.sessions / f"{first}.json").write_text(json.dumps(file), "utf-8")
    soon(server, "q=another", [first])
    assert ids(server, "q=q1") == []


def test_files_that_come_and_go_are_listed_within_two_seconds(server: Server) -> None:
    first = server.new_session(title="first")
    text = (server.sessions / f"{first}.json").read_text("utf-8")
    (server.sessions / "00000000c0.json").write_text(text.replace(first, "00000000c0"), "utf-8")
    soon(server, "q=first", sorted([first, "00000000c0"], reverse=True))
    assert page(server)["total"] == 2
    (server.sessions / f"{first}.json").unlink()
    soon(server, "", ["00000000c0"])
    assert ids(server, "q=first") == ["00000000c0"]
    assert page(server)["total"] == 1


def test_a_file_that_is_damaged_and_mended_moves_between_the_two_lists_within_two_seconds(server: Server) -> None:
    session, other = server.new_session(title="mine"), server.new_session()
    path = server.sessions / f"{session}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    soon(server, "", [other])
    for query in ("", "q=mine", "limit=1", "model=none"):
        found = page(server, query)
        assert [(one["session_id"], bool(one["reason"])) for one in found["damaged"]] == [(session, True)]
    assert page(server)["total"] == 1
    assert ids(server, "q=mine") == []
    path.write_bytes(whole)
    soon(server, "", [other, session])
    assert page(server)["damaged"] == []
    assert ids(server, "q=mine") == [session]


def test_a_copy_that_still_has_the_other_ones_id_within_is_listed_as_damaged(server: Server) -> None:
    session = server.new_session()
    copied = (server.sessions / f"{session}.json").read_bytes()
    (server.sessions / "00000000c0.json").write_bytes(copied)
    eventually(lambda: page(server)["damaged"] or None, SEEN_BY_HAND)
    assert [one["session_id"] for one in page(server)["damaged"]] == ["00000000c0"]
    assert ids(server) == [session]


def test_pages_go_on_behind_a_session_whose_time_was_written_by_hand(server: Server) -> None:
    made = [server.new_session() for _ in range(3)]
    for session, time in zip(made, ("é\nx", "\n\n", "a b"), strict=True):
        write(server, session, updated_at=time)
        server.ok("GET", f"/sessions/{session}")
    pages, totals = walked(server, "", 1)
    assert [each[0] for each in pages] == [made[0], made[2], made[1]]
    assert totals == [3, 3, 3]


def test_every_session_keeps_its_line_whatever_else_is_asked(server: Server, standin: StandInThread) -> None:
    session = talk(server, standin, "q1", "a1", title="t")
    line = page(server)["sessions"][0]
    for query in ("q=a1", "model=tiny", "limit=1", "q=T&model=tiny:latest&limit=1"):
        assert page(server, query)["sessions"] == [line]
    assert server.client.get(f"{API}/sessions", params={"unknown": "x"}).status_code == 200
    assert line["preview"] == "a1"
    assert server.ok("GET", f"/sessions/{session}")["updated_at"] == line["updated_at"]
