"""A few kills on the way, for every run of the suite; `scripts/crash-test` has as many as are wanted."""

from pathlib import Path

from tests.crash.kills import Crash

KILLS = 6


def test_after_a_kill_all_that_was_acknowledged_or_shown_is_there_and_the_chat_goes_on(tmp_path: Path) -> None:
    with Crash(tmp_path, seed=2, longest=0.5) as crash:
        for _ in range(KILLS):
            assert crash.kill() == []
        assert crash.operations > KILLS
        assert crash.events > KILLS
