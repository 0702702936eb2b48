"""Places on this machine with a shaped network between them, and how well it keeps to its shape.

The namespaces and their devices belong to the process of `benchmarks.wire` and go with it; that process ends with this
one. Whatever runs in a place must end by itself: a namespace lasts as long as a process in it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from e2e.cluster.errors import HarnessError, UnsuitableMachine

from benchmarks.wire import address, enter

PROGRAMS = ("ip", "tc", "nsenter")
TUN = Path("/dev/net/tun")
HERE = Path("/proc/thread-self/ns/net")
WIRE_SECONDS = 30.0  # until it has begun, or ended
TRIPS = 21
BULK_SECONDS = 1.5  # of the rate, in one direction
_PIECE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """What each place's line does: its rate in both directions, and how long a packet takes to any other place."""

    name: str
    bits_per_second: float
    delay: float  # seconds, one way


@dataclass
class Network:
    """Places that are there for as long as the wire runs."""

    shape: Shape
    means: str  # netem or relay, see `wire`
    process: int
    namespaces: tuple[int, ...]
    carried: Mapping[str, Any] = field(default_factory=dict)  # when it is over

    def address(self, place: int) -> str:
        """Return the address of a place."""
        return address(place)

    def entering(self, place: int) -> tuple[str, ...]:
        """Return the command that runs what is written behind it in a place."""
        return ("nsenter", f"--net={self._handle(place)}")

    @contextmanager
    def entered(self, place: int) -> Iterator[None]:
        """Have this thread, and what it starts, in a place; a socket stays where it was made."""
        back = os.open(HERE, os.O_RDONLY)
        there = os.open(self._handle(place), os.O_RDONLY)
        try:
            enter(there)
            yield
        finally:
            enter(back)
            os.close(there)
            os.close(back)

    def _handle(self, place: int) -> str:
        return f"/proc/{self.process}/fd/{self.namespaces[place]}"


def require_network() -> None:
    """Raise UnsuitableMachine where no namespaces and devices can be made."""
    if os.geteuid() != 0:
        raise UnsuitableMachine("a network is shaped by root alone")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise UnsuitableMachine(f"a network is shaped by {', '.join(missing)}, which are not installed")
    if not TUN.exists():
        raise UnsuitableMachine(f"there is no {TUN}: the kernel has no TUN devices")


@contextmanager
def shaped_network(places: int, shape: Shape) -> Iterator[Network]:
    """Give places with the network between them.

    Raises UnsuitableMachine where the kernel does not make it, HarnessError when the wire has ended before its time.
    """
    require_network()
    command = [sys.executable, "-m", "benchmarks.wire", str(places), str(shape.bits_per_second), str(shape.delay)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as wire:  # type: ignore[call-overload]
        try:
            said = wire.stdout.readline()
            if not said:
                raise UnsuitableMachine(f"no network can be shaped here: {wire.stderr.read().strip()}")
            begun = json.loads(said)
            network = Network(shape, begun["means"], wire.pid, tuple(begun["namespaces"]))
            yield network
            out, said = wire.communicate(timeout=WIRE_SECONDS)
            if not out:
                raise HarnessError(f"the wire of {shape.name} has ended: {said.strip() or wire.returncode}")
            network.carried = json.loads(out)
        finally:
            wire.kill()


def measure_shape(network: Network) -> dict[str, float]:
    """Return the time there and back and the rate between the first two places, as connections see them."""
    trips = [measure_round_trip(network) for _ in range(TRIPS)]
    rate = _rate(network, int(network.shape.bits_per_second / 8 * BULK_SECONDS))
    return {"roundTripMs": 1000 * median(trips), "bitsPerSecond": rate}


def measure_round_trip(network: Network) -> float:
    """Return the seconds of a connect: one packet there and one back, both by the kernel."""
    with network.entered(1):
        server = socket.create_server((network.address(1), 0))
    with network.entered(0):
        client = socket.socket()
    with server, client:
        begin = time.perf_counter()
        client.connect(server.getsockname())
        return time.perf_counter() - begin


def _rate(network: Network, size: int) -> float:
    """Return bits a second of one connection once it has found its pace: of the last three quarters."""
    with network.entered(1):
        server = socket.create_server((network.address(1), 0))
    with network.entered(0):
        client = socket.create_connection(server.getsockname())
    sender = threading.Thread(target=_send, args=(client, size))
    sender.start()
    with server, server.accept()[0] as receiver:
        received, begun, at = 0, 0.0, 0
        while count := len(receiver.recv(_PIECE)):
            received += count
            if received >= size // 4 and not begun:
                begun, at = time.perf_counter(), received
        seconds = time.perf_counter() - begun
    sender.join()
    return 8 * (received - at) / seconds


def _send(connection: socket.socket, size: int) -> None:
    with connection:
        for _ in range(0, size, _PIECE):
            connection.sendall(bytes(_PIECE))
