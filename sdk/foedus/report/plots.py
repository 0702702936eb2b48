"""The report's plots: what each shows of a run, with the words that a screen reader says instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from xml.etree.ElementTree import Element

from foedus.report.figures import (
    BOTTOM,
    HEIGHT,
    TOP,
    Axis,
    Point,
    Scale,
    across,
    axes,
    bins,
    drawing,
    limit_line,
    path,
    ticks,
    upwards,
)
from foedus.report.markup import Node, h
from foedus.report.record import RunRecord
from foedus.report.timing import PHASES, phases_of
from foedus_contract.progress import RoundFinished

MOST_MARKS = 60  # beyond it, marks at the points would hide the line, and bars would be hairs
MOST_CELLS = 100  # columns of a silo's strip
STRIP_HEIGHT = 10.0
PATTERNS = ("phase-0", "phase-1", "phase-2", "phase-3")


def unit(record: RunRecord) -> str:
    """Return what the horizontal axes count: rounds while each took one attempt, else attempts."""
    return "round" if all(attempt.applied for attempt in record.attempts) else "attempt"


def accuracy_plot(record: RunRecord) -> Element:
    """Return accuracy on public records after each finished round."""
    y = Axis(Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP), ticks(0.0, 1.0), "")
    values = [attempt.accuracy if attempt.applied else None for attempt in record.attempts]
    known = [value for value in values if value is not None]
    said = f"Begins at {known[0]:.3f} and ends at {known[-1]:.3f}." if known else "It was not measured."
    return _line_plot(record, y, values, "Accuracy on public records", said, "accuracy", ".3f")


def epsilon_plot(record: RunRecord) -> Element:
    """Return ε spent after each attempt, against the ε that was promised."""
    limit, values = record.plan.privacy.epsilon, [attempt.epsilon_spent for attempt in record.attempts]
    y = upwards(max(limit, *values, 0.0), "")
    said = f"Rises to {values[-1] if values else 0.0:.4g} of at most {limit:g}."
    line = limit_line(y.scale(limit), f"promised: at most {limit:g}")
    return _line_plot(record, y, values, "Privacy loss ε spent", said, "epsilon", ".4f", *line)


def silos_plot(record: RunRecord) -> Element:
    """Return how many silos each released sum holds, against how many it needs."""
    silos, needed = len(record.plan.silos), record.plan.privacy.threshold
    values = [float(len(attempt.survivors)) if attempt.applied else None for attempt in record.attempts]
    held = [value for value in values if value is not None]
    y = upwards(float(silos), "", whole=True)
    said = f"Between {min(held):g} and {max(held):g} of {silos} silos." if held else "Nothing was released."
    line = limit_line(y.scale(needed), f"needed: at least {needed}", below=True)
    return _line_plot(record, y, values, "Silos in the sum", said, "silos", "g", *line)


def _line_plot(
    record: RunRecord,
    y: Axis,
    values: Sequence[float | None],
    title: str,
    said: str,
    name: str,
    form: str,
    *more: Node,
) -> Element:
    x = across(max(record.plan.rounds, len(values)), unit(record))
    points = [(index, value) for index, value in enumerate(values) if value is not None]
    places: list[Point] = [(x.scale(index + 1), y.scale(value)) for index, value in points]
    marks = [
        h("circle", h("title", f"{unit(record)} {index + 1}: {value:{form}}"), class_="mark", cx=at[0], cy=at[1], r=3.0)
        for (index, value), at in zip(points, places, strict=True)
        if len(points) <= MOST_MARKS
    ]
    line = h("path", class_="line", d=path(places))
    return drawing(title, said, *axes(x, y), *more, line, *marks, *_failures(record.attempts, x), name=name)


def _failures(attempts: Sequence[RoundFinished], x: Axis) -> list[Element]:
    """Return a cross at the foot of the plot for each attempt that released nothing."""
    foot = HEIGHT - BOTTOM - 7
    failed = [index for index, attempt in enumerate(attempts) if not attempt.applied]
    return [
        h(
            "path",
            h("title", f"attempt {index + 1} released nothing"),
            class_="cross",
            d=path([(at - 4, foot - 4), (at + 4, foot + 4), None, (at - 4, foot + 4), (at + 4, foot - 4)]),
        )
        for index, at in ((index, x.scale(index + 1)) for index in failed[:MOST_MARKS])
    ]


def time_plot(record: RunRecord) -> Element:
    """Return the seconds of each attempt as a column of its phases, the first at the foot."""
    groups = bins(len(record.attempts), MOST_MARKS)
    means = [_mean([phases_of(record.attempts[index]) for index in group]) for group in groups]
    x = across(max(record.plan.rounds, len(record.attempts)), _binned(unit(record), groups))
    y = upwards(max((sum(mean) for mean in means), default=1.0), "")
    columns: list[Node] = []
    for group, mean in zip(groups, means, strict=True):
        left, right = x.scale(group[0] + 0.5), x.scale(group[-1] + 1.5)
        columns += _column(left + 0.15 * (right - left), 0.7 * (right - left), mean, y.scale)
    total = sum(sum(phases_of(attempt)) for attempt in record.attempts)
    said = f"{total:.1f} seconds in all attempts; the table below has the phases."
    return drawing("Seconds of each attempt by phase", said, *axes(x, y), *columns, name="time")


def _mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def _binned(word: str, groups: Sequence[range]) -> str:
    most = max((len(group) for group in groups), default=1)
    return word if most == 1 else f"{word} (a column is the mean of up to {most})"


def _column(left: float, width: float, seconds: Sequence[float], scale: Callable[[float], float]) -> list[Element]:
    tops = list(accumulate(seconds, initial=0.0))
    return [
        h(
            "rect",
            h("title", f"{PHASES[index][1]}: {value:.2f} s"),
            class_="segment",
            fill=f"url(#{PATTERNS[index]})",
            x=left,
            y=scale(tops[index + 1]),
            width=width,
            height=scale(tops[index]) - scale(tops[index + 1]),
        )
        for index, value in enumerate(seconds)
        if value > 0
    ]


def patterns() -> Element:
    """Return the fills of the phases, which differ in texture and not in colour alone; once on a page."""
    stripes = h("path", class_="hatch", d="M0 0L0 6")
    dots = h("circle", class_="dot", cx=2.0, cy=2.0, r=1.1)
    box: dict[str, str | float] = {"patternUnits": "userSpaceOnUse", "width": 4.0, "height": 4.0}
    ground = [h("rect", class_=f"ground-{index}", width=6.0, height=6.0) for index in range(4)]
    shapes = [
        h("pattern", ground[0], dots, id=PATTERNS[0], **box),
        h("pattern", ground[1], id=PATTERNS[1], **box),
        h("pattern", ground[2], stripes, id=PATTERNS[2], patternTransform="rotate(45)", **box),
        h("pattern", ground[3], id=PATTERNS[3], **box),
    ]
    return h("svg", h("defs", *shapes), class_="unseen", width="0", height="0", aria_hidden="true")


def swatch(phase: int) -> Element:
    """Return a phase's fill as a small square."""
    square = h("rect", class_="segment", fill=f"url(#{PATTERNS[phase]})", x=0.5, y=0.5, width=11.0, height=11.0)
    return h("svg", square, class_="swatch", viewBox="0 0 12 12", aria_hidden="true")


