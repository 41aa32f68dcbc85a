"""The benchmarks themselves are no tests: this is what would make their figures wrong, or the page about them."""

import asyncio
import re

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks import kept
from benchmarks.load import Stream
from benchmarks.report import Measure, as_markdown, as_text, report, row

WHOLE = b"5\r\n ~12 \r\n5\r\n ~13 \r\n4\r\ndone\r\n0\r\n\r\n"


async def taken(*reads: bytes) -> Stream:
    """A stream that came in these reads."""
    stream = Stream(b"", b"done")
    for read in reads:
        stream.data_received(read)
    stream.connection_lost(None)
    await stream.ended
    return stream


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_tokens_are_counted_wherever_a_read_ends(cut: int) -> None:
    stream = asyncio.run(taken(WHOLE[:cut], WHOLE[cut:]))
    assert (stream.tokens, len(stream.times)) == (2, 2)


def test_a_stream_without_its_end_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="cut short"):
        asyncio.run(taken(WHOLE[: WHOLE.index(b"done") + 2]))


def test_every_benchmark_is_explained_and_no_other() -> None:
    sections = set(re.findall(r"^## ([a-z]+)$", kept.README.read_text("utf-8"), re.MULTILINE))
    assert sections == set(command.BENCHMARKS)


def test_the_figures_on_the_page_are_those_in_the_files() -> None:
    page = kept.README.read_text("utf-8")
    assert page == kept.with_tables(page, kept.last_figures())


def test_a_report_is_shown_as_it_is_kept() -> None:
    figures = [
        Measure(measure="time", unit="ms", wanted="<= 1", rows=[row("floor", [1, 3, 2]), row("mochi-server", [0.05])])
    ]
    told = report("some", "a few", command.BENCHMARKS["relay"].quick, figures)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told
    assert "| floor | 1.00 | 2.00 | 3.00 |  |\n| mochi-server | 0.05 | 0.05 | 0.05 | <= 1 |" in as_markdown(told)
    assert re.search(r"mochi-server +0\.05 +0\.05 +0\.05 +<= 1$", as_text(told), re.MULTILINE)


def test_a_name_that_is_none_is_told_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["relai"])
    assert ended.value.code == 2
    assert "no benchmark 'relai'; choose from relay, " in capsys.readouterr().err
