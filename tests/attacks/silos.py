"""An honest silo as its driver runs it: state machine, journal and ledger, the network a function call.

The order is the client's: journal Opened, advertise; journal Charging, charge, draw noise, mask, journal Uploaded,
send; journal Unmasked, send. A restart keeps what lies on disk (journal, ledger) and loses what lies in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foedus_contract.errors import InvalidInput
from foedus_contract.errors import Refused as RefusedError
from foedus_contract.wire import AdvertiseKeys, AttemptId, CoordinatorMessage, Refuse, SiloMessage
from foedus_ledger import ledger
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_workloads.privacy.noise import Sampler
from foedus_workloads.privacy.quantise import to_ring
from foedus_workloads.secagg.effects import (
    AttemptContext,
    Contribute,
    JournalUnmask,
    JournalUpload,
    Refused,
    Send,
    SiloIdentity,
    Step,
)
from foedus_workloads.secagg.silo import SiloAttempt, silo_contributes, silo_receives, start_silo
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.silo_entries import Entry, Stage

Integers = npt.NDArray[np.int64]
Answer = tuple[SiloMessage, bytes]
Totals = Callable[[str], Integers]  # by the digest of the adapter that the silo was shown
MECHANISM = Mechanism(noise_multiplier=100.0)


def no_noise(_scale: float, count: int) -> Integers:
    """For the attacks on secure aggregation alone: what is recovered must be the vector to the last integer."""
    return np.zeros(count, dtype=np.int64)


class HonestSilo:
    """One silo; `refusals` says why it answered nothing, `contributed` is what the attacker must not learn."""

    def __init__(
        self,
        identity: SiloIdentity,
        pinned: Mapping[str, bytes],
        folder: Path,
        totals: Totals,
        *,
        job_uid: str,
        sampler: Sampler = no_noise,
        noise_scale: float = 1.0,
        reserved: int = 8,
    ) -> None:
        self.identity = identity
        self.refusals: list[str] = []
        self.contributed: dict[AttemptId, list[int]] = {}
        self._pinned, self._folder, self._totals = pinned, folder, totals
        self._job_uid, self._sampler, self._scale = job_uid, sampler, noise_scale
        spec = BudgetSpec(digest="sha256:" + "d" * 64, records=100, epsilon=8.0, delta=1e-5)
        self._book = ledger.reserve(BudgetRecord(spec=spec), job_uid, MECHANISM, reserved, "test")
        self._open = ExitStack()
        self.restart()

    def restart(self) -> None:
        """End the process and start it again."""
        self._open.close()
        self._journal = self._open.enter_context(open_journal(self._folder, self._job_uid))
        self._state: SiloAttempt | None = None

    def start(self, context: AttemptContext) -> AdvertiseKeys | None:
        """Enter an attempt as StartAttempt asks for; None when the silo refuses."""
        self._state = None
        try:
            step = start_silo(context, self.identity, self._pinned, os.urandom)
            self._note(context.id, "Opened")
        except (InvalidInput, RefusedError) as problem:
            self.refusals.append(problem.what)
            return None
        message, _ = self._execute(step) or (None, b"")
        assert isinstance(message, AdvertiseKeys)
        return message

    def hear(self, message: CoordinatorMessage) -> Answer | None:
        """Take one message; the answer, None when there is none."""
        if self._state is None:
            return None
        return self._execute(silo_receives(self._state, message, os.urandom))

    def _execute(self, step: Step[SiloAttempt]) -> Answer | None:
        self._state, answer = step.state, None
        for effect in step.effects:
            match effect:
                case Send(message, payload) if not isinstance(message, Refuse):
                    answer = message, payload
                case JournalUpload(attempt, payload):
                    self._note(attempt, "Uploaded", payload)
                case JournalUnmask(attempt, _):
                    self._note(attempt, "Unmasked")
                case Contribute():
                    answer = self._contribute(step.state)
                case Refused(reason):
                    self.refusals.append(reason)
        return answer

    def _contribute(self, state: SiloAttempt) -> Answer | None:
        attempt = state.context.id
        try:
            self._note(attempt, "Charging")
            self._book = self._charged(attempt)
        except RefusedError as problem:
            self.refusals.append(problem.what)
            self._state = None
            return None
        total = self._totals(state.context.adapter_digest)
        vector = to_ring(total + self._sampler(self._scale, len(total)))
        self.contributed[attempt] = vector.tolist()
        return self._execute(silo_contributes(state, vector))

    def _note(self, attempt: AttemptId, stage: Stage, payload: bytes = b"") -> None:
        self._journal.write(Entry(round=attempt.round, attempt=attempt.attempt, stage=stage), payload)

    def _charged(self, attempt: AttemptId) -> BudgetRecord:
        book = ledger.charge(self._book, self._job_uid, attempt.attempt, noise_multiplier=MECHANISM.noise_multiplier)
        if book is not self._book:
            ledger.check_transition(self._book, book)
        return book
