"""A coordinator without a journal takes the newest broadcast that it signed itself, and nothing else."""

from __future__ import annotations

import pytest
from cryptography.x509 import DNSName, UniformResourceIdentifier

from foedus_contract.canonical import bytes_digest
from foedus_contract.wire import AttemptId, Join, LedgerHead, Offer, StartAttempt, Welcome
from foedus_workloads.secagg.effects import SendTo
from foedus_workloads.training.broadcast import BroadcastSigner
from foedus_workloads.training.coordinator_entries import Began, Opened, Recovered, Restored, Standing
from foedus_workloads.training.coordinator_job import coordinator_job_step, start_coordinator_job
from foedus_workloads.training.coordinator_state import CoordinatorJob, CoordinatorRules
from foedus_workloads.training.job_effects import (
    CheckpointSaved,
    CoordinatorEffect,
    CoordinatorEvent,
    Fail,
    Finish,
    JournalCoordinator,
    ModelMoved,
    ReportStarted,
    RestoreAdapter,
    RoundVectors,
    SaveCheckpoint,
    TimedOut,
)
from foedus_workloads.transport.events import Joined, Lost, Received
from support.broadcasts import AUTHORITY, CHECKER, HOST, SIGNER, make_signer
from support.certificates import Authority
from support.heads import ANY_HEAD
from support.training_plans import tiny_plan

PLAN = tiny_plan("sha256:" + "0" * 64)  # 4 rounds and 1 spare attempt, 4 silos, t = 3
SILOS = tuple(silo.name for silo in PLAN.silos)
RULES = CoordinatorRules(PLAN, PLAN.digest(), RoundVectors(("B", "A"), {"B": 3, "A": 3}), SIGNER, CHECKER, 7)
JOIN_SECONDS = PLAN.deadlines.join_seconds
FRESH, NEW, OLD = b"fresh", b"adapter of round 2", b"adapter of round 1"
DIGEST = "sha256:" + "d" * 64


def broadcast(
    number: int, attempt: int, charged: int, adapter: bytes, signer: BroadcastSigner = SIGNER, plan: str = PLAN.digest()
) -> StartAttempt:
    start = StartAttempt(
        id=AttemptId(round=number, attempt=attempt),
        factor="B" if number % 2 == 0 else "A",
        adapter_digest=bytes_digest(adapter),
        charged=charged,
    )
    return signer.sign(start, PLAN, plan)


class Coordinator:
    """The machine, and what it has asked for."""

    def __init__(self, recovered: Recovered | None = None) -> None:
        step = start_coordinator_job(RULES, recovered, FRESH, 0.0)
        self.state: CoordinatorJob = step.state
        self.effects: list[CoordinatorEffect] = list(step.effects)

    def take(self, event: CoordinatorEvent, now: float = 1.0) -> None:
        step = coordinator_job_step(self.state, event, now)
        self.state = step.state
        self.effects += step.effects

    def join(self, *silos: str, head: LedgerHead = ANY_HEAD) -> None:
        for silo in silos:
            digests = {"plan_digest": PLAN.digest(), "code_digest": bytes_digest(b"code")}
            join = Join(silo=silo, incarnation=1, identity=b"k" * 32, head=head, **digests)
            self.take(Joined(silo, join))

    def offer(self, silo: str, start: StartAttempt | None = None, payload: bytes = b"") -> None:
        self.take(Received(silo, Offer(silo=silo, broadcast=start), payload))

    def of(self, kind: type) -> list:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def journalled(self) -> list:
        return [effect.entry for effect in self.of(JournalCoordinator)]

    def broadcasts(self) -> list[StartAttempt]:
        return [effect.message for effect in self.of(SendTo) if isinstance(effect.message, StartAttempt)]


def test_silos_are_asked_only_by_a_coordinator_without_a_journal() -> None:
    for recovered, asks in ((None, True), (Recovered(Standing(), None), False)):
        coordinator = Coordinator(recovered)
        coordinator.join("silo-1")
        assert coordinator.of(SendTo) == [SendTo("silo-1", Welcome(incarnation=7, resume=asks))]


def test_with_nothing_offered_the_job_begins() -> None:
    coordinator = Coordinator()
    coordinator.join(*SILOS)
    for silo in SILOS:
        assert coordinator.journalled() == []
        coordinator.offer(silo)
    assert coordinator.journalled() == [Began(), Opened(round=0, attempt=0, adapter_digest=bytes_digest(FRESH))]
    assert [start.id.attempt for start in coordinator.broadcasts()] == [0] * 4


def test_the_newest_broadcast_is_taken_its_attempt_counts_as_charged_and_the_next_number_is_above_it() -> None:
    coordinator = Coordinator()
    coordinator.join(*SILOS)
    coordinator.offer("silo-1", broadcast(1, 1, 1, OLD), OLD)
    coordinator.offer("silo-2", broadcast(2, 3, 2, NEW), NEW)
    coordinator.offer("silo-3", broadcast(1, 2, 2, OLD), OLD)
    coordinator.offer("silo-4")
    assert coordinator.of(RestoreAdapter) == [RestoreAdapter(NEW)]
    coordinator.take(ModelMoved(NEW, 0.5))
    standing = Standing(rounds=2, attempts=4, charged=3, accuracy=0.5)
    assert coordinator.of(SaveCheckpoint) == [SaveCheckpoint(standing)]
    assert coordinator.journalled() == []  # nothing is said before the checkpoint is there
    coordinator.take(CheckpointSaved(DIGEST))
    assert coordinator.journalled() == [
        Restored(standing=standing, checkpoint=DIGEST),
        Opened(round=2, attempt=4, adapter_digest=bytes_digest(NEW)),
    ]
    assert {(start.id.attempt, start.charged) for start in coordinator.broadcasts()} == {(4, 3)}


