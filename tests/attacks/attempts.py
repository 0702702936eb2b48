"""Attacks across attempts and restarts: what one attempt gives away must not open another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np

from attacks.coordinator import COORDINATES, Room, make_party, total_of
from attacks.silos import Integers
from attacks.views import ALL, VIEWS, Result, V, isolate, result, show_views
from foedus_workloads.privacy.noise import OpenDpSampler
from foedus_workloads.privacy.quantise import from_ring, to_ring

# The seven rounded Gaussians in a difference of two sums have a variance of 0.21 each: a mean of 60 differences has a
# standard deviation of 0.16, so rounding gives the integer back.
REPEATS, SCALE = 60, 0.4


def replayed_confirmations(folder: Path) -> Result:
    """Collects everybody's signatures over three views in three attempts; shows them as proofs in a fourth."""
    party = make_party(folder)
    collected: dict[tuple[str, ...], Mapping[str, bytes]] = {}
    for number, view in enumerate(sorted(set(VIEWS.values()))):
        room = Room(party, party.attempt(number))
        room.upload_all()
        room.finish(lost=set(ALL) - set(view))
        collected[view] = {signer: text for (signer, signed), text in room.signed.items() if signed == view}
    room = isolate(party, len(collected))
    show_views(room, VIEWS)
    for name, view in VIEWS.items():
        room.prove(name, view, others=collected[view])
    return result(party, room, room.unmask(V))


def masking_key_of_a_later_attempt(folder: Path) -> Result:
    """V survives the first attempt (its seed is given) and is lost in the second (its masking key is given)."""
    party = make_party(folder)
    first = Room(party, party.attempt(0))
    first.upload_all()
    first.finish()
    second = Room(party, party.attempt(1))
    second.upload_all()
    second.finish(lost=(V,))
    private = second.recover("masking_key_shares", V)
    return result(party, first, first.unmask(V, private=private) if private else None)


def differencing(folder: Path) -> Result:
    """Two attempts of a round, the second without V: the difference is V's vector if the noise is the same."""
    party = make_party(folder, silos=4, colluders=0, sampler=OpenDpSampler(), noise_scale=50.0)
    sums = []
    for number, lost in ((0, ()), (1, (V,))):
        room = Room(party, party.attempt(number))
        room.upload_all()
        room.finish(lost)
        sums.append(np.array(room.unmask(*(set(party.honest) - set(lost))), dtype=np.uint32))
    truth = next(iter(party.honest[V].contributed.values()))
    return Result([int(value) for value in sums[0] - sums[1]], truth, party.refusals())


class SeededNoise:
    """Rounded Gaussians, the same in every run; for the attacks that average noise away."""

    def __init__(self) -> None:
        self._source = np.random.default_rng(4)

    def __call__(self, scale: float, count: int) -> Integers:
        return np.rint(self._source.normal(0.0, scale, count)).astype(np.int64)


def without_waiting_for_the_disk() -> AbstractContextManager[object]:
    """A restarted process finds what was written; only a power cut needs the disk, and it takes most of the time."""
    return mock.patch.object(os, "fsync")


def average(folder: Path, number_of: Callable[[int], int]) -> Result:
    """Sums with V and without, as many as silos answer: the difference of their means, rounded, is V's true sum.

    After each answer every silo starts again with what lies on its disk.
    """
    party = make_party(folder, silos=4, colluders=0, sampler=SeededNoise(), noise_scale=SCALE)
    truth = [int(value) for value in to_ring(total_of(V))]
    sums: dict[bool, list[Integers]] = {True: [], False: []}
    for repeat in range(2 * REPEATS):
        room = Room(party, party.attempt(number_of(repeat)))
        room.upload_all()
        lost = (V,) if repeat % 2 else ()
        room.finish(lost)
        total = room.unmask(*(set(party.honest) - set(lost)))
        if total is None:
            break
        sums[not lost].append(from_ring(np.array(total, dtype=np.uint32)))
        for silo in party.honest.values():
            silo.restart()
    with_victim, without_victim = (np.mean(sums[key] or [np.zeros(COORDINATES)], axis=0) for key in (True, False))
    guess = to_ring(np.rint(with_victim - without_victim).astype(np.int64))
    return Result([int(value) for value in guess], truth, party.refusals())


def asks_again_after_a_restart(folder: Path) -> Result:
    """One attempt, again and again: only its first answer is paid for."""
    with without_waiting_for_the_disk():
        return average(folder, lambda _repeat: 0)


def more_attempts_than_reserved(folder: Path) -> Result:
    """A new attempt each time, far beyond what the ledger holds for the job."""
    with without_waiting_for_the_disk():
        return average(folder, lambda repeat: repeat)
