"""What may become of the index file, and sessions for it to hold."""

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mochi_server.store.index_file import VERSION
from mochi_server.store.sessions import SessionStore
from tests.domain.talk import at, new_session, user

LOOKED_FOR = ("hello", "Needle 3", "xxxxx", "added", "second", "nobody says this")
PAGE = 4096
Harm = Callable[[Path], None]


def named(number: int) -> str:
    return f"{number:010x}"


def index_of(folder: Path) -> Path:
    return folder / ".mochi" / "index.sqlite"


async def fill(store: SessionStore) -> None:
    """Some sessions: short ones, and long ones that take several pages of the index file."""
    for number in range(8):
        long = "x" * (9000 * (number % 2))
        session = new_session(named(number), second=number).append(user("q", f"Hello {long}"), at(number))
        await store.create(session.append(user("q2", f"needle {number}"), at(number)))


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_off_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PAGE)


def fill_with_rubbish(path: Path) -> None:
    path.write_bytes(random.Random(3).randbytes(path.stat().st_size))  # noqa: S311 - nothing secret


def replace_with_rubbish(path: Path) -> None:
    path.with_name("rubbish").write_bytes(b"rubbish" * 5000)
    path.with_name("rubbish").replace(path)


def spoil_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x00" * 100)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_bytes(b"mine")


def put_a_foreign_database(path: Path) -> None:
    path.unlink()
    write_sql(path, "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine');")


def put_a_foreign_database_of_our_version(path: Path) -> None:
    path.unlink()
    write_sql(path, "CREATE TABLE listed (a); INSERT INTO listed VALUES (1);")
    write_sql(path, f"PRAGMA user_version = {VERSION};")


def say_another_version(path: Path) -> None:
    write_sql(path, f"PRAGMA user_version = {VERSION + 1};")


def drop_the_words(path: Path) -> None:
    write_sql(path, "DROP TABLE words;")


def leave_a_rubbish_journal(path: Path) -> None:
    path.with_name("index.sqlite-journal").write_bytes(b"rubbish" * 1000)


def write_sql(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


HARM = [
    *(remove, empty, cut_in_half, cut_off_a_page, fill_with_rubbish, replace_with_rubbish, spoil_the_header),
    *(put_a_folder, put_a_foreign_database, put_a_foreign_database_of_our_version, say_another_version),
    *(drop_the_words, leave_a_rubbish_journal),
]
SEEN_AS_BROKEN = [
    *(remove, empty, cut_in_half, fill_with_rubbish, replace_with_rubbish, spoil_the_header, put_a_foreign_database),
]
"""What is noticed while the file is used; all else at the next start."""

every_harm = pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
