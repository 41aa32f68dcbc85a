"""The server is what its own document says, as far as a short run of schemathesis can tell."""

from pathlib import Path

from tests.fuzz.run import fuzz

LIMIT = 240.0
"""Seconds; some twenty where the machine has nothing else to do."""


def test_nothing_that_is_sent_gets_an_answer_that_the_document_does_not_tell_of(tmp_path: Path) -> None:
    # Nothing in it goes by the clock: a machine with much to do makes it slow, and no more.
    same_each_time = ["--seed", "1", "--generation-deterministic", "--suppress-health-check", "all"]
    found = fuzz(tmp_path, [*same_each_time, "--max-examples", "2"], LIMIT)
    assert found.held, found.words
    assert not found.bugs
    assert "Tested: " in found.words
