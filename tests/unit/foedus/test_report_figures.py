"""Plots are functions of numbers: scales, ticks, paths, and the very points of a small run."""

from xml.etree.ElementTree import Element

import pytest

from foedus.report import plots
from foedus.report.figures import Scale, bins, path, ticks, upwards
from foedus.report.timing import Span, spans
from support.report_record import attempt, small_record

# A drawing is 480 by 250; x runs from 52 to 466 over 0.5 … 4.5 attempts, so number k stands at 103.75 + 103.5·(k − 1);
# y runs from 204 at 0 to 18.
XS = ("103.75", "207.25", "310.75", "414.25")


@pytest.mark.parametrize(
    ("value", "want"), [(0.0, 100.0), (1.0, 60.0), (2.0, 20.0), (-5.0, 100.0), (7.0, 20.0), (1e300, 20.0)]
)
def test_a_scale_is_a_line_that_ends_at_its_ends(value: float, want: float) -> None:
    assert Scale(0.0, 2.0, 100.0, 20.0)(value) == want


@pytest.mark.parametrize(
    ("low", "high", "whole", "want"),
    [
        (0, 1, False, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0, 20, True, (0, 5, 10, 15, 20)),
        (0, 3, True, (0, 1, 2, 3)),
        (0, 0.037, False, (0, 0.01, 0.02, 0.03)),
        (0, 10_000, True, (0, 2000, 4000, 6000, 8000, 10_000)),
        (0, 0, False, (0,)),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, whole: bool, want: tuple[float, ...]) -> None:
    assert ticks(low, high, whole=whole) == want


def test_an_axis_ends_at_a_round_number_above_its_values() -> None:
    assert [upwards(high, "").scale.high for high in (0.0, 0.97, 3.4, 17.0)] == [1.0, 1.0, 4.0, 20.0]


def test_a_path_lifts_the_pen_where_a_point_is_missing() -> None:
    assert path([(0, 1), (2.5, 3), None, (4, 5.125)]) == "M0 1L2.5 3M4 5.12"


@pytest.mark.parametrize(
    ("count", "most", "want"),
    [(0, 3, []), (2, 3, [[0], [1]]), (7, 3, [[0, 1], [2, 3], [4, 5, 6]])],
)
def test_bins_hold_every_index_once(count: int, most: int, want: list[list[int]]) -> None:
    assert [list(group) for group in bins(count, most)] == want


def parts(plot: Element, kind: str) -> list[Element]:
    return [element for element in plot.iter() if element.get("class") == kind]


def places(plot: Element) -> list[tuple[str, str]]:
    return [(mark.attrib["cx"], mark.attrib["cy"]) for mark in parts(plot, "mark")]


def test_accuracy_has_a_point_for_each_round_that_released() -> None:
    plot = plots.accuracy_plot(small_record())
    # 204 − 186·(0.5, 0.7, 0.8)
    assert places(plot) == [(XS[0], "111"), (XS[2], "73.8"), (XS[3], "55.2")]
    assert [line.get("d") for line in parts(plot, "line")] == [f"M{XS[0]} 111L{XS[2]} 73.8L{XS[3]} 55.2"]
    assert [cross.get("d") for cross in parts(plot, "cross")] == ["M203.25 193L211.25 201M203.25 201L211.25 193"]
    assert [mark[0].text for mark in parts(plot, "mark")] == [
        "attempt 1: 0.500",
        "attempt 3: 0.700",
        "attempt 4: 0.800",
    ]


def test_epsilon_has_a_point_for_each_attempt_and_the_promise_as_a_line() -> None:
    plot = plots.epsilon_plot(small_record())
    # 204 − 186·(0.25, 0.5, 0.75, 0.9)
    assert places(plot) == list(zip(XS, ("157.5", "111", "64.5", "36.6"), strict=True))
    assert [line.get("y1") for line in parts(plot, "limit")] == ["18"]
    assert [note.text for note in parts(plot, "note")] == ["promised: at most 1"]


def test_the_silos_of_each_sum_stand_against_those_needed() -> None:
    plot = plots.silos_plot(small_record())
    # 204 − 186·(4, 3, 3)/4
    assert places(plot) == [(XS[0], "18"), (XS[2], "64.5"), (XS[3], "64.5")]
    assert [line.get("y1") for line in parts(plot, "limit")] == ["64.5"]


def test_an_attempts_phases_are_stacked_in_their_order() -> None:
    columns = parts(plots.time_plot(small_record()), "segment")
    # ten seconds are 186 units high: 1, 6, 1 and 2 of them upwards from 204
    want = [
        ("phase-0", "185.4", "18.6"),
        ("phase-1", "73.8", "111.6"),
        ("phase-2", "55.2", "18.6"),
        ("phase-3", "18", "37.2"),
    ]
    seen = [(bar.attrib["fill"][5:-1], bar.attrib["y"], bar.attrib["height"]) for bar in columns]
    assert seen == want * 4
    assert [bar.attrib["x"] for bar in columns[::4]] == ["67.53", "171.03", "274.52", "378.02"]


def test_a_silos_strip_tells_in_lost_and_absent_apart_by_height() -> None:
    def cells(silo: str) -> list[tuple[str, str, str]]:
        strip = plots.strip(small_record(), silo)
        return [(bar.attrib["class"], bar.attrib["x"], bar.attrib["height"]) for bar in strip if "class" in bar.attrib]

    floors = [("floor", str(column), "1") for column in range(4)]
    assert [cell for cell in cells("silo-4") if cell[0] != "floor"] == [
        ("in", "0.1", "9"),
        ("lost", "1.1", "4"),
        ("lost", "2.1", "4"),
    ]
    assert [cell for cell in cells("silo-1") if cell[0] == "floor"] == floors
    assert [cell for cell in cells("silo-1") if cell[0] != "floor"] == [("in", x, "9") for x in ("0.1", "2.1", "3.1")]


def test_the_parts_of_the_time_add_up_to_the_whole() -> None:
    # from 1000 to 1065; training from 1018, four attempts of ten seconds, the last at 1060
    assert spans(small_record()) == (
        Span("starting, loading the model", 8),
        Span("caching activations", 7),
        Span("joining", 3),
        Span("broadcast, keys and shares", 4, 0),
        Span("gradients and noise at the silos", 24, 1),
        Span("taking the masks off", 4, 2),
        Span("step and accuracy", 8, 3),
        Span("between attempts", 2),
        Span("writing the adapter, leaving", 5),
    )
    without = small_record(attempts=(attempt(0, phases=None),), preparation=())
    assert [(part.what, part.seconds) for part in spans(without)] == [
        ("attempts", 10),
        ("between attempts", 20),
        ("writing the adapter, leaving", 35),
    ]


def test_ten_thousand_attempts_are_drawn_in_columns() -> None:
    record = small_record(attempts=[attempt(number, accuracy=0.5) for number in range(10_000)])
    assert len(parts(plots.time_plot(record), "segment")) == 60 * 4
    assert len(parts(plots.strip(record, "silo-1"), "in")) == 100
    assert parts(plots.accuracy_plot(record), "mark") == []
    assert parts(plots.accuracy_plot(record), "line")[0].attrib["d"].count("L") == 9999
