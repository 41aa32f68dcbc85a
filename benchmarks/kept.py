"""The last figures of each benchmark: a JSON file each, and the README's tables and charts made from these."""

import re
from pathlib import Path

import msgspec

from benchmarks.report import Measure, Report, as_markdown

HERE = Path(__file__).parent
FIGURES, CHARTS = HERE / "figures", HERE / "charts"
README = HERE / "README.md"
BEGIN, END = "<!-- figures: written by scripts/bench --keep -->", "<!-- end of figures -->"


def keep(done: Report) -> None:
    """Put these in place of those before, and write the README's tables anew."""
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"{done.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(done)) + b"\n")
    draw(done)
    README.write_text(with_tables(README.read_text("utf-8"), last_figures()), "utf-8")


def draw(done: Report) -> None:
    """Put the charts of what grows in place of those before."""
    from benchmarks import charts  # noqa: PLC0415 - it reads in more than all the rest, and is seldom needed

    for measure in done.measures:
        if measure.over:
            CHARTS.mkdir(exist_ok=True)
            charts.draw(measure, CHARTS / chart_name(done, measure))


def chart_name(done: Report, measure: Measure) -> str:
    """What a chart's file is called."""
    return f"{done.name}-{measure.over}-{re.sub('[^a-z0-9]+', '-', measure.measure.lower())}.svg"


def last_figures() -> list[Report]:
    """What was kept of each, by name."""
    return [msgspec.json.decode(path.read_bytes(), type=Report) for path in sorted(FIGURES.glob("*.json"))]


def with_tables(page: str, reports: list[Report]) -> str:
    """The page with these tables between its two marks. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has lost the marks between which its figures stand")
    tables = "\n\n".join(_shown(done) for done in reports) or "None were kept yet."
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{behind}"


def _shown(done: Report) -> str:
    pictures = [
        f"![{measure.measure}, by {measure.over}](charts/{chart_name(done, measure)})"
        for measure in done.measures
        if measure.over
    ]
    return "\n\n".join([as_markdown(done), *pictures])
