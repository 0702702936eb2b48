"""Places with a shaped network between them: packets take their time, and nothing is left however the wire ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.shaped_network import Network, Shape, measure_round_trip, shaped_network
from e2e.cluster.errors import HarnessError, UnsuitableMachine

SLOW = Shape("slow", 8e6, 0.05)  # a byte a microsecond


@pytest.fixture(autouse=True)
def suitable():
    try:
        with shaped_network(2, SLOW):
            pass
    except UnsuitableMachine as error:
        pytest.skip(str(error))


@pytest.fixture
def network():
    with shaped_network(2, SLOW) as made:
        yield made


def sent(network: Network, content: bytes) -> bytes:
    """Return what comes out at the first place of what the second one is sent."""
    with network.entered(1):
        server = socket.create_server((network.address(1), 0))
    with network.entered(0):
        client = socket.create_connection(server.getsockname(), timeout=60)
    with server, client, server.accept()[0] as receiver:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: receiver.recv(1 << 16), b""))


def occupied() -> set[str]:
    """Return the network namespaces that any process is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.add(os.readlink(process / "ns/net"))
    return found


def test_what_is_sent_arrives_whole_and_is_counted():
    content = os.urandom(300_000)
    with shaped_network(2, SLOW) as network:
        assert sent(network, content) == content
    assert network.means in {"relay", "netem"}
    assert network.carried["bytesFrom"][0] > len(content) > network.carried["bytesFrom"][1]
    assert network.carried["lateMostMs"] >= 0


def test_a_packet_takes_its_time_there_and_back(network):
    assert measure_round_trip(network) >= 2 * SLOW.delay  # a machine that is busy makes it longer, none shorter


def test_a_place_has_a_network_of_its_own_and_leaving_it_leads_back(network):
    here = os.readlink("/proc/thread-self/ns/net")
    with network.entered(0):
        there = os.readlink("/proc/thread-self/ns/net")
        assert [name for _, name in socket.if_nameindex()][-1] == "wire"
    assert there != here == os.readlink("/proc/thread-self/ns/net")
    ran = subprocess.run(
        [*network.entering(0), "readlink", "/proc/self/ns/net"], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == there


def test_nothing_is_left_of_a_wire_that_was_killed():
    before = {name for _, name in socket.if_nameindex()}, set(Path("/run/netns").glob("*"))
    seen: list[str] = []

    def break_off() -> None:
        with shaped_network(2, SLOW) as network:
            with network.entered(0):
                seen.append(os.readlink("/proc/thread-self/ns/net"))
            os.kill(network.process, signal.SIGKILL)

    with pytest.raises(HarnessError, match="the wire of slow has ended"):
        break_off()
    assert seen[0] not in occupied()
    assert ({name for _, name in socket.if_nameindex()}, set(Path("/run/netns").glob("*"))) == before
