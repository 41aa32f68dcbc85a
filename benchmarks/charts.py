"""How cost grows, as a picture: of a measure whose rows have sizes, both axes logarithmic."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import OURS, Measure, Row

WIDTH, HEIGHT = 5.2, 3.6
"""Inches."""

COLOURS = {OURS: "#c2185b"}
OTHER_COLOUR = "#607d8b"


def draw(measure: Measure, path: Path) -> None:
    """Put the chart of a measure there, in place of one before."""
    # The same figures give the same bytes, and words are words.
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for target in dict.fromkeys(row.target for row in measure.rows):
            rows = [row for row in measure.rows if row.target == target and row.median > 0 and row.at]
            if rows:
                _line(axes, target, rows)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(measure.over)
        axes.set_ylabel(f"{measure.measure}, {measure.unit}")
        axes.set_title(f"{measure.measure}, by {measure.over} (wanted: {measure.wanted})", fontsize=10)
        axes.grid(visible=True, which="major", color="#dddddd")
        axes.legend(fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _line(axes: Axes, target: str, rows: Sequence[Row]) -> None:
    sizes, medians = [row.at or 0 for row in rows], [row.median for row in rows]
    below = [max(row.median - max(row.min, 0), 0) for row in rows]
    above = [row.max - row.median for row in rows]
    colour = COLOURS.get(target, OTHER_COLOUR)
    axes.errorbar(sizes, medians, yerr=[below, above], label=target, color=colour, marker="o", capsize=3)
    for size, median in zip(sizes, medians, strict=True):
        axes.annotate(f"{median:.3g}", (size, median), textcoords="offset points", xytext=(4, 5), fontsize=7)
    if target == OURS:
        linear = [medians[0] * size / sizes[0] for size in sizes]
        axes.plot(sizes, linear, label="linear, from the first", color="#aaaaaa", linestyle=":", linewidth=1)
