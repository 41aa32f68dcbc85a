"""Durable bytes: the old file or the new one, whole, whatever happens in between."""

import errno
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mochi_server.domain.session_file import decode, encode
from mochi_server.errors import StorageFull, StorageUnavailable
from mochi_server.store import files
from tests.store.child import STATES, states
from tests.store.opened import LIMIT, child, syncs

KILLS = 16
Write = Callable[[Path, bytes, Path], os.stat_result]
both_writes = pytest.mark.parametrize("write", [files.replace, files.create])


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@both_writes
def test_a_new_file_is_its_owners_alone_and_nothing_else_is_left(write: Write, tmp_path: Path, scratch: Path) -> None:
    write(tmp_path / "new", b"one", scratch)
    assert (tmp_path / "new").read_bytes() == b"one"
    assert mode(tmp_path / "new") == 0o600
    assert (tmp_path / "new").stat().st_nlink == 1
    assert names(tmp_path) == ["new", "scratch"]
    assert names(scratch) == []


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_file_is_replaced_whole_by_one_of_any_size(size: int, tmp_path: Path, scratch: Path) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311 - nothing secret
    files.replace(tmp_path / "file", b"old and longer than nothing", scratch)
    files.replace(tmp_path / "file", data, scratch)
    assert (tmp_path / "file").read_bytes() == data
    assert mode(tmp_path / "file") == 0o600


def test_a_replaced_file_never_changes_for_who_has_the_old_one_open(tmp_path: Path, scratch: Path) -> None:
    files.replace(tmp_path / "file", b"old", scratch)
    with (tmp_path / "file").open("rb") as reader:
        files.replace(tmp_path / "file", b"new", scratch)
        assert reader.read() == b"old"


def test_a_file_that_is_as_expected_is_replaced(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    expected = files.stamp((tmp_path / "file").lstat())
    status = files.replace(tmp_path / "file", b"new", scratch, expected)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert files.stamp(status) == files.stamp((tmp_path / "file").lstat())


def rewrite(path: Path) -> None:
    path.write_bytes(b"theirs, and longer")


def put_another_there(path: Path) -> None:
    path.with_name("other").write_bytes(b"old")
    path.with_name("other").replace(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def put_a_link_there(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize("change", [rewrite, put_another_there, touch, put_a_link_there, Path.unlink])
def test_a_file_that_is_not_as_expected_is_not_replaced(
    change: Callable[[Path], object], tmp_path: Path, scratch: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    expected = files.stamp(path.lstat())
    change(path)
    before = {name: (tmp_path / name).lstat() for name in names(tmp_path) if name != "scratch"}
    with pytest.raises(files.FileChanged):
        files.replace(path, b"new", scratch, expected)
    assert {name: (tmp_path / name).lstat() for name in names(tmp_path) if name != "scratch"} == before
    assert b"new" not in [p.read_bytes() for p in tmp_path.iterdir() if p.is_file()]
    assert names(scratch) == []


def test_a_private_file_is_made_empty_and_one_that_is_there_is_left_alone(tmp_path: Path) -> None:
    files.make_private(tmp_path / "file")
    assert ((tmp_path / "file").read_bytes(), mode(tmp_path / "file")) == (b"", 0o600)
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "file").chmod(0o640)
    files.make_private(tmp_path / "file")
    assert ((tmp_path / "file").read_bytes(), mode(tmp_path / "file")) == (b"mine", 0o640)


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "sessions")
    assert mode(tmp_path / "sessions") == 0o700


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions").chmod(0o750)
    files.make_folder(tmp_path / "sessions")
    assert mode(tmp_path / "sessions") == 0o750


def put_a_file(path: Path) -> None:
    path.write_bytes(b"mine")


def put_a_folder(path: Path) -> None:
    path.mkdir()


def put_a_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"mine")
    path.symlink_to("target")


def put_a_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("put", [put_a_file, put_a_folder, put_a_link, put_a_broken_link])
def test_create_refuses_a_path_where_anything_is(put: Callable[[Path], None], tmp_path: Path, scratch: Path) -> None:
    put(tmp_path / "taken")
    before = (names(tmp_path), (tmp_path / "taken").lstat())
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "taken", b"theirs", scratch)
    after = (tmp_path / "taken").lstat()
    assert (names(tmp_path), after.st_ino, after.st_mtime_ns) == (before[0], before[1].st_ino, before[1].st_mtime_ns)
    assert names(scratch) == []


def test_of_many_that_create_one_path_one_succeeds(tmp_path: Path, scratch: Path) -> None:
    start = threading.Barrier(8, timeout=LIMIT)

    def create(number: int) -> int | None:
        start.wait()
        try:
            files.create(tmp_path / "file", str(number).encode() * 1000, scratch)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(create, range(8), timeout=LIMIT) if number is not None]
    assert (tmp_path / "file").read_bytes() == str(winner).encode() * 1000
    assert names(scratch) == []


