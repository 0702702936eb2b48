"""The cost model beside what was measured: a table for people, and what is held to the target."""

from __future__ import annotations

import pytest
from benchmarks import mpc_network
from benchmarks.mpc_network import Row, table

from foedus.inference.answer import Answer
from foedus.inference.meter import Meter, Took

LAN, WAN = (shape.name for shape in mpc_network.SHAPES)


def row(seconds: float, logits: tuple[float, ...] = (0.5, -0.5)) -> Row:
    """1,000 rounds, 100 MB of the party that sends most, and 2 s over the loopback."""
    answer = Answer("one", {}, logits, 128, 9.0, 1000, (50_000_000, 100_000_000, 70_000_000))
    took = [Took(0.1, seconds + 1, 3.0), Took(0.1, seconds, 3.0)]
    return Row("Replicated3PC", Meter(answers=[answer, answer], took=took), [0.5, -0.5], 2.0)


ROWS = {LAN: {"Replicated3PC": row(3.96)}, WAN: {"Replicated3PC": row(24.0)}}
KEPT = {LAN: {"roundTripMs": 1.1, "bitsPerSecond": 9.3e8}, WAN: {"roundTripMs": 40.2, "bitsPerSecond": 3.9e8}}


def test_the_table_has_the_models_parts_beside_what_was_measured() -> None:
    # 0.8 Gbit and 1,000 x 0.5 ms; then 2 s for the bytes and 20 s for the rounds.
    assert [" ".join(line.split()) for line in table(ROWS)] == [
        "NETWORK PROTOCOL MEASURED MODEL = BYTES + ROUNDS + LOOPBACK MEASURED / MODEL",
        "1 Gbit/s, 0.5 ms Replicated3PC 3.96 s 3.30 s 0.80 s 0.50 s 2.00 s 1.20",
        "400 Mbit/s, 20 ms Replicated3PC 24.00 s 24.00 s 2.00 s 20.00 s 2.00 s 1.00",
    ]


@pytest.mark.parametrize(
    ("networks", "rows", "met"),
    [
        (KEPT, ROWS, True),
        ({**KEPT, LAN: {"roundTripMs": 1.3, "bitsPerSecond": 9.3e8}}, ROWS, False),
        ({**KEPT, WAN: {"roundTripMs": 40.2, "bitsPerSecond": 3.3e8}}, ROWS, False),
        (KEPT, {**ROWS, LAN: {"Replicated3PC": row(3.96, (0.5, -0.44))}}, False),
    ],
    ids=["good", "late", "slow", "wrong"],
)
def test_lines_must_keep_to_their_shape_and_logits_be_right(networks, rows, met) -> None:
    found = mpc_network._outcome(networks, rows, {"Replicated3PC": 2.0})
    assert found.value == pytest.approx(1.2)
    assert found.met is met
