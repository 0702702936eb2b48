"""A wire between network namespaces: `python -m benchmarks.wire PLACES BITS_PER_SECOND DELAY_SECONDS`.

Each place is a namespace without a name, with one TUN device whose other end is this process; an open file keeps each
namespace. So nothing outlives this process, however it ends, and it ends with its standard input.

What leaves a place is shaped on its way:
- `netem`, where the kernel has it: queue, rate and delay are the kernel's, and packets are only handed on here.
- `relay`, elsewhere: the kernel's token bucket (`tbf`) queues in front of the device, as a host's does in front of a
  slow line; here a packet takes its bytes / rate behind the one before, and arrives `DELAY_SECONDS` later.

The first line of standard output says that the places are there, the last one what was carried and how late it was.
Packets have up to 65,000 bytes, as a host with segmentation offload hands them to its device: a relay in Python carries
no million packets a second. What smaller packets' headers would take of the rate is left out.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import select
import struct
import sys
import time
from dataclasses import dataclass, field

from e2e.cluster.commands import run
from e2e.cluster.errors import HarnessError

NETWORK = "10.89.0"
DEVICE = "wire"
MTU = 65_000
CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PR_SET_TIMERSLACK = 29
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """One namespace: the file that keeps it open, and the wire's end of its device."""

    namespace: int
    device: int


@dataclass
class Carried:
    """What has gone over the wire."""

    bytes_from: list[int]  # by place, IP headers and repetitions among them
    late: list[float] = field(default_factory=list)  # seconds after it was due, by packet

    def report(self, began: float) -> dict[str, object]:
        """Return it as plain data; `began` is the processor time at the start."""
        late = sorted(self.late) or [0.0]
        return {
            "bytesFrom": self.bytes_from,
            "packets": len(self.late),
            "lateMeanMs": 1000 * sum(late) / len(late),
            "late99Ms": 1000 * late[len(late) * 99 // 100],
            "lateMostMs": 1000 * late[-1],
            "processorSeconds": time.process_time() - began,
        }


def address(place: int) -> str:
    """Return the address of a place."""
    return f"{NETWORK}.{place + 1}"


def enter(namespace: int) -> None:
    """Move this thread into a namespace; raises OSError."""
    _checked(_LIBC.setns(namespace, CLONE_NEWNET))


def has_netem() -> bool:
    """Tell whether the kernel delays packets itself."""
    try:
        run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except HarnessError:
        return False
    return True


def make_places(count: int, bits: float, delay: float) -> tuple[list[Place], bool]:
    """Return the places, and whether the kernel shapes what leaves them."""
    places, kernel = [], False
    for number in range(count):
        _checked(_LIBC.unshare(CLONE_NEWNET))
        kernel = has_netem()
        namespace, device = os.open("/proc/self/ns/net", os.O_RDONLY), _tun()
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{address(number)}/24", "dev", DEVICE)
        run("ip", "link", "set", DEVICE, "mtu", str(MTU), "up")
        # Ten packets, with which a connection begins, would be 650,000 bytes; ten of a usual size are 15,000.
        run("ip", "route", "change", f"{NETWORK}.0/24", "dev", DEVICE, "src", address(number), "initcwnd", "1")
        shaped = (
            ("netem", "delay", f"{delay * 1e6:.0f}us", "rate", f"{bits:.0f}bit", "limit", "10000")
            if kernel
            else ("tbf", "rate", f"{bits:.0f}bit", "burst", str(2 * MTU), "limit", str(1 << 24))
        )
        run("tc", "qdisc", "add", "dev", DEVICE, "root", *shaped)
        places.append(Place(namespace, device))
    return places, kernel


def carry(places: list[Place], bits: float, delay: float) -> Carried:
    """Carry packets until standard input ends; with no rate and no delay they are only handed on."""
    _LIBC.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    sources = {place.device: number for number, place in enumerate(places)}
    seconds_a_byte = 8 / bits if bits else 0.0
    free = [0.0] * len(places)  # when the last packet has left
    carried = Carried([0] * len(places))
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        while waiting and waiting[0][0] <= (now := time.monotonic()):
            due, _, target, packet = heapq.heappop(waiting)
            os.write(places[target].device, packet)
            carried.late.append(now - due)
        patience = max(waiting[0][0] - time.monotonic(), 0.0) if waiting else None
        readable, _, _ = select.select([0, *sources], [], [], patience)
        if 0 in readable:
            return carried
        now = time.monotonic()
        for device in readable:
            source = sources[device]
            for packet in _packets(device):
                free[source] = max(now, free[source]) + len(packet) * seconds_a_byte
                carried.bytes_from[source] += len(packet)
                target = packet[19] - 1  # the last byte of an IPv4 packet's destination
                if packet[0] >> 4 == 4 and 0 <= target < len(places):
                    number += 1
                    heapq.heappush(waiting, (free[source] + delay, number, target, packet))


def main() -> None:
    """Make the places, carry until told to end, and say what was carried."""
    count, bits, delay = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    os.setpriority(os.PRIO_PROCESS, 0, -20)  # a wire does not wait until a computation leaves it a core
    places, kernel = make_places(count, bits, delay)
    means = "netem" if kernel else "relay"
    print(json.dumps({"means": means, "namespaces": [place.namespace for place in places]}), flush=True)
    began = time.process_time()
    carried = carry(places, *((0.0, 0.0) if kernel else (bits, delay)))
    print(json.dumps(carried.report(began)), flush=True)


def _tun() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _packets(device: int) -> list[bytes]:
    """Return what waits at a device, a few packets at most: others are due meanwhile."""
    found = []
    for _ in range(8):
        try:
            found.append(os.read(device, 1 << 16))
        except BlockingIOError:
            break
    return found


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    try:
        main()
    except (OSError, HarnessError) as error:
        sys.exit(str(error))
