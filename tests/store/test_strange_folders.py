"""Folders that hold what nobody would expect."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mochi_server.domain.session_file import encode
from mochi_server.errors import StorageUnavailable
from tests.domain.talk import SESSION_ID, at, conversation
from tests.store.opened import damaged, limited, listed, opened, summaries

OPEN_AND_LIST = """
import asyncio, sys
from pathlib import Path
from mochi_server.store.sessions import SessionStore

async def main():
    store = SessionStore(Path(sys.argv[1]))
    store.take()
    await store.open()
    print([d.session_id for d in (await store.page(1)).damaged])
    await store.close()

asyncio.run(main())
"""


@limited
async def test_files_nested_too_deep_are_damage_and_do_not_stop_the_start(tmp_path: Path) -> None:
    depths = range(150, 1100, 7)
    for depth in depths:
        nested = b',"x":' + b"[" * depth + b"]" * depth + b"}"
        session_id = f"{depth:010x}"
        file = encode(conversation("q", session_id=session_id)).rstrip()[:-1] + nested
        (tmp_path / f"{session_id}.json").write_bytes(file)
    async with opened(tmp_path) as store:
        whole = await listed(store)
        assert {*whole, *await damaged(store)} == {f"{depth:010x}" for depth in depths}
        for session_id in whole:
            await store.update(session_id, lambda session: session.with_metadata(at(9), title="saved"))
        assert [s.title for s in await summaries(store)] == ["saved"] * len(whole)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_in_place_of_a_file_is_damage_and_does_not_hang_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{SESSION_ID}.json")
    command = [sys.executable, "-c", OPEN_AND_LIST, str(tmp_path)]
    done = subprocess.run(command, timeout=20, check=True, capture_output=True, text=True)
    assert SESSION_ID in done.stdout


@limited
async def test_a_folder_among_the_leftovers_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / ".mochi" / "x.tmp").mkdir(parents=True)
    async with opened(tmp_path) as store:
        assert await listed(store) == []


@limited
async def test_all_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "data" / "sessions") as store:
        await store.create(conversation("q"))
    made = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {mode for path, mode in made.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in made.items() if path.is_file()} == {0o600}


@pytest.mark.skipif(shutil.which("chattr") is None, reason="chattr makes the folder immutable, and is not here")
@limited
async def test_a_session_that_could_not_be_deleted_is_still_listed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q"))
        if subprocess.run(["chattr", "+i", str(tmp_path)], check=False, capture_output=True).returncode:
            pytest.skip("this file system knows no immutable folders")
        try:
            with pytest.raises(StorageUnavailable):
                await store.delete(SESSION_ID)
        finally:
            subprocess.run(["chattr", "-i", str(tmp_path)], check=True)
        assert await listed(store) == [SESSION_ID]
