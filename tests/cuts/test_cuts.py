"""A few cuts on the way, for every run of the suite; `scripts/cut-test` has as many as are wanted."""

from pathlib import Path

from tests.cuts.cutting import Cutting
from tests.cuts.slow_reader import SlowReader

CUTS = 25
KILL_EVERY = 10


def test_a_reader_that_is_cut_off_anywhere_reads_on_to_exactly_what_was_saved_kills_included(tmp_path: Path) -> None:
    with Cutting(tmp_path, seed=3, kill_every=KILL_EVERY) as cutting:
        while cutting.cuts < CUTS:
            cutting.reply(CUTS - cutting.cuts)

    assert (cutting.cuts, cutting.compared, cutting.kills) == (CUTS, CUTS, CUTS // KILL_EVERY)
    assert cutting.cuts_in_events > CUTS // 4


def test_a_reader_that_reads_nothing_while_a_long_reply_flows_gets_all_of_it_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    with SlowReader(tmp_path, tokens=20_000) as slow:
        figures = slow.measure(silence=0)

    assert figures.others_ended_first
    assert figures.events == [20_000 + 2] * len(figures.events)
    assert figures.same_bytes
    assert figures.joined_is_saved
