"""A disk of system prompts that is full, or read-only, in truth: those that are there are read, and can be deleted."""

from pathlib import Path

from tests.faults.disks import mounted
from tests.server import Server, told
from tests.standin_thread import StandInThread

WORDS = "system prompts folder"
WRITES = (
    ("POST", "/system-prompts", {"filename": "new.md", "content": "New."}),
    ("PUT", "/system-prompts/old.md", {"content": "x" * 9_000}),
)


def refusals(server: Server, *more: tuple[str, str, None]) -> set[tuple[int, str]]:
    """Status and code of each write, all of which must fail in words that fit and change nothing."""
    found = set()
    for method, path, body in (*WRITES, *more):
        response = server.call(method, path, body)
        found.add(told(response)[:2])
        assert WORDS in response.json()["detail"]["error"]["message"]
        assert server.ok("GET", "/system-prompts/old.md")["content"] == "Old."
    return found


def test_on_a_full_disk_prompts_are_read_and_deleted_and_written_once_there_is_room(
    tmp_path: Path, standin: StandInThread
) -> None:
    with (
        mounted(tmp_path / "disk") as disk,
        Server(tmp_path, standin.url, "--system-prompts-dir", str(disk.place / "prompts")) as server,
    ):
        for name in ("old.md", "other.md"):
            server.ok("POST", "/system-prompts", {"filename": name, "content": "Old."})
        disk.fill()
        assert refusals(server) == {(507, "storage_full")}
        assert server.call("DELETE", "/system-prompts/other.md").status_code == 204
        assert [one["filename"] for one in server.ok("GET", "/system-prompts")["prompts"]] == ["old.md"]
        disk.fill()
        assert refusals(server) == {(507, "storage_full")}
        session = server.new_session(system_prompt_source_file="old.md")
        assert server.contents(session) == [("system", "Old.")]
        disk.make_room()
        for method, path, body in WRITES:
            server.ok(method, path, body)
        assert sorted(path.name for path in (disk.place / "prompts").iterdir()) == ["new.md", "old.md"]


def test_on_a_read_only_disk_prompts_are_read(tmp_path: Path, standin: StandInThread) -> None:
    with mounted(tmp_path / "disk") as disk:
        (disk.place / "old.md").write_text("Old.")
        (disk.place / "0123456789abcdef.tmp").write_text("half")
        disk.make_read_only()
        with Server(tmp_path, standin.url, "--system-prompts-dir", str(disk.place)) as server:
            deleting = ("DELETE", "/system-prompts/old.md", None)
            assert refusals(server, deleting) == {(503, "storage_unavailable")}
            assert [one["filename"] for one in server.ok("GET", "/system-prompts")["prompts"]] == ["old.md"]
            assert "Traceback" not in server.log.read_text()
