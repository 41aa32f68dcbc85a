"""A short soak, for every run of the suite; `scripts/soak` goes on for as long as is wanted."""

from collections import Counter
from pathlib import Path

import pytest

from tests.soak.quiet import Sample, judged
from tests.soak.soak import Soak

TURNS, SECONDS = 3, 0.7


def test_clients_that_do_all_there_is_to_do_are_answered_rightly_and_leave_nothing_behind(tmp_path: Path) -> None:
    with Soak(tmp_path, seed=1, clients=3) as soak:
        for _ in range(TURNS):
            soak.turn(SECONDS)
        soak.stop()

    assert soak.wrong == []
    assert soak.operations.total() > TURNS
    assert soak.compared > TURNS
    assert [line for line in judged(soak.watched.samples, memory=False) if line.wrong] == []


_KINDS = ("memory", "pieces", "files", "threads", "tasks", "objects")


def sample(number: int, growth: int, what: str = "") -> Sample:
    """One of a server that has 5 of each at first, and of one thing more each time."""
    counts = {name: 5 + growth * number * (name == what) for name in _KINDS}
    return Sample(
        seconds=number,
        memory=counts["memory"],
        blocks=counts["pieces"] * 1000,
        files=counts["files"],
        threads=counts["threads"],
        tasks=Counter({"Some._task": counts["tasks"]}),
        objects=Counter({"mochi_server.Some": counts["objects"]}),
    )


@pytest.mark.parametrize("what", _KINDS)
def test_whatever_grows_is_found(what: str) -> None:
    wrong = [line.what for line in judged([sample(number, 1, what) for number in range(20)]) if line.wrong]

    assert len(wrong) == 1
    assert what in wrong[0]


def test_what_stays_as_it_is_and_what_is_taken_but_once_is_not_found() -> None:
    samples = [sample(number, 0) for number in range(20)]
    samples[0] = samples[0]._replace(memory=1, files=1)

    assert [line.wrong for line in judged(samples)] == [""] * len(_KINDS)


def test_of_one_quiet_moment_nothing_can_be_said() -> None:
    assert judged([sample(0, 0), sample(1, 0)]) == []