def share_bar(share: float, said: str, kind: str = "share") -> Element:
    """Return a bar that fills `share` of its width; `said` is what a screen reader says instead."""
    full = h("rect", class_="track", width=100.0, height=STRIP_HEIGHT)
    part = h("rect", class_="fill", width=100 * min(max(share, 0.0), 1.0), height=STRIP_HEIGHT)
    view = {"viewBox": f"0 0 100 {STRIP_HEIGHT:g}", "preserveAspectRatio": "none"}
    return h("svg", h("title", said), full, part, class_=kind, role="img", **view)


def strip(record: RunRecord, silo: str) -> Element:
    """Return a silo's attempts from left to right: a full bar in the sum, a low one lost on the way, none not there."""
    groups = bins(len(record.attempts), MOST_CELLS)
    cells: list[Node] = []
    for column, group in enumerate(groups):
        cells += _cell(column, [record.attempts[index] for index in group], silo)
    taken = sum(silo in attempt.survivors for attempt in record.attempts)
    said = f"{silo} is in the sum of {taken} of {len(record.attempts)} attempts"
    view = {"viewBox": f"0 0 {max(len(groups), 1)} {STRIP_HEIGHT:g}", "preserveAspectRatio": "none"}
    return h("svg", h("title", said), *cells, class_="strip", role="img", **view)


def _cell(column: int, attempts: Sequence[RoundFinished], silo: str) -> list[Element]:
    share = sum(silo in attempt.survivors for attempt in attempts) / len(attempts)
    lost = any(silo in attempt.dropped for attempt in attempts)
    kind, height = ("in", share * (STRIP_HEIGHT - 1)) if share else ("lost", 4.0) if lost else ("absent", 0.0)
    floor = h("rect", class_="floor", x=float(column), y=STRIP_HEIGHT - 1, width=1.0, height=1.0)
    bar = h("rect", class_=kind, x=column + 0.1, y=STRIP_HEIGHT - 1 - height, width=0.8, height=height)
    return [floor, bar] if height else [floor]
