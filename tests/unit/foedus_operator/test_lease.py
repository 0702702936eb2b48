"""The election: whatever stops, loses answers or has an odd clock, no two processes act at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from foedus_engine.cluster.protocol import Busy
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.kube import KubeCluster
from foedus_operator.lease import Candidate, Lease, LeaseRecord

OTHER = LeaseRecord("other", 4)
ME = LeaseRecord("me", 4)


@pytest.mark.parametrize(
    ("seen", "at", "now", "want"),
    [
        (None, 0.0, 0.0, LeaseRecord("me", 0)),
        (LeaseRecord("", 4), 0.0, 0.0, LeaseRecord("me", 5)),  # given back
        (OTHER, 100.0, 114.9, None),
        (OTHER, 100.0, 115.0, LeaseRecord("me", 5)),
        (ME, 0.0, 1000.0, ME),  # ours, of before a restart or a long pause: taken up again without a transition
    ],
)
def test_what_a_candidate_writes(seen: LeaseRecord | None, at: float, now: float, want: LeaseRecord | None) -> None:
    assert Candidate("me").observe(seen, "7", at).wish(now) == want


def test_a_renewal_of_the_holder_starts_the_wait_anew() -> None:
    candidate = Candidate("me").observe(OTHER, "7", 0.0).observe(OTHER, "8", 14.0)
    assert candidate.wish(28.0) is None
    assert candidate.wish(29.0) is not None


class Silent:
    """A Lease that its holder renews for the last time at LAST; time is what its callers sleep."""

    LAST = 3.3

    def __init__(self, busy_until: float = 0.0) -> None:
        self.now, self.busy_until = 0.0, busy_until
        self.written: float | None = None

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        if self.now < self.busy_until:
            raise Busy("no answer", where=str(key))
        spec = {"holderIdentity": "other", "leaseTransitions": 4}
        return {"metadata": {"resourceVersion": "8" if self.now >= self.LAST else "7"}, "spec": spec}

    async def update(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.written = self.now
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": "9"}}


@pytest.mark.parametrize(
    ("busy_until", "taken"),
    [
        (0.0, 18.5),  # the renewal of 3.3 was first seen by the look at 3.5
        (13.0, 29.0),  # no look before 14 was answered
    ],
)
def test_a_lease_is_taken_the_moment_it_is_free(busy_until: float, taken: float) -> None:
    world = Silent(busy_until)
    key = ObjectKey("coordination.k8s.io/v1", "Lease", "foedus", "operator")
    lease = Lease(cast(KubeCluster, world), key, "me", clock=lambda: world.now, sleep=world.sleep)
    asyncio.run(lease.acquire())
    assert world.written == taken


@pytest.mark.parametrize(("now", "left"), [(100.0, 10.0), (104.0, 6.0), (110.0, 0.0), (500.0, 0.0)])
def test_a_leader_acts_for_ten_seconds_after_it_sent_its_renewal(now: float, left: float) -> None:
    # The answer came four seconds after the request was sent: they do not count in its favour.
    assert Candidate("me").wrote(ME, "8", sent=100.0, now=104.0).seconds_left(now) == left


def test_who_sees_another_holder_stops_at_once() -> None:
    assert Candidate("me").wrote(ME, "8", sent=0.0, now=0.0).observe(OTHER, "9", 1.0).seconds_left(1.0) == 0.0


@dataclass
class Process:
    """A process with a clock of its own: any offset, a rate that is wrong by up to 15 %."""

    candidate: Candidate
    offset: float
    rate: float
    request: tuple[LeaseRecord, str, float] | None = None  # under way: record, version it is based on, when it was sent
    answer: tuple[LeaseRecord, str, float] | None = None  # on its way back

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now


class Elections(RuleBasedStateMachine):
    """Two processes and one Lease in virtual time. A process that is stopped is one for which no rule runs."""

    @initialize(clocks=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.85, 1.15)), min_size=2, max_size=2))
    def start(self, clocks: list[tuple[float, float]]) -> None:
        self.now = 0.0
        self.record: LeaseRecord | None = None
        self.version = 0
        self.holders = 0
        self.processes = [Process(Candidate(f"p{n}"), *clock) for n, clock in enumerate(clocks)]

    @rule(
        n=st.integers(0, 1),
        seconds=st.sampled_from([0.0, 2.0, 5.0, 7.0, 9.0, 12.0, 60.0]),
        fate=st.sampled_from(["whole", "whole", "slow answer", "slow request", "answer lost", "nothing"]),
    )
    def turn(self, n: int, seconds: float, fate: str) -> None:
        """Time passes, what was under way for a process arrives, and it tries once."""
        self.now += seconds
        one = self.processes[n]
        self._arrive(one)
        self._learn(one)
        if fate == "nothing":
            return
        one.candidate = one.candidate.observe(self.record, self._stored(), one.clock(self.now))
        wish = one.candidate.wish(one.clock(self.now))
        if wish is None:
            return
        one.request = (wish, one.candidate.version, one.clock(self.now))
        if fate != "slow request":
            self._arrive(one)
        if fate == "answer lost":
            one.answer = None
        if fate == "whole":
            self._learn(one)

    @rule(n=st.integers(0, 1))
    def crash(self, n: int) -> None:
        """A process starts anew; its last request may still arrive."""
        one = self.processes[n]
        self.processes[n] = Process(Candidate(one.candidate.identity), one.offset, one.rate, one.request)

    def _stored(self) -> str:
        return "" if self.record is None else str(self.version)

    def _arrive(self, one: Process) -> None:
        """The API server takes a request, unless it is based on another version than the stored one."""
        request, one.request = one.request, None
        if request is None or request[1] != self._stored():
            return
        if self.record is not None and self.record.holder != request[0].holder:
            self.holders += 1
        self.record, self.version = request[0], self.version + 1
        one.answer = (request[0], str(self.version), request[2])

    def _learn(self, one: Process) -> None:
        if one.answer is not None:
            (record, version, sent), one.answer = one.answer, None
            one.candidate = one.candidate.wrote(record, version, sent=sent, now=one.clock(self.now))

    @invariant()
    def at_most_one_acts(self) -> None:
        acting = [one for one in self.processes if one.candidate.seconds_left(one.clock(self.now)) > 0]
        assert len(acting) <= 1

    @invariant()
    def transitions_are_counted(self) -> None:
        assert self.record is None or self.record.transitions == self.holders


Elections.TestCase.settings = settings(max_examples=500, stateful_step_count=30, deadline=None)
TestElections = Elections.TestCase
