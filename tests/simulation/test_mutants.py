"""The simulation bites: each build with one rule broken fails within a few hundred seeds, by the rule that it breaks.

A mutant is patched in here; production has no switch for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from foedus_contract.wire import AttemptId
from foedus_ledger import ledger
from foedus_workloads.secagg import silo, unmask
from foedus_workloads.secagg.effects import AttemptContext, JournalUnmask, JournalUpload, Send
from foedus_workloads.training import coordinator_entries, coordinator_job, silo_job
from foedus_workloads.training.job_effects import JournalCoordinator, JournalSilo, LedgerAnswered
from simulation import coordinator_process, silo_process, storage
from simulation.checker import check
from simulation.network import Link, Request
from simulation.silo_process import SiloProcess
from simulation.standins import cheap
from simulation.world import World

MOST_SEEDS = 450  # five times round the points of focus: some 4,000 rounds, a twentieth of CI's


def first_failure(broken_rule: str) -> int | None:
    """Return the first seed in which this rule is broken, None when it is in none."""
    for seed in range(1, MOST_SEEDS):
        if any(re.search(broken_rule, problem) for problem in check(World(seed).run())):
            return seed
    return None


def reordered(effects: tuple, kinds: tuple[type, ...]) -> tuple:
    """Return the effects with those of `kinds` last."""
    return (*(e for e in effects if not isinstance(e, kinds)), *(e for e in effects if isinstance(e, kinds)))


@contextmanager
def charge_after_upload() -> Iterator[None]:
    """The silo draws and uploads at once, and charges when the vector is on its way."""
    do = SiloProcess._do

    def late(self: SiloProcess, effect: Any) -> Request:
        if type(effect).__name__ == "ChargeLedger":
            self.answers.append(LedgerAnswered(effect.id))
            return
        yield from do(self, effect)
        if isinstance(effect, Send) and effect.message.kind == "MaskedVector":
            self._charge(effect.message.id)

    with patch.object(SiloProcess, "_do", late):
        yield


@contextmanager
def charges_are_not_logged() -> Iterator[None]:
    """The silo's own log stays as it is."""
    with patch.object(storage.LedgerStore, "follow", lambda self: None):
        yield


@contextmanager
def unknown_answer_counts_as_charged_and_goes_on() -> Iterator[None]:
    """A ledger that does not answer is taken for one that charged."""
    charge = SiloProcess._charge

    def trusting(self: SiloProcess, attempt: AttemptId) -> Any:
        problem = charge(self, attempt)
        return None if problem is not None and problem.code.retryable else problem

    with patch.object(SiloProcess, "_charge", trusting):
        yield


@contextmanager
def unknown_answer_is_not_counted() -> Iterator[None]:
    """An attempt that fails counts as charged only when its sum was released."""

    def forgetting(state: Any, attempt: Any, end: Any, checkpoint: Any, now: float) -> Any:
        return close(silo_job.replace(state, charging=False), attempt, end, checkpoint, now)

    close = coordinator_job._close
    with patch.object(coordinator_job, "_close", forgetting):
        yield


@contextmanager
def number_used_again_after_a_restart() -> Iterator[None]:
    """A coordinator that starts again repeats the attempt that was cut off, under its number."""

    def repeating(recovered: Any) -> Any:
        return coordinator_entries.Recovered(recovered.standing, recovered.checkpoint)

    with patch.object(storage, "cut_off", repeating), patch.object(coordinator_entries, "cut_off", repeating):
        yield


@contextmanager
def silo_forgets_its_journal() -> Iterator[None]:
    """With the mutant above: a silo that starts again answers an attempt again, and its ledger does not mind."""

    def charge(record: Any, job_uid: str, attempt: int, **_: Any) -> Any:
        account = record.accounts[job_uid]
        return ledger._with_account(
            record,
            job_uid,
            ledger._changed(account, charged=account.charged + 1, last_attempt=max(account.last_attempt, attempt)),
        )

    forget = lambda rules, last, kept: silo_job.SiloJob(rules, None, kept)
    with (
        number_used_again_after_a_restart(),
        patch.object(silo_job, "start_silo_job", forget),
        patch.object(silo_job, "check_follows", lambda last, entry: None),
        patch("foedus_workloads.training.journal.check_follows", lambda last, entry: None),
        patch.object(storage, "check_follows", lambda last, entry: None),
        patch.object(ledger, "charge", charge),
        patch.object(ledger, "check_transition", lambda old, new: None),
    ):
        yield


