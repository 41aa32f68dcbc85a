"""System prompt files: made, read, listed, replaced and removed; those that people put there by hand; and nothing of
what lies beside their folder.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.api.wire import exchange
from tests.server import Server, told
from tests.standin_thread import StandInThread

HOST = ("Host", "localhost")
JSON = ("Content-Type", "application/json")
OUTSIDE = "what lies outside of the folder"


def folder(server: Server) -> Path:
    return server.folder / "system_prompts"


def listed(server: Server) -> dict[str, dict[str, Any]]:
    """The listed prompts, by name."""
    return {one["filename"]: one for one in server.ok("GET", "/system-prompts")["prompts"]}


def tree(place: Path) -> dict[str, bytes | str]:
    """All that is in a folder, links and folders included."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() and not path.is_symlink() else "no file"
        for path in place.rglob("*")
        if not path.name.startswith(("server.log", "index.sqlite"))
    }


@contextmanager
def untouched(server: Server) -> Iterator[None]:
    before = tree(server.folder)
    yield
    assert tree(server.folder) == before


@pytest.fixture(scope="module")
def prompts(shared: Server) -> Server:
    """The shared server, with a folder that has a prompt."""
    shared.ok("POST", "/system-prompts", {"filename": "first.md", "content": "First."})
    return shared


def test_a_prompt_is_made_read_listed_replaced_and_removed(prompts: Server) -> None:
    made = prompts.call("POST", "/system-prompts", {"filename": "Be brief_2.md", "content": "Be  brief.\n"})
    assert (made.status_code, made.json()) == (201, {"filename": "Be brief_2.md", "content": "Be  brief.\n"})
    assert made.headers["location"] == "/api/v1/system-prompts/Be%20brief_2.md"
    assert prompts.client.get(made.headers["location"]).json() == made.json()
    told_in_list = {"filename": "Be brief_2.md", "preview": "Be brief.", "word_count": 2}
    assert listed(prompts)["Be brief_2.md"] == told_in_list
    assert list(listed(prompts)) == sorted(listed(prompts))

    replaced = prompts.ok("PUT", "/system-prompts/Be%20brief_2.md", {"content": "Be kind."})
    assert replaced == {"filename": "Be brief_2.md", "content": "Be kind."}
    assert prompts.ok("GET", "/system-prompts/Be%20brief_2.md") == replaced

    gone = prompts.call("DELETE", "/system-prompts/Be%20brief_2.md")
    assert (gone.status_code, gone.content) == (204, b"")
    for method, body in (("GET", None), ("DELETE", None), ("PUT", {"content": "x"})):
        with untouched(prompts):
            status, code, details = prompts.error(method, "/system-prompts/Be%20brief_2.md", body)
        assert (status, code, details) == (404, "prompt_not_found", {"filename": "Be brief_2.md"})


def test_the_folder_is_made_with_the_first_prompt_closed_to_others_and_cleaned_after_a_kill(
    tmp_path: Path, standin: StandInThread
) -> None:
    place = tmp_path / "deep" / "down"
    with Server(tmp_path, standin.url, "--system-prompts-dir", "deep/down") as server:
        assert server.ok("GET", "/system-prompts") == {"prompts": []}
        for method, path, body in (
            ("GET", "/system-prompts/a.md", None),
            ("PUT", "/system-prompts/a.md", {"content": "x"}),
            ("DELETE", "/system-prompts/a.md", None),
            ("POST", "/system-prompts", {"filename": "../a.md", "content": "x"}),
        ):
            assert server.call(method, path, body).status_code in {404, 422}
        assert not place.parent.exists()

        server.ok("POST", "/system-prompts", {"filename": "a.md", "content": "A"})
        assert [path.name for path in place.iterdir()] == ["a.md"]
        assert (place / "a.md").stat().st_mode & 0o777 == 0o600
        assert {path.stat().st_mode & 0o777 for path in (place, place.parent)} == {0o700}

        server.kill()
        for name in ("0123456789abcdef.tmp", "mine.tmp"):
            (place / name).write_text("half")
        server.start()
        assert sorted(path.name for path in place.iterdir()) == ["a.md", "mine.tmp"]
        assert list(listed(server)) == ["a.md"]


