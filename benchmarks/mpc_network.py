"""Private inference over slow networks: MiniLM at 128 tokens, each member in a network namespace, beside a cost model.

`foedus infer --local`'s own path: a process for each member, mutual TLS, and a client, each behind a line of its own
that is shaped as `wire` says, one shape after the other; first without a network, over the loopback. How well a line
keeps to its shape is measured on it before anything else goes over it, and how late its packets were at the end.

The model: seconds = what the member that sends most sends / rate + rounds x delay + seconds over the loopback. It knows
neither how a connection begins (two and a half times there and back for the members to meet) nor how the client's input
and the result travel. It adds up what a network and a member in part do at the same time. The seconds are a client's,
from sending its input to the opened logits; of each arm the faster text counts. The value is the largest quotient of
measured seconds and the model's.

`PROTOCOLS=Replicated3PC,CrypTen` takes only these.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_crypten import make_task
from benchmarks.mpc_model import TOKENS
from benchmarks.shaped_network import Network, Shape, measure_shape, require_network, shaped_network
from foedus.inference.answer import PROTOCOLS
from foedus.inference.folders import PORT
from foedus.inference.local import Request, infer_local
from foedus.inference.meter import Meter
from foedus.inference.places import Addresses, Loopback, Places
from foedus.table import aligned

SHAPES = (Shape("1 Gbit/s, 0.5 ms", 1e9, 0.0005), Shape("400 Mbit/s, 20 ms", 4e8, 0.020))
TEXTS = 2  # of one start: the first one finds programs that are not made yet
CLIENT, MOST_PLACES = 0, 4  # a client and three members: all protocols' least
MOST = 1.5  # times the model
LARGEST_ERROR = 0.05  # of a logit
TRIP, RATE = 1.25, 0.85  # at most so many times the shape's way there and back, at least so much of its rate


@dataclass(frozen=True)
class Shaped:
    """Each member behind a line of its own."""

    network: Network

    async def addresses(self, members: Collection[int]) -> Addresses:
        """Return each member's place."""
        return {member: (self.network.address(_place(member)), PORT) for member in members}

    def entering(self, member: int) -> tuple[str, ...]:
        """Return the command that enters the member's place."""
        return self.network.entering(_place(member))


def _place(member: int) -> int:
    """Return a member's place: those behind the client's, a dealer's number being above all parties'."""
    return CLIENT + 1 + min(member, MOST_PLACES - 2)


@dataclass(frozen=True)
class Row:
    """One protocol on one network: what was measured, and what the model says."""

    protocol: str
    meter: Meter
    exact: list[float]
    loopback: float  # seconds

    def model(self, shape: Shape) -> Mapping[str, float]:
        """Return the model's parts in seconds."""
        answer = self.meter.answers[0]
        parts = {
            "bytes": 8 * max(answer.bytes_sent) / shape.bits_per_second,
            "rounds": answer.rounds * shape.delay,
            "loopback": self.loopback,
        }
        return {**parts, "all": sum(parts.values())}

    @property
    def seconds(self) -> float:
        """The faster text's."""
        return min(each.computing for each in self.meter.took)

    def report(self, shape: Shape) -> Mapping[str, Any]:
        """Return it as plain data."""
        answer, model = self.meter.answers[0], self.model(shape)
        return {
            "seconds": [each.computing for each in self.meter.took],
            "connectingSeconds": [each.connecting for each in self.meter.took],
            "processorSeconds": self.meter.processor,
            "rounds": answer.rounds,
            "bytesSent": list(answer.bytes_sent),
            "modelSeconds": model,
            "toModel": self.seconds / model["all"],
            "largestError": max(
                abs(got - want)
                for each in self.meter.answers
                for got, want in zip(each.logits, self.exact, strict=True)
            ),
        }


def infer(request: Request, places: Places) -> Meter:
    """Answer the request's texts by members at these places."""
    meter = Meter()
    asyncio.run(infer_local(request, meter, os.environ, places))
    return meter


def measure(folder: Path) -> Outcome:
    """Answer over the loopback, then over each network."""
    require_network()
    task = make_task(folder)
    exact, texts = task.exact(), (task.text,) * TEXTS
    protocols = os.environ.get("PROTOCOLS", ",".join(PROTOCOLS)).split(",")
    asked = {each: Request(texts, folder / "minilm", None, folder / "state", each) for each in protocols}
    loopback: dict[str, float] = {}
    for protocol, request in asked.items():
        _say(f"{protocol} over the loopback")
        loopback[protocol] = min(each.computing for each in infer(request, Loopback()).took)
    networks: dict[str, Any] = {}
    rows: dict[str, dict[str, Row]] = {}
    for shape in SHAPES:
        _say(f"shaping {shape.name}")
        with shaped_network(MOST_PLACES, shape) as network:
            found = measure_shape(network)
        networks[shape.name] = {"means": network.means, **found, "carried": {}}
        rows[shape.name] = {}
        for protocol, request in asked.items():
            _say(f"{protocol} over {shape.name}")
            with shaped_network(MOST_PLACES, shape) as network, network.entered(CLIENT):
                meter = infer(request, Shaped(network))
            networks[shape.name]["carried"][protocol] = network.carried
            rows[shape.name][protocol] = Row(protocol, meter, exact, loopback[protocol])
    print(*table(rows), sep="\n", file=sys.stderr, flush=True)
    return _outcome(networks, rows, loopback)


def table(rows: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """Return measured seconds beside the model's, a line each."""
    head = ("NETWORK", "PROTOCOL", "MEASURED", "MODEL", "= BYTES", "+ ROUNDS", "+ LOOPBACK", "MEASURED / MODEL")
    lines = []
    for shape in SHAPES:
        for protocol, row in rows[shape.name].items():
            model = row.model(shape)
            seconds = (row.seconds, model["all"], model["bytes"], model["rounds"], model["loopback"])
            lines.append(
                (shape.name, protocol, *(f"{each:.2f} s" for each in seconds), f"{row.seconds / model['all']:.2f}")
            )
    return aligned([head, *lines])


def _outcome(
    networks: Mapping[str, Any], rows: Mapping[str, Mapping[str, Row]], loopback: Mapping[str, float]
) -> Outcome:
    found = {shape.name: {each: row.report(shape) for each, row in rows[shape.name].items()} for shape in SHAPES}
    kept = all(
        networks[shape.name]["roundTripMs"] <= 2000 * shape.delay * TRIP
        and networks[shape.name]["bitsPerSecond"] >= shape.bits_per_second * RATE
        for shape in SHAPES
    )
    right = all(row["largestError"] <= LARGEST_ERROR for each in found.values() for row in each.values())
    details = {
        "tokens": TOKENS,
        "networks": networks,
        "loopbackSeconds": dict(loopback),
        "rows": found,
        "keptToShape": kept,
    }
    return Outcome(max(row["toModel"] for each in found.values() for row in each.values()), kept and right, details)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


BENCHMARK = Benchmark(
    name="mpc-network",
    shows="a private inference of MiniLM over slow networks: seconds over bytes / rate + rounds x delay + computing",
    unit="ratio",
    target=MOST,
    bound="at most",
    measure=measure,
)
