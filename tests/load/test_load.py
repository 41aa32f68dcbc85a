"""Short forms of `scripts/load-test`: counts and outcomes, and nobody's clock."""

from pathlib import Path

from tests.load import runs


def quietly(_: str) -> None:
    """Nobody watches."""


def test_of_many_sends_at_once_each_is_answered_or_refused(tmp_path: Path) -> None:
    figures = runs.sends(tmp_path, 100, quietly, queue=16)

    assert int(figures["answered"]) + int(figures["refused (503)"]) == 100


def test_as_many_streams_run_at_the_same_time_as_are_allowed(tmp_path: Path) -> None:
    assert runs.together(tmp_path, 30, quietly)["streams"] == "30"


def test_of_clients_that_leave_in_mid_reply_nothing_stays(tmp_path: Path) -> None:
    assert runs.leavers(tmp_path, 40, quietly, rounds=1)["replies still at Ollama"] == "0"


def test_at_its_end_in_mid_reply_the_server_keeps_all_and_tells_everybody(tmp_path: Path) -> None:
    assert runs.shutdown(tmp_path, 20, quietly, seconds=1)["exit code"] == "0"