@pytest.mark.parametrize(
    "content",
    ["a\r\nb\rc\n\n", " ", "\n", "\x00", "\ufeff", "\ufeff\ufeffx", "x\u2028y\x85", "👩\u200d🚀", "x" * 20_000],
    ids=lambda content: ascii(content[:8]),
)
def test_a_text_is_kept_exactly(prompts: Server, content: str) -> None:
    prompts.ok("POST", "/system-prompts", {"filename": "exact.md", "content": content})
    assert prompts.ok("GET", "/system-prompts/exact.md")["content"] == content
    prompts.ok("PUT", "/system-prompts/exact.md", {"content": f"{content[1:]}y"})
    assert prompts.ok("GET", "/system-prompts/exact.md")["content"] == f"{content[1:]}y"
    assert listed(prompts)["exact.md"]["word_count"] == len(f"{content[1:]}y".split())
    prompts.ok("DELETE", "/system-prompts/exact.md")


@pytest.mark.parametrize("content", ["", "x" * 20_001, None, 7])
def test_a_text_of_another_length_is_refused(prompts: Server, content: object) -> None:
    with untouched(prompts):
        for method, path, named in (
            ("POST", "/system-prompts", {"filename": "new.md"}),
            ("PUT", "/system-prompts/first.md", {}),
        ):
            status, code, details = prompts.error(method, path, {**named, "content": content})
            assert (status, code, details["path"]) == (422, "validation_error", "$.content")


