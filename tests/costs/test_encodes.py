"""What a token costs in JSON: it is read once and made once, however many listen."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.costs.one_by_one import pieces, say_one_by_one, warm
from tests.inside import Inside, Instrument
from tests.server import Server
from tests.standin_thread import StandInThread

TOKENS = 20


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


@pytest.fixture
def server(tmp_path: Path, standin: StandInThread, instrument: Instrument) -> Iterator[Server]:
    with Server(tmp_path, standin.url, through=instrument.through) as server:
        yield server


@pytest.mark.parametrize("listeners", [1, 4])
def test_a_token_is_read_from_json_once_and_made_json_once(
    server: Server, standin: StandInThread, instrument: Instrument, listeners: int
) -> None:
    warm(server)
    counts: list[Inside] = []

    say_one_by_one(server, standin, pieces(TOKENS), listeners, lambda _: counts.append(instrument.counts()))

    # The middle: the list of sessions, which is brought up to date in the background, is JSON too.
    assert median(more(a.encoded, b.encoded) for a, b in itertools.pairwise(counts)) == 1
    assert median(more(a.decoded, b.decoded) for a, b in itertools.pairwise(counts)) == 1


def more(before: dict[str, int], after: dict[str, int]) -> int:
    """How many there are more."""
    return sum(after.values()) - sum(before.values())
