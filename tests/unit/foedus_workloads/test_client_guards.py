"""Whatever the coordinator says, a silo enters only attempts of its plan, and pays for none that nobody waits for."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import DNSName, UniformResourceIdentifier

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import FoedusError, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import ClientRunSpec, ModelSource, TlsFiles
from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptId,
    AttemptOver,
    DeliverShares,
    JobOver,
    MaskedVector,
    Offer,
    Refuse,
    Roster,
    ShareKeys,
    SiloMessage,
    StartAttempt,
    Welcome,
)
from foedus_ledger.charges import LedgerBehind
from foedus_workloads.secagg.effects import AttemptContext, SiloIdentity
from foedus_workloads.secagg.silo import silo_receives, start_silo
from foedus_workloads.training.broadcast import BroadcastSigner
from foedus_workloads.training.client import Participant, Prepared
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.kept import KeptBroadcast
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.client import Incoming, Rejoined
from support.broadcasts import AUTHORITY, CHECKER, HOST, SIGNER, make_signer
from support.certificates import Authority
from support.training_plans import tiny_plan

PLAN = tiny_plan("sha256:" + "0" * 64)  # 4 rounds and 1 spare attempt
SILOS = tuple(silo.name for silo in PLAN.silos)
OWN = SILOS[0]
ADAPTER = b"adapter"
COORDINATES = 3
KEYS = {silo: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n, silo in enumerate(SILOS)}
PINNED = {silo: key.public_key().public_bytes_raw() for silo, key in KEYS.items()}
OVER = JobOver(outcome="over")


def start(
    attempt: int = 0,
    *,
    number: int = 0,
    factor: str = "B",
    digest: str = bytes_digest(ADAPTER),
    charged: int | None = None,
    signer: BroadcastSigner = SIGNER,
    plan: str = PLAN.digest(),
) -> Incoming:
    message = StartAttempt(
        id=AttemptId(round=number, attempt=attempt),
        factor=factor,
        adapter_digest=digest,
        charged=number if charged is None else charged,
    )
    return signer.sign(message, PLAN, plan), ADAPTER


class FakeLink:
    """A coordinator with three honest peers: answers the first attempt up to the point where a vector is due."""

    def __init__(self, *incoming: Incoming) -> None:
        self.incoming = deque(incoming)
        self.successor: tuple[Incoming, ...] = ()  # what a newer coordinator says, once one is looked for
        self.sent: list[SiloMessage] = []
        self._context = AttemptContext(
            id=AttemptId(round=0, attempt=0),
            job_uid=PLAN.uid,
            plan_digest=PLAN.digest(),
            adapter_digest=bytes_digest(ADAPTER),
            threshold=PLAN.privacy.threshold,
            coordinates=COORDINATES,
        )
        peers = {silo: SiloIdentity(silo, KEYS[silo]) for silo in SILOS[1:]}
        self._steps = {
            silo: start_silo(self._context, identity, PINNED, os.urandom) for silo, identity in peers.items()
        }

    async def receive(self) -> Incoming:
        return self.incoming.popleft() if self.incoming else (OVER, b"")

    def receive_now(self) -> Incoming | None:
        return self.incoming.popleft() if self.incoming else None

    async def meets_newer(self, _incarnation: int) -> bool:
        said, self.successor = self.successor, ()
        self.incoming.extend(said)
        return bool(said)

    async def send(self, message: SiloMessage, payload: bytes = b"") -> None:
        self.sent.append(message)
        if getattr(message, "id", None) != self._context.id:
            return
        if isinstance(message, AdvertiseKeys):
            peers = tuple(step.effects[0].message for step in self._steps.values())
            roster = Roster(id=message.id, entries=(message, *peers))
            self._steps = {silo: silo_receives(step.state, roster, os.urandom) for silo, step in self._steps.items()}
            self.incoming.append((roster, b""))
        elif isinstance(message, ShareKeys):
            shared = {silo: step.effects[0].message.ciphertexts[OWN] for silo, step in self._steps.items()}
            self.incoming.append((DeliverShares(id=message.id, ciphertexts=shared), b""))


class FakeModel:
    factors = ("B", "A")

    def __init__(self) -> None:
        self.loaded: list[bytes] = []

    def coordinates(self, _factor: str) -> int:
        return COORDINATES

    def load_adapter_bytes(self, payload: bytes) -> None:
        self.loaded.append(payload)


class FakeLocal:
    """The local step; `meanwhile` is what arrives while it computes."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def integer_sum(self, _factor: str) -> np.ndarray:
        self._meanwhile()
        return np.zeros(COORDINATES, dtype=np.int64)


class FakeLedger:
    def __init__(self) -> None:
        self.charged: list[int] = []
        self.problem: FoedusError | None = None

    def charge(self, _uid: str, attempt: int, *, noise_multiplier: float) -> None:
        if self.problem is not None:
            raise self.problem
        self.charged.append(attempt)


