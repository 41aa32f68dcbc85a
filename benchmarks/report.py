"""What a benchmark gives: its figures, when and with what they were taken, and all of it as a table."""

import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from mochi_server import __version__

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "msgspec")
OURS = "mochi-server"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one target; `at` is the size of what it was measured with, where sizes are compared."""

    target: str
    at: int | None = None
    min: float
    median: float
    max: float
    all: list[float]


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured, of each target.

    `wanted` is of the rows whose target begins with mochi-server; empty where nothing is. `over` says of what the
    rows' `at` is a number, where sizes are compared.
    """

    measure: str
    unit: str
    wanted: str = ""
    over: str = ""
    rows: list[Row]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one benchmark gave. `date` is in UTC; nothing here names the machine but its number of cores."""

    name: str
    about: str
    date: str
    settings: dict[str, int | float | list[int]]
    versions: dict[str, str]
    cores: int
    measures: list[Measure]


def row(target: str, figures: Iterable[float], at: int | None = None) -> Row:
    """The row of a target's figures. Raises StatisticsError where there are none."""
    values = [float(f"{figure:.4g}") for figure in figures]
    middle = float(f"{statistics.median(values):.4g}")
    return Row(target=target, at=at, min=min(values), median=middle, max=max(values), all=values)


def over(floor: str, figures: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[Row]:
    """The rows of what these targets' figures are to the floor's, round by round."""
    return [
        row(name, (one / least for one, least in zip(figures[name], figures[floor], strict=True))) for name in names
    ]


def percentile(figures: Iterable[float], percent: float) -> float:
    """The figure that so many percent of them do not exceed."""
    ordered = sorted(figures)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def report(name: str, about: str, settings: msgspec.Struct, measures: Sequence[Measure]) -> Report:
    """These figures, with the date and the versions of now."""
    return Report(
        name=name,
        about=about,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        settings=msgspec.json.decode(msgspec.json.encode(settings)),
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            "mochi-server": __version__,
            "kernel": platform.system(),
        },
        cores=os.cpu_count() or 1,
        measures=list(measures),
    )


Line = tuple[str, str, str, str, str]

HEAD: Line = ("", "min", "median", "max", "wanted")


def cells(report: Report) -> list[Line]:
    """The table: a line for each measure, then one for each of its targets."""
    lines: list[Line] = []
    for measure in report.measures:
        lines.append((f"{measure.measure}, {measure.unit}{power(measure)}", "", "", "", ""))
        for of in measure.rows:
            target = of.target if of.at is None else f"{of.target}, {of.at:,} {measure.over}"
            wanted = measure.wanted if of.target.startswith(OURS) else ""
            lines.append((target, shown(of.min), shown(of.median), shown(of.max), wanted))
    return lines


def power(measure: Measure) -> str:
    """How ours grows from the smallest size to the largest, as a power of the size: n^1 is linear, n^0 is flat."""
    sized = [(of.at, of.median) for of in measure.rows if of.target == OURS and of.at and of.median > 0]
    if len(sized) < 2:
        return ""
    (small, least), (large, most) = sized[0], sized[-1]
    exponent = math.log(most / least) / math.log(large / small)
    return f" ({OURS}: n^{exponent:.2f})"


def shown(figure: float) -> str:
    """Two or three digits that count, and no more."""
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) < 0.1:
        return f"{figure:.2g}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def taken_with(report: Report) -> str:
    """In one line: when, with what, and how."""
    settings = ", ".join(f"{name.replace('_', ' ')} {_told(value)}" for name, value in report.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items() if name != "kernel")
    return f"{report.date} UTC; {report.versions['kernel']}, {report.cores} cores; {versions}; {settings}"


def _told(value: float | list[int]) -> str:
    return "/".join(f"{one:,}" for one in value) if isinstance(value, list) else f"{value:,}"


def as_text(report: Report) -> str:
    """The table for a terminal."""
    lines = [HEAD, *cells(report)]
    indented = [(line[0] if not line[1] else f"  {line[0]}", *line[1:]) for line in lines]
    width = max(len(line[0]) for line in indented)
    text = [f"{report.name}: {report.about}", taken_with(report), ""]
    text += [f"{line[0]:{width}}{''.join(f'{cell:>12}' for cell in line[1:-1])}  {line[-1]:>6}" for line in indented]
    return "\n".join(line.rstrip() for line in text)


def as_markdown(report: Report) -> str:
    """The table for a page."""
    lines = [f"### `{report.name}`", "", taken_with(report), ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---|--:|--:|--:|--:|"]
    for line in cells(report):
        first = line[0] if line[1] else f"**{line[0]}**"
        lines.append(f"| {first} | {' | '.join(line[1:])} |")
    return "\n".join(lines)
