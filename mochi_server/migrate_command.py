"""`mochi-server migrate`: a folder of older session files, made format 2.0 in one go."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from mochi_server.command_line import Parser, add_flags, values_told
from mochi_server.domain.session import FORMAT_VERSION
from mochi_server.settings import SETTINGS, Settings, SettingsError
from mochi_server.store.files import FolderInUse
from mochi_server.store.migrate import Report, Untouched, migrate

EARLIER_FOLDER = "chat_sessions"
"""What an earlier server called its sessions folder."""

MOST_NAMES = 5
"""How many files that are none of ours are named."""

BAR = 24

_DESCRIPTION = f"""\
Write each session of an older format (1.0 to 1.4, of an earlier server) anew in format {FORMAT_VERSION}, with every
field. A server reads the older formats too; this is for having it done."""

_EPILOG = f"""\
An earlier server called its folder {EARLIER_FOLDER}, so from where it ran:
  mochi-server migrate --dry-run --sessions-dir {EARLIER_FOLDER}
  mochi-server migrate --sessions-dir {EARLIER_FOLDER}
An earlier server cannot read format {FORMAT_VERSION}: to go back to one, copy the folder first.
A file that cannot be read is left untouched and named. No server may run over the folder, except in a dry run.
Exit code: 0 all is well, 1 some files are as they were, 2 it could not start, 130 ended by Ctrl-C."""


def main(arguments: Sequence[str]) -> int:
    """Migrate the sessions folder; the exit code.

    0: there is nothing left to do. 1: some files are as they were, each told with its reason. 2: it could not start,
    and said why in one line. 130: ended by Ctrl-C, after which each file is whole, old or new.
    """
    try:
        settings, dry_run = _settings(arguments)
        folder = settings.sessions_folder
    except SettingsError as error:
        return _refused(str(error))
    except (RuntimeError, ValueError) as error:
        # No home folder for `~`, or a character that no path may have.
        return _refused(f"the sessions folder is none: {error}; choose another with --data-dir or --sessions-dir")
    progress = Progress(sys.stderr)
    try:
        report = migrate(folder, dry_run=dry_run, tell=progress)
    except FolderInUse as error:
        return _refused(f"the folder {str(folder)!r} is in use by {error}; stop that first, or use --dry-run")
    except OSError as error:
        return _refused(_no_folder(folder, error))
    except KeyboardInterrupt:
        progress.end()
        _tell_error(
            f"stopped after {progress.done} of {progress.total} files; each is whole, old or new, and another run "
            "goes on from here"
        )
        return 130
    progress.end()
    return _summarized(report, folder, dry_run)


def _settings(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """The settings that say where the folder is, and whether it is a dry run. Raises SettingsError."""
    parser = Parser(
        prog="mochi-server migrate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what there is to do; write nothing")
    of_folders = [setting for setting in SETTINGS if setting.field in {"data_dir", "sessions_dir"}]
    add_flags(parser, of_folders)
    flags = vars(parser.parse_args(arguments))
    return Settings(**values_told(of_folders, flags)), flags["dry_run"]


class Progress:
    """How far it is: a bar that grows on a terminal, elsewhere a line a second, which short runs do without."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = self.total = 0
        self._stream = stream
        self._clock = clock
        self._bar = stream.isatty()
        self._next = clock() + (0 if self._bar else 1)
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Note how far it is, and show it where it is time to."""
        self.done, self.total = done, total
        now = self._clock()
        last = self._bar and done == total
        if total == 0 or (now < self._next and not last):
            return
        self._next = now + (0.1 if self._bar else 1)
        self._shown = True
        filled = "#" * (BAR * done // total)
        self._stream.write(
            f"\r[{filled:-<{BAR}}] {done} of {total} files" if self._bar else f"{done} of {total} files\n"
        )
        self._stream.flush()

    def end(self) -> None:
        """Leave the bar's line."""
        if self._bar and self._shown:
            self._stream.write("\n")
            self._stream.flush()


def _summarized(report: Report, folder: Path, dry_run: bool) -> int:
    """Print what became of the files; the exit code."""
    _tell(_counts(report, dry_run))
    for untouched in (*report.damaged, *report.failed):
        _tell(_line(untouched))
    if report.others:
        more = "" if len(report.others) <= MOST_NAMES else " and others"
        names = ", ".join(repr(name) for name in report.others[:MOST_NAMES])
        _tell(f"Not looked at, since a session's file is named 10 lowercase hex characters and .json: {names}{more}")
    if report.total == 0 and (hint := earlier_folder(folder)):
        _tell(f"There are no sessions in {str(folder)!r}; {hint}")
    if report.stopped is not None:
        _tell_error(
            f"stopped, since the disk would take no more ({report.stopped}); what is migrated stays so, the other "
            "files are as they were. Make room, or let it be written to, and run this again: it goes on from here"
        )
    return 1 if report.damaged or report.failed or report.left else 0


def _counts(report: Report, dry_run: bool) -> str:
    told = [
        (report.migrated, "would be migrated" if dry_run else "migrated"),
        (report.already, f"already in format {FORMAT_VERSION}"),
        (len(report.damaged), "damaged and left untouched"),
        (len(report.failed), "failed and left untouched"),
        (report.left, "not reached"),
    ]
    counts = ", ".join(f"{count} {what}" for place, (count, what) in enumerate(told) if count or place == 0)
    return f"{report.total} {'file' if report.total == 1 else 'files'}: {counts}"


def _line(untouched: Untouched) -> str:
    return f"{untouched.session_id}.json: {untouched.reason}"


def _no_folder(folder: Path, error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = earlier_folder(folder) or "name another with --data-dir or --sessions-dir"
    return f"the folder {str(folder)!r} cannot be used ({reason}); {hint}"


def earlier_sessions(folder: Path) -> str:
    """Where to look for sessions when there are none in this folder and an earlier server's lies beside it."""
    hint = earlier_folder(folder)
    return f"There are no sessions in {str(folder)!r}; {hint}" if hint and not any(folder.glob("*.json")) else ""


def earlier_folder(folder: Path) -> str:
    """How to name an earlier server's folder, where one lies beside this one."""
    earlier = (folder.parent / EARLIER_FOLDER).absolute()
    if earlier == folder.absolute() or not earlier.is_dir():
        return ""
    return f"an earlier server's folder lies beside it: --sessions-dir {str(earlier)!r}"


def _refused(reason: str) -> int:
    _tell_error(reason)
    return 2


def _tell(line: str) -> None:
    print(line)  # noqa: T201 - for people


def _tell_error(line: str) -> None:
    print(f"mochi-server migrate: {line}", file=sys.stderr)  # noqa: T201 - for people
