"""One member of private inferences: it loads its shares, listens, and serves one client after another.

A session's keys are drawn for it alone and are bound to this start of the process (`mpc/session.py`). So a party that
is started again could not use a stream twice even with the number of an earlier start; the number is claimed on its
state all the same, before it listens, so that greetings tell an old process from a new one and two of them never serve
the same state. Nothing else outlives the process: a session that is cut off is over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from foedus_contract.durable import append_durably, open_lines, unwritable
from foedus_contract.errors import FoedusError, InvalidInput, JobFailed, describe_defect
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import member_name
from foedus_contract.progress import Preparing
from foedus_contract.run_spec import PartyRunSpec, Patience
from foedus_workloads.inference.desk import Desk, failure
from foedus_workloads.inference.memory import keep_freed_blocks, keep_what_is_loaded
from foedus_workloads.inference.shares import ShareLabel, read_shares
from foedus_workloads.inference.task import Start, Tasks
from foedus_workloads.mpc.ring import missing_kernels
from foedus_workloads.mpc.wire import bytes_of
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.frames import Clock, Connection
from foedus_workloads.transport.parties import meet, run_session
from foedus_workloads.transport.reception import PartyPlace, Reception

LISTENING = "listening"  # the last thing that a party reports before it serves
INCARNATIONS_FILE = "incarnations"  # below the state folder: a line for each start
REPORT_SECONDS = 0.5  # between two reports of rounds to a client
REPORTED_SECONDS = 10.0  # until one has left: a client that takes none has gone
Entropy = Callable[[int], bytes]
MakeTasks = Callable[[ShareLabel, Mapping[str, Tensor]], Tasks]

_logger = logging.getLogger(__name__)


async def run_party(spec: PartyRunSpec, around: Surroundings, make_tasks: MakeTasks) -> None:
    """Serve until cancelled; raises FoedusError when the party cannot begin."""
    progress = around.progress(spec.progress)
    if (missing := missing_kernels()) is not None:
        _logger.warning("%s: %s", member_name(spec.party), missing)
    progress.write(Preparing(at=around.wall_clock(), what="loading its shares"))
    label, shares = await asyncio.to_thread(read_shares, around.path(spec.weights), spec.party, spec.model_digest)
    with claim_incarnation(around.path(spec.state), spec.party) as incarnation:
        tasks = make_tasks(label, shares)
        keep_what_is_loaded()
        keep_freed_blocks()
        service = PartyService(
            build_place(spec, around), label, incarnation, tasks, spec.patience, around.entropy, around.clock
        )
        progress.write(Preparing(at=around.wall_clock(), what=LISTENING))
        await service.run()


def build_place(spec: PartyRunSpec, around: Surroundings) -> PartyPlace:
    """Return who this party is and where all of them listen; raises InvalidInput for a Service that is not known."""
    try:
        addresses = {member: around.address(each.service, each.port) for member, each in spec.addresses.items()}
    except KeyError as error:
        raise InvalidInput("the endpoints file does not know it", where=f"service {error.args[0]}") from None
    return PartyPlace(spec.party, spec.namespace, spec.cluster, addresses, around.tls(spec.tls))


@contextmanager
def claim_incarnation(state: Path, party: int) -> Iterator[int]:
    """Give this start a number above all earlier ones, durably, and hold the state until the end.

    Raises Unavailable while another process of this party holds it, or when the volume takes nothing.
    """
    path = state / INCARNATIONS_FILE
    with open_lines(path, owner=member_name(party)) as (descriptor, lines):
        try:
            append_durably(descriptor, b"%d\n" % (len(lines) + 1))
        except OSError as error:
            raise unwritable(path, error) from error
        yield len(lines) + 1


class PartyService:
    """A party's listener and the sessions that it serves, one after another."""

    def __init__(
        self,
        place: PartyPlace,
        label: ShareLabel,
        incarnation: int,
        tasks: Tasks,
        patience: Patience,
        entropy: Entropy,
        clock: Clock,
    ) -> None:
        self._place, self._label, self._incarnation, self._tasks = place, label, incarnation, tasks
        self._patience, self._entropy, self._clock = patience, entropy, clock
        self._reception = Reception(place, clock)
        self._client: Connection | None = None

    async def run(self) -> None:
        """Serve until cancelled; raises what ends the service otherwise."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        faults: list[BaseException] = []

        def serve() -> None:
            try:
                self.serve()
            except BaseException as error:  # noqa: BLE001 - it is raised where the service was started
                faults.append(error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        # No thread of a pool: an end must not wait for a product that is being computed.
        thread = threading.Thread(target=serve, name="party", daemon=True)
        thread.start()
        try:
            await done.wait()
        finally:
            self.close()
        for error in faults:
            raise error

    def serve(self) -> None:
        """Serve clients until closed."""
        while (client := self._reception.client()) is not None:
            self._client = client
            try:
                self._attend(client)
            finally:
                client.close()

    def close(self) -> None:
        """Stop listening, and end the session that runs."""
        self._reception.close()
        if self._client is not None:
            self._client.close()

    def _attend(self, client: Connection) -> None:
        """Serve one client to the end of its session; whatever goes wrong ends this session alone."""
        try:
            self._answer(client)
        except OSError as error:
            _logger.warning("a client was %s", "late" if isinstance(error, TimeoutError) else "gone")
        except Exception as error:  # noqa: BLE001 - a session's border: the next client is served all the same
            _logger.warning("%s", error if isinstance(error, FoedusError) else describe_defect(error))
            with suppress(OSError):
                client.send(
                    failure(self._place.party, error),
                    until=self._until(self._patience.output_seconds),
                    clock=self._clock,
                )

    def _answer(self, client: Connection) -> None:
        clock, patience = self._clock, self._patience
        desk = Desk(self._label, self._incarnation, self._tasks)
        # Neighbours dial for this session only after all have consented, so what is there now is of another.
        self._reception.forget_neighbours()
        ready = desk.open(client.read_header(until=self._until(patience.open_seconds), clock=clock))
        until = self._until(patience.input_seconds)
        client.send(ready, until=until, clock=clock)
        for view in desk.announce(client.read_header(until=until, clock=clock)):
            client.fill(view, until=until, clock=clock)
        summand, rounds, sent = self._compute(client, desk)
        header = desk.output(summand, rounds, sent)
        client.send(header, (bytes_of(summand),), until=self._until(patience.output_seconds), clock=clock)

    def _compute(self, client: Connection, desk: Desk) -> tuple[Tensor, int, int]:
        task, inputs = desk.task, desk.inputs()
        links = meet(self._place, self._reception, seconds=self._patience.connect_seconds, clock=self._clock)
        session = task.begin(Start(desk.terms, inputs, self._incarnation, self._entropy))
        reports = Reports(client, desk, self._clock)
        round_seconds = self._patience.round_seconds
        summand = run_session(session, links, round_seconds=round_seconds, clock=self._clock, watch=reports.begun)
        return summand, session.totals.rounds, session.totals.bytes_sent

    def _until(self, seconds: float) -> float:
        return self._clock() + seconds


@dataclass
class Reports:
    """Tells the client how many rounds have begun, not too often, and ends a session whose client has gone."""

    client: Connection
    desk: Desk
    clock: Clock
    reported: int = 0
    next_report: float = 0.0

    def begun(self, rounds: int) -> None:
        """Report, if it is time; raises JobFailed when nobody is there to hear it."""
        now = self.clock()
        if rounds == self.reported or now < self.next_report:
            return
        self.reported, self.next_report = rounds, now + REPORT_SECONDS
        if self.client.stirs():
            raise _left()
        try:
            self.client.send(self.desk.computing(rounds), until=self.clock() + REPORTED_SECONDS, clock=self.clock)
        except OSError:
            raise _left() from None


def _left() -> JobFailed:
    return JobFailed("the client has left", where="session", code=ExitCode.CANCELLED)