@contextmanager
def one_survivor_too_few() -> Iterator[None]:
    """Everybody computes with a threshold of one less."""

    def lower(*, threshold: int, **rest: Any) -> AttemptContext:
        return AttemptContext(threshold=threshold - 1, **rest)

    with (
        patch.object(silo_job, "AttemptContext", lower),
        patch.object(coordinator_job, "AttemptContext", lower),
        patch.object(silo, "threshold_for", lambda count: 1),
    ):
        yield


@contextmanager
def unmask_sent_before_it_is_journalled() -> Iterator[None]:
    """The silo's answers go out first and are written down afterwards."""
    step = silo_job.silo_job_step

    def hasty(state: Any, event: Any, entropy: Any) -> Any:
        result = step(state, event, entropy)
        return silo_job.replace(result, effects=reordered(result.effects, (JournalSilo, JournalUpload, JournalUnmask)))

    with patch.object(silo_process.silo_job, "silo_job_step", hasty):
        yield


@contextmanager
def broadcast_before_it_is_journalled() -> Iterator[None]:
    """The coordinator opens an attempt first and writes it down afterwards."""
    step = coordinator_job.coordinator_job_step

    def hasty(state: Any, event: Any, now: float) -> Any:
        result = step(state, event, now)
        return silo_job.replace(result, effects=reordered(result.effects, (JournalCoordinator,)))

    with patch.object(coordinator_process.coordinator_job, "coordinator_job_step", hasty):
        yield


@contextmanager
def mask_of_a_dropped_silo_stays() -> Iterator[None]:
    """The coordinator does not take off what survivors added for a silo that shared and vanished."""
    with patch.object(unmask.masks, "remove_pair_mask", lambda total, mask, *, own, peer: None):
        yield


@contextmanager
def paid_vector_is_dropped() -> Iterator[None]:
    """A silo loses every third vector that it has charged, without anything having gone wrong."""
    step = silo_job.silo_job_step

    def careless(state: Any, event: Any, entropy: Any) -> Any:
        if type(event).__name__ == "NoiseDrawn" and event.id.attempt % 3 == 2:
            return silo_job.JobStep(state)
        return step(state, event, entropy)

    with patch.object(silo_process.silo_job, "silo_job_step", careless):
        yield


@contextmanager
def offers_are_passed_over() -> Iterator[None]:
    """A coordinator without its volume begins anew, whatever silos offer."""
    with patch.object(coordinator_job, "_is_newer", lambda state, start, payload: False):
        yield


@contextmanager
def an_older_coordinator_is_believed() -> Iterator[None]:
    """A silo goes on with whichever coordinator it reaches, and home when that one says so."""
    welcome = silo_job._welcomed

    def trusting(state: Any, message: Any) -> Any:
        return welcome(silo_job.replace(state, coordinator=0), message)

    with patch.object(Link, "_check_newest", lambda self, door: None), patch.object(silo_job, "_welcomed", trusting):
        yield


MUTANTS = [
    (charge_after_upload, "draws noise in attempt .* without an earlier: logs the charge"),
    (charges_are_not_logged, "1 draws, 0 in its log, 1 charges"),
    (unknown_answer_counts_as_charged_and_goes_on, "draws noise in attempt .* without an earlier: logs the charge"),
    (unknown_answer_is_not_counted, "attempts are said to be charged, a ledger holds"),
    (number_used_again_after_a_restart, "is used again"),
    (silo_forgets_its_journal, "sends Unmask twice in attempt"),
    (one_survivor_too_few, "a sum over 2 silos, 3 are needed"),
    (unmask_sent_before_it_is_journalled, "sends .* without an earlier: journals"),
    (broadcast_before_it_is_journalled, "is used again"),
    (an_older_coordinator_is_believed, "is welcomed by coordinator .* after"),
    (offers_are_passed_over, "round 0 is broadcast again after the sum of round"),
    (mask_of_a_dropped_silo_stays, "the sum is not the survivors'"),
    (paid_vector_is_dropped, "was charged, not cut off and not uploaded"),
]


@pytest.mark.parametrize(("mutant", "broken_rule"), MUTANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_rule_fails_a_seed(mutant: Callable[[], Any], broken_rule: str) -> None:
    with cheap(), mutant():
        assert first_failure(broken_rule) is not None