def test_a_replace_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory") as failure:
        files.replace(tmp_path / "folder", b"new", scratch)
    assert isinstance(files.storage_error(failure.value), StorageUnavailable)
    assert names(tmp_path) == ["folder", "scratch"]
    assert names(scratch) == []


@pytest.mark.parametrize(
    ("errno_name", "kind"),
    [
        ("ENOSPC", StorageFull),
        ("EDQUOT", StorageFull),
        ("EFBIG", StorageFull),
        ("EROFS", StorageUnavailable),
        ("EIO", StorageUnavailable),
        ("EACCES", StorageUnavailable),
    ],
)
def test_an_os_error_is_told_as_a_failure_of_ours_without_its_path(errno_name: str, kind: type[Exception]) -> None:
    number = getattr(errno, errno_name)
    told = files.storage_error(OSError(number, os.strerror(number), "/home/somebody/secret"))
    assert type(told) is kind
    assert "secret" not in told.message


def test_a_removed_file_is_gone_and_cannot_be_removed_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    files.remove(tmp_path / "file")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        files.remove(tmp_path / "file")


def test_a_sweep_removes_what_was_left_half_written_and_nothing_else(tmp_path: Path) -> None:
    for name in ("0123456789abcdef.tmp", "lock", "kept.json"):
        (tmp_path / name).write_bytes(b"x")
    files.sweep(tmp_path)
    assert names(tmp_path) == ["kept.json", "lock"]


# Durability: what is on the disk before what


@pytest.mark.parametrize(("write", "before"), [(files.replace, b"old"), (files.replace, None), (files.create, None)])
def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    write: Write, before: bytes | None, tmp_path: Path, scratch: Path
) -> None:
    path, data = tmp_path / "file", b"new" * 100_000
    if before is not None:
        path.write_bytes(before)

    def look(descriptor: int) -> tuple[str, bytes | None]:
        status = os.fstat(descriptor)
        content = path.read_bytes() if path.exists() else None
        if os.path.samestat(status, tmp_path.stat()):
            return "the folder", content
        return f"a file of {status.st_size}", content

    with syncs(look) as seen:
        write(path, data, scratch)
    assert seen == [("a file of 300000", before), ("the folder", data)]
    assert path.read_bytes() == data


def test_a_removal_is_on_the_disk_before_the_return(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with syncs(lambda descriptor: (os.path.samestat(os.fstat(descriptor), tmp_path.stat()), names(tmp_path))) as seen:
        files.remove(tmp_path / "file")
    assert seen == [(True, [])]


def test_a_process_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "session.json"
    moments, chance = states(), random.Random(7)  # noqa: S311 - nothing secret
    for _ in range(KILLS):
        path.write_bytes(moments[-1])
        with child("save_over_and_over", tmp_path) as process:
            assert process.stdout is not None
            saved = process.stdout.read(chance.randrange(1, 6))
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.0001, 0.008))
            process.kill()
            saved += process.stdout.read()
        state = path.read_bytes()
        found = moments.index(state) if state in moments else f"{len(state)} bytes of neither"
        assert found in ((len(saved) - 1) % STATES, len(saved) % STATES)
        assert encode(decode(state)) == state
    files.sweep(scratch)
    assert names(scratch) == []


# The lock


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with child("hold_the_lock", tmp_path) as holder, pytest.raises(files.FolderInUse, match=f"process {holder.pid}$"):
        files.FolderLock(tmp_path / "lock")


def test_who_was_refused_leaves_the_holders_name_in_place(tmp_path: Path) -> None:
    with child("hold_the_lock", tmp_path) as holder:
        for _ in range(2):
            with pytest.raises(files.FolderInUse, match=f"process {holder.pid}$"):
                files.FolderLock(tmp_path / "lock")


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    with child("hold_the_lock", tmp_path) as holder:
        holder.communicate(timeout=LIMIT)
        assert holder.returncode == 0
    for _ in range(2):
        files.FolderLock(tmp_path / "lock").release()


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    with child("hold_the_lock", tmp_path) as holder:
        holder.kill()
        holder.wait(LIMIT)
        files.FolderLock(tmp_path / "lock").release()


def test_one_process_cannot_hold_the_folder_twice(tmp_path: Path) -> None:
    lock = files.FolderLock(tmp_path / "lock")
    with pytest.raises(files.FolderInUse, match=str(os.getpid())):
        files.FolderLock(tmp_path / "lock")
    lock.release()


def test_a_lock_that_cannot_be_made_is_no_folder_in_use(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.FolderLock(tmp_path / "missing" / "lock")