BAD_NAMES = [
    *("", ".", "..", ".md", ".hidden.md", "-flag.md", " lead.md", "x", "x.txt", "x.md.txt", "x.MD", "x.md ", "x.md."),
    *("../x.md", "../../x.md", "a/../x.md", "a/x.md", "/x.md", "/etc/x.md", "./x.md", "..\\x.md", "a\\x.md", "C:x.md"),
    *("x\x00.md", "x.md\x00", "x.md\n", "x\n.md", "x\r.md", "x\u2028.md", "\nx.md", "x\x1b.md", "x\u202e.md", "é.md"),
    *("%2e%2e%2fx.md", "~/x.md", "~x.md", "$HOME.md", "x*.md", "x?.md", "x|.md", "x:y.md", "con.md", "NUL.x.md"),
    *("x" * 253 + ".md", "x" * 5000 + ".md"),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_name_that_is_none_is_refused_in_a_body(prompts: Server, name: str) -> None:
    with untouched(prompts):
        status, code, details = prompts.error("POST", "/system-prompts", {"filename": name, "content": "x"})
    assert (status, code, details) == (422, "validation_error", {"path": "$.filename"})


BAD_PATHS = [
    *("..", "../bait.md", "%2e%2e/bait.md", "..%2fbait.md", "..%2Fbait.md", "%2e%2e%2fbait.md", "..%5cbait.md"),
    *("a/../first.md", "a%2f..%2ffirst.md", "./first.md", "%2e%2ffirst.md", "/first.md", "%2ffirst.md", "//bait.md"),
    *("..%c0%afbait.md", "%c0%ae%c0%ae%c0%afbait.md", "%252e%252e%252fbait.md", "first.md%00", "%00first.md"),
    *("first.md%0a", "first.md%0d%0a", "%0afirst.md", "first%0a.md", "first.md%2f", "first.md/", "first.md%20"),
    *(".first.md", "first.MD", "first", "", "%ff.md", "x" * 300 + ".md", "~", "*.md", ".mochi", "sessions"),
    "%2fproc%2fself%2fenviron",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: path[:24])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_name_that_is_none_is_not_found_in_a_path_and_reaches_nothing(
    prompts: Server, method: str, path: str
) -> None:
    (prompts.folder / "bait.md").write_text(OUTSIDE)
    with untouched(prompts):
        body = b'{"content": "x"}' if method == "PUT" else b""
        headers = (HOST, JSON) if body else (HOST,)
        response = exchange(prompts.port, method, f"/api/v1/system-prompts/{path}", headers, body)
    assert told(response)[:2] == (404, "prompt_not_found")
    assert OUTSIDE not in response.text


def test_a_taken_name_is_refused_whatever_has_it(prompts: Server) -> None:
    place = folder(prompts)
    (place / "folder.md").mkdir()
    (place / "dangling.md").symlink_to(prompts.folder / "made_through_a_link.md")
    (place / "latin.md").write_bytes(b"\xe9")
    for name in ("first.md", "folder.md", "dangling.md", "latin.md"):
        with untouched(prompts):
            told_of = prompts.error("POST", "/system-prompts", {"filename": name, "content": "x"})
        assert told_of == (409, "prompt_exists", {"filename": name})


def test_of_many_who_make_the_same_prompt_at_once_one_does(prompts: Server) -> None:
    def make(number: int) -> int:
        return prompts.call("POST", "/system-prompts", {"filename": "race.md", "content": str(number)}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(make, range(8))) == [201] + [409] * 7


BY_HAND: dict[str, bytes] = {
    "mark.md": b"\xef\xbb\xbfMarked",
    "crlf.md": b"One\r\nTwo\r\n",
    "longest.md": "\U0001f600".encode() * 20_000,
    "marked and longest.md": b"\xef\xbb\xbf" + "\U0001f600".encode() * 20_000,
}
UNUSABLE: dict[str, tuple[bytes, str]] = {
    "empty.md": (b"", "1 to 20000 characters"),
    "only-a-mark.md": (b"\xef\xbb\xbf", "1 to 20000 characters"),
    "too-long.md": (b"x" * 20_001, "1 to 20000 characters"),
    "much-too-long.md": ("\U0001f600".encode() * 30_000, "1 to 20000 characters"),
    "latin1.md": ("é".encode("latin-1"), "UTF-8"),
    "utf16.md": ("Hello".encode("utf-16"), "UTF-8"),
}


def test_prompts_that_were_put_there_by_hand_are_listed_and_read(prompts: Server) -> None:
    for name, data in BY_HAND.items():
        (folder(prompts) / name).write_bytes(data)
    assert listed(prompts).keys() >= BY_HAND.keys()
    texts = {name: prompts.ok("GET", f"/system-prompts/{name}")["content"] for name in BY_HAND}
    assert texts == {name: data.decode("utf-8-sig") for name, data in BY_HAND.items()}
    prompts.ok("PUT", "/system-prompts/mark.md", {"content": "Mine."})
    assert (folder(prompts) / "mark.md").read_bytes() == b"Mine."


def test_what_is_no_prompt_is_left_alone_and_told_why_to_who_asks_for_it(prompts: Server) -> None:
    place = folder(prompts)
    for name, (data, _) in UNUSABLE.items():
        (place / name).write_bytes(data)
    (place / "a-folder.md").mkdir()
    os.mkfifo(place / "pipe.md")
    (prompts.folder / "outside.md").write_text(OUTSIDE)
    (place / "link.md").symlink_to(prompts.folder / "outside.md")
    (place / "link-inside.md").symlink_to("first.md")
    (place / "notes.txt").write_text("mine")
    (place / ".hidden.md").write_text("mine")
    (place / os.fsdecode(b"\xff.md")).write_text("mine")
    why = {name: words for name, (_, words) in UNUSABLE.items()}
    why |= {"a-folder.md": "no file", "pipe.md": "no file", "link.md": "a link", "link-inside.md": "a link"}

    with untouched(prompts):
        names = listed(prompts)
        assert "first.md" in names
        assert not names.keys() & why.keys()
        assert all(name.endswith(".md") and name.isascii() and name[0] != "." for name in names)
    session = prompts.new_session()
    with untouched(prompts):
        for name, words in why.items():
            for method, path, body in (
                ("GET", f"/system-prompts/{name}", None),
                ("PUT", f"/system-prompts/{name}", {"content": "x"}),
                ("DELETE", f"/system-prompts/{name}", None),
                ("PUT", f"/sessions/{session}/system-prompt", {"source_file": name}),
            ):
                response = prompts.call(method, path, body)
                assert told(response) == (404, "prompt_not_found", {"filename": name})
                assert words in response.json()["detail"]["error"]["message"]
                assert OUTSIDE not in response.text


def test_the_preview_is_the_beginning_on_one_line(prompts: Server) -> None:
    content = "\n  # You\tare\u2028kind  \r\n\n" + "and " * 100
    prompts.ok("POST", "/system-prompts", {"filename": "preview.md", "content": content})
    one = listed(prompts)["preview.md"]
    assert one == {
        "filename": "preview.md",
        "preview": ("# You are kind " + "and " * 100)[:120],
        "word_count": 104,
    }


@pytest.mark.parametrize("how", ["create", "put"])
def test_a_session_takes_a_files_text_and_keeps_it(prompts: Server, shared_standin: StandInThread, how: str) -> None:
    name, text = f"{how}.md", "Be kind.\r\n"
    prompts.ok("POST", "/system-prompts", {"filename": name, "content": text})
    if how == "create":
        session = prompts.new_session(system_prompt_source_file=name)
    else:
        session = prompts.new_session()
        answer = prompts.ok("PUT", f"/sessions/{session}/system-prompt", {"source_file": name})
        assert answer == {"content": text, "source_file": name, "message_index": 0}
    (system,) = prompts.file(session)["messages"]
    assert (system["content"], system["source_file"]) == (text, name)
    assert prompts.ok("GET", f"/sessions/{session}/status")["system_prompt_file"] == name

    prompts.ok("PUT", f"/system-prompts/{name}", {"content": "Be strict."})
    prompts.ok("POST", f"/chat/{session}", {"message": "hi"})
    prompts.ok("DELETE", f"/system-prompts/{name}")
    assert shared_standin.chats[-1].json["messages"][0] == {"role": "system", "content": text}
    assert prompts.contents(session)[0] == ("system", text)


def test_beside_a_text_the_files_name_is_a_label_and_may_be_any(prompts: Server) -> None:
    session = prompts.new_session(system_prompt="Mine.", system_prompt_source_file="../any label")
    for label in ("first.md", "none.md", "x" * 255, "../../etc/passwd"):
        answer = prompts.ok("PUT", f"/sessions/{session}/system-prompt", {"content": "Own.", "source_file": label})
        assert (answer["content"], answer["source_file"]) == ("Own.", label)


@pytest.mark.parametrize("name", ["none.md", "../bait.md", "first", "first.md\n", "link.md"])
def test_a_file_that_is_not_there_gives_a_session_no_prompt(prompts: Server, name: str) -> None:
    session = prompts.new_session(system_prompt="Before.")
    sessions = prompts.ok("GET", "/sessions")["total"]
    for method, path, body in (
        ("PUT", f"/sessions/{session}/system-prompt", {"source_file": name}),
        ("POST", "/sessions", {"system_prompt_source_file": name}),
    ):
        assert prompts.error(method, path, body) == (404, "prompt_not_found", {"filename": name})
    assert prompts.ok("GET", "/sessions")["total"] == sessions
    assert prompts.contents(session) == [("system", "Before.")]


def test_a_file_over_the_limit_for_messages_is_told_as_such(prompts: Server) -> None:
    prompts.ok("POST", "/system-prompts", {"filename": "long.md", "content": "x" * 1_001})
    status, code, details = prompts.error("POST", "/sessions", {"system_prompt_source_file": "long.md"})
    assert (status, code, details["path"]) == (413, "payload_too_large", "$.system_prompt_source_file")
