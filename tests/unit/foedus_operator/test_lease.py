"""The election: whatever stops, loses answers or has an odd clock, no two processes act at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from foedus_operator.lease import Candidate, LeaseRecord

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
    request: tuple[LeaseRecord, str, float] | None = None  # record, version it is based on, when it was sent
    answers: list[tuple[LeaseRecord, str, float]] = field(default_factory=list)

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now


PROCESSES = st.integers(0, 2)


class Elections(RuleBasedStateMachine):
    """Three processes and one Lease. A stopped process is one for which no rule runs for a while."""

    @initialize(clocks=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.85, 1.15)), min_size=3, max_size=3))
    def start(self, clocks: list[tuple[float, float]]) -> None:
        self.now = 0.0
        self.record: LeaseRecord | None = None
        self.version = 0
        self.holders = 0
        self.processes = [Process(Candidate(f"p{n}"), *clock) for n, clock in enumerate(clocks)]

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 4.9, 9.9, 14.9, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(n=PROCESSES)
    def read(self, n: int) -> None:
        one = self.processes[n]
        version = "" if self.record is None else str(self.version)
        one.candidate = one.candidate.observe(self.record, version, one.clock(self.now))

    @rule(n=PROCESSES)
    def send(self, n: int) -> None:
        one = self.processes[n]
        wish = one.candidate.wish(one.clock(self.now))
        if wish is not None:
            one.request = (wish, one.candidate.version, one.clock(self.now))

    @rule(n=PROCESSES, answered=st.booleans())
    def arrive(self, n: int, answered: bool) -> None:
        """The API server takes a request, perhaps long after it was sent; its answer may be lost."""
        one = self.processes[n]
        if one.request is None:
            return
        (wish, version, sent), one.request = one.request, None
        if version != ("" if self.record is None else str(self.version)):
            return  # Conflict
        if self.record is not None and self.record.holder != wish.holder:
            self.holders += 1
        self.record, self.version = wish, self.version + 1
        if answered:
            one.answers.append((wish, str(self.version), sent))

    @rule(n=PROCESSES)
    def learn(self, n: int) -> None:
        """The answer reaches the process, perhaps long after; a process has one request under way."""
        one = self.processes[n]
        if one.answers:
            wish, version, sent = one.answers.pop(0)
            one.candidate = one.candidate.wrote(wish, version, sent=sent, now=one.clock(self.now))

    @rule(n=PROCESSES)
    def crash(self, n: int) -> None:
        """A process starts anew; its last request may still arrive."""
        one = self.processes[n]
        self.processes[n] = Process(Candidate(one.candidate.identity), one.offset, one.rate, one.request)

    @rule(n=PROCESSES)
    def renew(self, n: int) -> None:
        """One undisturbed round, so that there are leaders to disturb."""
        self.read(n)
        self.send(n)
        self.arrive(n, True)
        self.learn(n)

    @invariant()
    def at_most_one_acts(self) -> None:
        acting = [one for one in self.processes if one.candidate.seconds_left(one.clock(self.now)) > 0]
        assert len(acting) <= 1

    @invariant()
    def transitions_are_counted(self) -> None:
        assert self.record is None or self.record.transitions == self.holders


Elections.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestElections = Elections.TestCase
