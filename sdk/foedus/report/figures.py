"""Plots as pure functions: numbers in, SVG elements out. A drawing is in units of its own and scales with the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from foedus.report.markup import Node, h, number

WIDTH, HEIGHT = 480.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 18.0, 46.0  # room for the axes' numbers and words
STEPS = (1.0, 2.0, 5.0, 10.0)

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """A straight line from values to units of the drawing; values beyond its ends are held at the ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where `value` lies."""
        if self.high <= self.low:
            return (self.start + self.end) / 2
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Axis:
    """An axis: its scale, the values that are written at it, and what they mean with their unit."""

    scale: Scale
    ticks: tuple[float, ...]
    label: str


def tick_step(span: float, most: int, *, whole: bool = False) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that divides `span` into at most `most` parts."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in STEPS if span / (factor * power) <= most * (1 + 1e-9))
    return max(step, 1.0) if whole else step


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> tuple[float, ...]:
    """Return round values from `low` to `high`, at most `most` + 1 of them."""
    step = tick_step(high - low, most, whole=whole)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def across(count: int, label: str) -> Axis:
    """Return the horizontal axis of `count` attempts or rounds; number k stands at k."""
    scale = Scale(0.5, max(count, 1) + 0.5, LEFT, WIDTH - RIGHT)
    marks = (1.0, *(tick for tick in ticks(0, max(count, 1), 5, whole=True) if tick > 1))
    return Axis(scale, marks, label)


def upwards(high: float, label: str, *, whole: bool = False) -> Axis:
    """Return a vertical axis from 0 to the first round value at or above `high`."""
    step = tick_step(high, 4, whole=whole)
    top = math.ceil(high / step - 1e-9) * step if high > 0 else 1.0
    return Axis(Scale(0.0, top, HEIGHT - BOTTOM, TOP), ticks(0.0, top, 5, whole=whole), label)


def path(points: Sequence[Point | None]) -> str:
    """Return the path through the points; None lifts the pen."""
    parts, drawing = [], False
    for point in points:
        if point is not None:
            parts.append(f"{'L' if drawing else 'M'}{number(float(point[0]))} {number(float(point[1]))}")
        drawing = point is not None
    return "".join(parts)


def axes(x: Axis, y: Axis) -> list[Element]:
    """Return grid, numbers and words of both axes."""
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = []
    for tick in y.ticks:
        at = y.scale(tick)
        drawn.append(h("line", class_="grid", x1=LEFT, y1=at, x2=right, y2=at))
        drawn.append(h("text", f"{tick:g}", class_="tick end", x=LEFT - 7, y=at + 4))
    for tick in x.ticks:
        drawn.append(h("text", f"{tick:g}", class_="tick middle", x=x.scale(tick), y=floor + 17))
    drawn.append(h("line", class_="axis", x1=LEFT, y1=floor, x2=right, y2=floor))
    drawn.append(h("text", x.label, class_="label middle", x=(LEFT + right) / 2, y=HEIGHT - 6))
    return drawn


def drawing(title: str, description: str, *content: Node, name: str) -> Element:
    """Return a plot; `title` and `description` are what a screen reader says instead of it."""
    named, described = f"{name}-title", f"{name}-desc"
    return h(
        "svg",
        h("title", title, id=named),
        h("desc", description, id=described),
        *content,
        class_="plot",
        viewBox=f"0 0 {number(WIDTH)} {number(HEIGHT)}",
        role="img",
        aria_labelledby=named,
        aria_describedby=described,
    )


def limit_line(at: float, text: str, *, below: bool = False) -> list[Element]:
    """Return a dashed line across the plot with its meaning written at the side where no values are."""
    right = WIDTH - RIGHT
    return [
        h("line", class_="limit", x1=LEFT, y1=at, x2=right, y2=at),
        h("text", text, class_="note", x=LEFT + 4, y=at + 15 if below else at - 5),
    ]


def bins(count: int, most: int) -> tuple[range, ...]:
    """Return `count` indices as at most `most` runs of neighbours, as equal in length as can be."""
    number_of = min(count, most)
    edges = [index * count // number_of for index in range(number_of + 1)] if number_of else [0]
    return tuple(range(first, last) for first, last in pairwise(edges))