def altered(**changes: object) -> StartAttempt:
    return broadcast(2, 3, 2, NEW).model_copy(update=changes)


@pytest.mark.parametrize(
    ("start", "payload"),
    [
        (altered(id=AttemptId(round=2, attempt=4)), NEW),
        (altered(id=AttemptId(round=3, attempt=3)), NEW),
        (altered(charged=3), NEW),
        (altered(factor="A"), NEW),
        (altered(adapter_digest=bytes_digest(OLD)), OLD),
        (altered(signature=b""), NEW),
        (altered(certificate=b"garbage"), NEW),
        (broadcast(2, 3, 2, NEW), OLD),
        (broadcast(2, 3, 2, NEW, plan=DIGEST), NEW),
        (broadcast(2, 3, 2, NEW, make_signer(Authority.create(), DNSName(HOST))), NEW),
        (broadcast(2, 3, 2, NEW, make_signer(AUTHORITY, UniformResourceIdentifier("foedus://silo"))), NEW),
        (broadcast(2, 3, 2, NEW, make_signer(AUTHORITY, DNSName("another"))), NEW),
    ],
)
def test_an_offer_that_the_coordinator_did_not_sign_counts_as_none(start: StartAttempt, payload: bytes) -> None:
    coordinator = Coordinator()
    coordinator.join(*SILOS)
    coordinator.offer("silo-1", start, payload)
    coordinator.offer("silo-2", broadcast(1, 1, 1, OLD), OLD)
    coordinator.offer("silo-3", start, payload)
    coordinator.offer("silo-4", start, payload)
    assert coordinator.of(RestoreAdapter) == [RestoreAdapter(OLD)]


def test_a_quorum_of_offers_is_enough_at_the_deadline_and_fewer_are_not() -> None:
    for answers, begun in ((3, True), (2, False)):
        coordinator = Coordinator()
        coordinator.join(*SILOS)
        for silo in SILOS[:answers]:
            coordinator.offer(silo)
        coordinator.take(TimedOut(), now=JOIN_SECONDS - 0.1)
        assert coordinator.journalled() == []
        coordinator.take(TimedOut(), now=JOIN_SECONDS)
        assert bool(coordinator.journalled()) == begun
        assert bool(coordinator.of(Fail)) != begun


def test_an_offer_goes_with_its_silo_and_comes_again_with_it() -> None:
    coordinator = Coordinator()
    coordinator.join(*SILOS)
    for silo in SILOS[:3]:
        coordinator.offer(silo)
    coordinator.take(Lost("silo-1"))
    coordinator.offer("silo-4")
    coordinator.offer("silo-1")  # it is not there
    assert coordinator.journalled() == []
    coordinator.join("silo-1")
    assert coordinator.journalled() == []
    coordinator.offer("silo-1")
    assert coordinator.journalled()[0] == Began()


@pytest.mark.parametrize(
    ("standing", "kind"),
    [
        (Standing(rounds=4, attempts=4, charged=4), Finish),  # killed between the last round and its end
        (Standing(rounds=3, attempts=5, charged=5), Finish),  # the last attempt was cut off
        (Standing(rounds=0, attempts=5, charged=5), Fail),
    ],
)
def test_a_job_without_attempts_left_ends_at_once(standing: Standing, kind: type) -> None:
    coordinator = Coordinator(Recovered(standing, DIGEST))
    assert [type(effect) for effect in coordinator.effects] == [kind]


def test_rounds_of_an_earlier_process_are_delivered_when_nobody_comes_back() -> None:
    coordinator = Coordinator(Recovered(Standing(rounds=2, attempts=2, charged=2), DIGEST))
    coordinator.take(TimedOut(), now=JOIN_SECONDS)
    (end,) = coordinator.of(Finish)
    assert (end.reason, end.message) == ("QuorumLost", "too few silos are left: 2 of 4 rounds are done")


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    coordinator = Coordinator()
    coordinator.join(*SILOS[:2])
    before = (coordinator.state, list(coordinator.effects))
    coordinator.take(ModelMoved(NEW, None))
    coordinator.take(CheckpointSaved(DIGEST))
    assert (coordinator.state, coordinator.effects) == before


def test_heads_of_the_silos_logs_are_passed_on_when_training_starts() -> None:
    coordinator = Coordinator(Recovered(Standing(), None))
    old, new = (LedgerHead(dataset=DIGEST, count=count, hash=DIGEST, signature=bytes(64)) for count in (3, 5))
    coordinator.join(SILOS[0], head=old)
    coordinator.take(Lost(SILOS[0]))
    coordinator.join(SILOS[0], head=new)
    coordinator.join(*SILOS[1:], head=old)
    (started,) = coordinator.of(ReportStarted)
    assert started == ReportStarted(SILOS, {SILOS[0]: new, **dict.fromkeys(SILOS[1:], old)})
