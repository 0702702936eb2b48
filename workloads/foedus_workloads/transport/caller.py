"""A client's connections to the members of an inference, over mutual TLS 1.3, and the driver of an inquiry.

Each member is dialled, and known by its certificate, before anything is said to it. Everything has a deadline; another
thread may end a call at any moment by closing it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from foedus_contract.errors import FoedusError, JobFailed, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import member_name
from foedus_workloads.inference.inquiry import Inquiry, Reply, root_cause
from foedus_workloads.transport.frames import Clock, Connection
from foedus_workloads.transport.parties import Dialling
from foedus_workloads.transport.tls import TlsPaths, party_contexts
from foedus_workloads.transport.tls_faults import identity_refused

LAST_WORDS_SECONDS = 5.0  # after one party has failed, for the others to say what they saw
Report = Callable[[int], None]


@dataclass(frozen=True)
class CallerPlace:
    """Where the members of a cluster answer, and the client's TLS files."""

    namespace: str
    cluster: str
    addresses: Mapping[int, tuple[str, int]]
    files: TlsPaths


@dataclass(frozen=True)
class CallerPatience:
    """How long a client waits."""

    connect_seconds: float = 60.0  # until a member answers
    consent_seconds: float = 600.0  # for a party that still serves somebody else
    input_seconds: float = 60.0  # until a party has taken its input
    silence_seconds: float = 240.0  # between two messages of a party; above what parties grant each other


class Call:
    """One inquiry's connections."""

    def __init__(self, place: CallerPlace, patience: CallerPatience, clock: Clock = time.monotonic) -> None:
        self._place, self._patience, self._clock = place, patience, clock
        self._dialling: Dialling | None = None
        self._connections: dict[int, Connection] = {}
        self._closed = threading.Event()

    def ask(self, inquiry: Inquiry, report: Report) -> Reply:
        """Send the input, once all have agreed, and return the answer; `report` is told how many rounds have begun.

        Raises FoedusError naming the party that was late, is gone or failed. The call is over then.
        """
        try:
            for party, connection in self._connections.items():
                with _naming(party, "did not take its input in time"):
                    header, payload = inquiry.inputs(party)
                    until = self._clock() + self._patience.input_seconds
                    connection.send(header, payload, until=until, clock=self._clock)
            self._listen(inquiry, report)
            return inquiry.reply()
        finally:
            self.close()

    def close(self) -> None:
        """End the call; `ask` in another thread ends with an error."""
        self._closed.set()
        if self._dialling is not None:
            self._dialling.stop()
        for connection in tuple(self._connections.values()):
            connection.close()

    def agree(self, inquiry: Inquiry) -> None:
        """Connect with all parties and agree on the session; nothing secret is sent.

        Raises FoedusError naming the party that is absent, is another or refuses. The call is over then.
        """
        try:
            self._agree(inquiry)
        except BaseException:
            self.close()
            raise

    def _agree(self, inquiry: Inquiry) -> None:
        context = party_contexts(self._place.files)[1]
        for party in self._place.addresses:
            # Of its own: what the one before took to consent is not this one's delay.
            until = self._clock() + self._patience.connect_seconds
            self._dialling = Dialling(self._place, context, until, self._clock)
            connection = Connection(self._dialling.take(party))
            self._connections[party] = connection
            if self._closed.is_set():  # looked at last, so that no connection is left open behind `close`
                raise JobFailed("the call was ended", where="client", code=ExitCode.CANCELLED)
            with _naming(party, "does not answer"):
                patience = self._clock() + self._patience.consent_seconds
                connection.send(inquiry.open(), until=patience, clock=self._clock)
                header = connection.read_header(until=patience, clock=self._clock)
            inquiry.agree(party, header)

    def _listen(self, inquiry: Inquiry, report: Report) -> None:
        """Read what all parties send until all have answered; of several errors, raise the cause."""
        lock = threading.Lock()
        with ThreadPoolExecutor(len(self._connections)) as pool:
            readers = {party: pool.submit(self._read, party, inquiry, lock, report) for party in self._connections}
            try:
                _, waiting = wait(readers.values(), return_when=FIRST_EXCEPTION)
                if waiting:
                    wait(waiting, timeout=LAST_WORDS_SECONDS)
                _raise_cause(readers)
            finally:
                for connection in self._connections.values():
                    connection.close()

    def _read(self, party: int, inquiry: Inquiry, lock: threading.Lock, report: Report) -> None:
        connection = self._connections[party]
        while True:
            until = self._clock() + self._patience.silence_seconds
            with _naming(party, "says nothing any more"):
                header = connection.read_header(until=until, clock=self._clock)
            with lock:
                views = inquiry.announce(party, header)
                report(inquiry.rounds)
            with _naming(party, "did not send its result in time"):
                for view in views:
                    connection.fill(view, until=until, clock=self._clock)
            if views:
                return


@contextmanager
def _naming(party: int, late: str) -> Iterator[None]:
    """Turn what a connection meets into an error that names the party."""
    where = member_name(party)
    try:
        yield
    except TimeoutError:
        raise JobFailed(late, where=where, code=ExitCode.DEADLINE_EXCEEDED) from None
    except OSError as error:
        if identity_refused(error):
            raise _refuses_us(where) from None
        raise JobFailed("is gone", where=where, cure="start a new session") from None


def _refuses_us(where: str) -> Refused:
    cure = "use the certificate that was issued for this cluster"
    return Refused("does not accept the client's certificate", where=where, cure=cure, code=ExitCode.IDENTITY_REFUSED)


def _raise_cause(readers: Mapping[int, Future[None]]) -> None:
    errors: dict[int, FoedusError] = {}
    for party, reader in readers.items():
        error = reader.exception() if reader.done() else None
        if isinstance(error, FoedusError):
            errors[party] = error
        elif error is not None:
            raise error
    if errors:
        raise root_cause(errors)
