"""What a process of a job finds in place of the other side."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from cryptography import x509

from bad_input.pods import E, case, replanned
from foedus_workloads.transport.tls import TlsPaths, server_context
from support.certificates import Authority
from support.training_world import World


@contextmanager
def port_taken(world: World) -> Iterator[None]:
    with socket.create_server(address(world)):
        yield


def address(world: World) -> tuple[str, int]:
    host, _, port = next(iter(json.loads((world.root / "endpoints.json").read_text("utf-8")).values())).rpartition(":")
    return host, int(port)


def foreign_certificate(world: World) -> AbstractContextManager[None]:
    """The coordinator's certificate is signed by an authority that is not the job's."""
    name = x509.DNSName("job-coordinator")
    return listening(world, server_context(Authority.create().issue(world.root / "foreign", name)))


def expired_coordinator(world: World) -> AbstractContextManager[None]:
    files = world.authority.issue(world.root / "old", x509.DNSName("job-coordinator"), years=(-2, -1))
    return listening(world, server_context(files))


def old_tls(world: World) -> AbstractContextManager[None]:
    """The right certificate, but something in between speaks TLS 1.2 only."""
    files = TlsPaths(*(world.root / "tls/coordinator" / name for name in ("tls.crt", "tls.key", "ca.crt")))
    context = server_context(files)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return listening(world, context)


@contextmanager
def listening(world: World, context: ssl.SSLContext) -> Iterator[None]:
    """Shake hands with whoever comes, until the block ends."""

    def serve() -> None:
        while True:
            try:
                raw, _ = server.accept()
            except OSError:
                return
            with raw, suppress(OSError):
                context.wrap_socket(raw, server_side=True).close()

    with socket.create_server(address(world)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


PEER = (
    case(
        "the coordinator's certificate has expired: a silo",
        expired_coordinator,
        E.IDENTITY_REFUSED,
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's certificate is refused (certificate has expired); compare both machines' clocks, or create the job again: each job has certificates of its own",
    ),
    case(
        "the coordinator's certificate is another authority's",
        foreign_certificate,
        E.IDENTITY_REFUSED,
        "silo silo-a: job-coordinator at 127.0.0.1:…: one side does not accept the other's certificate; mount certificates that this job's authority signed for these very names",
    ),
    case(
        "something speaks TLS 1.2",
        old_tls,
        E.IDENTITY_REFUSED,
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator does not speak TLS 1.3; see what stands between it and the silo; older TLS is never used",
    ),
    case(
        "the coordinator's port is taken",
        port_taken,
        E.ADDRESS_IN_USE,
        "coordinator: 127.0.0.1:…: the address cannot be bound; free the port or choose another",
        role="coordinator",
    ),
    case(
        "nobody comes: the silos are not there in time",
        replanned(deadlines={"joinSeconds": 1}),
        E.QUORUM_LOST,
        "coordinator: job: the silos did not join in time: 0 are there, 3 are needed; missing: silo-a, silo-b, silo-c, silo-d; see why they stopped; raise spec.aggregation.joinTimeout if they are slow to start",
        role="coordinator",
    ),
    case(
        "nobody is there: the coordinator does not come up in time",
        replanned(deadlines={"joinSeconds": 1}),
        E.UNAVAILABLE,
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator does not answer; see whether it runs, and whether the network lets this silo through",
    ),
)