SPEC = ClientRunSpec(
    plan=PLAN,
    silo=OWN,
    coordinator_service="job-coordinator.ns",
    coordinator_port=8443,
    tls=TlsFiles(certificate="/tls.crt", key="/tls.key", ca="/ca.crt"),
    model=ModelSource(path="/model"),
    data="/data",
    state="/state",
    ledger="/ledger",
    budget="ns/budget",
    policy="/policy",
    progress="/progress",
)


class Silo:
    """A participant among stand-ins, and what it did."""

    def __init__(
        self,
        folder: Path,
        *incoming: Incoming,
        meanwhile: tuple[Incoming, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._around = Surroundings(clock=clock)
        self.link, self.model, self.ledger = FakeLink(*incoming), FakeModel(), FakeLedger()
        local = FakeLocal(lambda: self.link.incoming.extend(meanwhile))
        self._prepared = Prepared(self.model, local, self.ledger, KEYS[OWN], PINNED)

    async def take_part(self) -> None:
        with open_journal(self._folder, PLAN.uid) as journal:
            zeros = lambda _scale, count: np.zeros(count, dtype=np.int64)
            kept = KeptBroadcast(self._folder, PLAN.uid)
            silo = Participant(SPEC, self._prepared, self.link, journal, kept, CHECKER, zeros, self._around)
            assert await silo.take_part() == OVER

    def journal(self) -> list[tuple[int, str]]:
        lines = next(self._folder.glob("journal-*.jsonl")).read_text().splitlines()
        return [(entry["attempt"], entry["stage"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (start(digest="sha256:" + "1" * 64), "the adapter is not the one"),
        (start(factor="A"), "another factor"),
        (start(1, number=1, factor="B"), "another factor"),
        (start(factor="None"), "another factor"),
        (start(4, number=4), "no such attempt"),  # the plan has rounds 0 to 3
        (start(5), "no such attempt"),  # and attempts 0 to 4
        (start(0, number=2), "no such attempt"),  # round 2 cannot come before attempt 2
        (start(2, number=2, charged=1), "so many attempts"),  # two rounds cost two charges
        (start(2, number=2, charged=3), "so many attempts"),
        ((start()[0].model_copy(update={"signature": b""}), ADAPTER), "not signed"),
        ((start()[0].model_copy(update={"certificate": b""}), ADAPTER), "not signed"),
        ((start()[0].model_copy(update={"id": AttemptId(round=0, attempt=1)}), ADAPTER), "not signed"),
        ((start(1)[0].model_copy(update={"charged": 1}), ADAPTER), "not signed"),
        (start(plan="sha256:" + "1" * 64), "not signed"),
        (start(signer=make_signer(Authority.create(), DNSName(HOST))), "not signed"),  # another job's authority
        (start(signer=make_signer(AUTHORITY, UniformResourceIdentifier("foedus://silo"))), "not signed"),
        (start(signer=make_signer(AUTHORITY, DNSName("another-job"))), "not signed"),
    ],
)
async def test_an_attempt_that_is_not_the_plans_is_refused_and_leaves_no_trace(
    tmp_path: Path, asked: Incoming, reason: str
) -> None:
    silo = Silo(tmp_path, asked)
    await silo.take_part()
    (refusal,) = silo.link.sent
    assert isinstance(refusal, Refuse)
    assert (refusal.id, refusal.silo) == (asked[0].id, OWN)
    assert reason in refusal.reason
    assert (silo.journal(), silo.ledger.charged, silo.model.loaded) == ([], [], [])


@pytest.mark.parametrize("attempt", [(0, 0), (0, 4), (2, 2), (2, 4)])
async def test_every_attempt_within_the_plan_is_entered(tmp_path: Path, attempt: tuple[int, int]) -> None:
    number, count = attempt
    silo = Silo(
        tmp_path,
        start(count, number=number),
        (AttemptOver(id=AttemptId(round=number, attempt=count), applied=False), b""),
    )
    await silo.take_part()
    assert isinstance(silo.link.sent[0], AdvertiseKeys)
    assert silo.journal()[0] == (count, "Opened")
    assert silo.model.loaded == [ADAPTER]


async def test_an_attempt_is_answered_once_though_it_is_asked_twice(tmp_path: Path) -> None:
    silo = Silo(tmp_path, start(2), start(2), start(1))
    await silo.take_part()
    assert [type(message) for message in silo.link.sent] == [AdvertiseKeys, Refuse, Refuse]
    assert (silo.journal(), silo.ledger.charged) == ([(2, "Opened")], [])


async def test_a_restarted_silo_answers_no_attempt_again_and_offers_the_broadcast_it_keeps(tmp_path: Path) -> None:
    await Silo(tmp_path, start(2)).take_part()
    again = Silo(tmp_path, start(2), start(1), (Welcome(incarnation=1, resume=True), b""), start(3))
    await again.take_part()
    assert [type(message) for message in again.link.sent] == [Refuse, Refuse, Offer, AdvertiseKeys]
    assert again.link.sent[2] == Offer(silo=OWN, broadcast=start(2)[0])
    assert again.journal() == [(2, "Opened"), (3, "Opened")]


async def test_a_silo_without_a_broadcast_offers_none(tmp_path: Path) -> None:
    silo = Silo(tmp_path, (Welcome(incarnation=1, resume=True), b""))
    await silo.take_part()
    assert silo.link.sent == [Offer(silo=OWN)]


async def test_a_silo_starts_again_when_an_older_coordinator_answers(tmp_path: Path) -> None:
    welcomes = [(Welcome(incarnation=number), b"") for number in (1, 1, 2, 1)]
    silo = Silo(tmp_path, *welcomes, start())
    with pytest.raises(Unavailable, match="older coordinator"):
        await silo.take_part()
    assert (silo.link.sent, silo.journal(), silo.ledger.charged) == ([], [], [])


async def test_a_silo_that_is_sent_home_goes_on_with_a_newer_coordinator(tmp_path: Path) -> None:
    silo = Silo(tmp_path, (Welcome(incarnation=1), b""), (OVER, b""))
    silo.link.successor = (Rejoined(), (Welcome(incarnation=2), b""), start(1))
    await silo.take_part()
    assert [type(message) for message in silo.link.sent] == [AdvertiseKeys]
    assert silo.journal() == [(1, "Opened")]


class StuckLink(FakeLink):
    """A coordinator that sits on the roster until the silo has refused, and then goes on as if nothing was."""

    def __init__(self, *incoming: Incoming) -> None:
        super().__init__(*incoming)
        self._late: list[Incoming] = []

    async def receive(self) -> Incoming:
        if not self.incoming:
            await asyncio.Event().wait()
        return self.incoming.popleft()

    async def send(self, message: SiloMessage, payload: bytes = b"") -> None:
        await super().send(message, payload)
        if isinstance(message, AdvertiseKeys):
            self._late = [self.incoming.pop(), (OVER, b"")]
        elif isinstance(message, Refuse):
            self.incoming.extend(self._late)


async def test_a_silo_gives_up_an_attempt_on_which_its_coordinator_sits(tmp_path: Path) -> None:
    silo = Silo(tmp_path, clock=itertools.count(0.0, 1000.0).__next__)  # each look is beyond the plan's 120 s
    silo.link = StuckLink(start())
    await silo.take_part()
    assert [type(message) for message in silo.link.sent] == [AdvertiseKeys, Refuse]
    assert silo.link.sent[1].reason == "the attempt takes longer than the plan allows"
    assert (silo.journal(), silo.ledger.charged) == ([(0, "Opened")], [])


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (LedgerBehind("it holds 3 of 9 charges"), "the ledger is an old copy"),
        (Refused("all 9 reserved releases of job uid are charged"), "the ledger refuses the charge"),
        (Refused("signed with another key", code=ExitCode.IDENTITY_REFUSED), "the charge cannot be made"),
        (Unavailable("disk I/O error at 3 of 9"), "the ledger does not answer"),
    ],
)
async def test_of_a_charge_that_was_not_made_the_coordinator_hears_the_kind_of_trouble_alone(
    tmp_path: Path, problem: FoedusError, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    silo = Silo(tmp_path, start())
    silo.ledger.problem = problem
    with nullcontext() if problem.code.retryable else pytest.raises(FoedusError):
        await silo.take_part()
    assert [message.reason for message in silo.link.sent if isinstance(message, Refuse)] == [told]
    assert problem.what in caplog.text


def attempt_over(attempt: int) -> Incoming:
    return AttemptOver(id=AttemptId(round=0, attempt=attempt), applied=False), b""


CHARGED = [(0, "Opened"), (0, "Charging"), (0, "Uploaded")]


@pytest.mark.parametrize(
    ("meanwhile", "journal"),
    [
        ((), CHARGED),
        ((attempt_over(1),), CHARGED),  # another attempt's end
        (((Welcome(incarnation=0), b""),), CHARGED),
        ((attempt_over(0),), CHARGED[:1]),
        (((OVER, b""),), CHARGED[:1]),
        ((Rejoined(),), CHARGED[:1]),
        ((attempt_over(1), Rejoined()), CHARGED[:1]),
        ((start(1),), [(0, "Opened"), (1, "Opened")]),
    ],
)
async def test_a_silo_pays_only_for_an_attempt_that_somebody_still_waits_for(
    tmp_path: Path, meanwhile: tuple[Incoming, ...], journal: list[tuple[int, str]]
) -> None:
    silo = Silo(tmp_path, start(), meanwhile=meanwhile)
    await silo.take_part()
    assert silo.journal() == journal
    paid = journal == CHARGED
    assert silo.ledger.charged == ([0] if paid else [])
    assert any(isinstance(message, MaskedVector) for message in silo.link.sent) == paid
