"""Run many worlds, or replay one: `make simulation ROUNDS=100000`, `make simulation SEED=17`.

A round is an attempt that was broadcast. Seeds are tried from 0 on, in batches over all cores, until so many rounds
were attempted; the first failing seed ends the run, with the one command that replays it. Every 47th world is exact:
with production's cryptography and encodings (2 % of the rounds), the others use `simulation.standins`. From 20,000
rounds on every crash point and every kind of fault must have occurred, so that it cannot go blind unnoticed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

from simulation.checker import check, counts
from simulation.faults import CRASH_POINTS, KINDS
from simulation.history import History
from simulation.standins import cheap
from simulation.world import World

BATCH = 24  # seeds: seconds of work, so that cores stay busy and a failure is heard of soon
EXACT_EVERY = 47  # prime to the number of fault kinds, so exact worlds have every focus in turn
PROGRESS_ROUNDS = 50_000
COVERED_FROM = 20_000  # rounds; the rarest points then occur dozens of times


@dataclass
class Tally:
    """What worlds went through, and the seeds that failed."""

    numbers: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, list[str]]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take over another tally."""
        self.numbers += other.numbers
        self.happened += other.happened
        self.failures += other.failures

    @property
    def blind(self) -> list[str]:
        """Return the crash points and faults that never occurred."""
        return [name for name in (*CRASH_POINTS, *KINDS) if not self.happened[name]]


def play(seed: int) -> tuple[World, History]:
    """Run one seed's world, exact or with stand-ins."""
    exact = seed % EXACT_EVERY == 0
    with nullcontext() if exact else cheap():
        world = World(seed, exact=exact)
        return world, world.run()


def play_all(seeds: range) -> Tally:
    """Run and check the worlds of `seeds`."""
    tally = Tally()
    gc.disable()  # a world is one big web of records that ends as a whole
    try:
        for seed in seeds:
            world, history = play(seed)
            found = counts(history)
            tally.numbers.update(found, jobs=1)
            tally.numbers.update({"exact attempts": found["attempts"] if seed % EXACT_EVERY == 0 else 0})
            tally.happened += world.faults.happened
            if problems := check(history):
                tally.failures.append((seed, problems))
    finally:
        gc.enable()
        gc.collect()
    return tally


def play_rounds(rounds: int, workers: int) -> Tally:
    """Run seeds from 0 on until `rounds` were attempted or one failed."""
    whole = Tally()
    with ProcessPoolExecutor(workers) as pool:
        for tally in _batches(pool, 2 * workers):
            before = whole.numbers["attempts"] // PROGRESS_ROUNDS
            whole.add(tally)
            if whole.numbers["attempts"] // PROGRESS_ROUNDS > before:
                say(f"{whole.numbers['attempts']} rounds attempted")
            if whole.failures or whole.numbers["attempts"] >= rounds:
                break
        pool.shutdown(cancel_futures=True)
    return whole


def _batches(pool: ProcessPoolExecutor, ahead: int) -> Iterator[Tally]:
    """Give the batches' tallies in the order of seeds, a few batches ahead."""
    waiting: deque[Future[Tally]] = deque()
    for start in itertools.count(0, BATCH):
        waiting.append(pool.submit(play_all, range(start, start + BATCH)))
        if len(waiting) > ahead:
            yield waiting.popleft().result()


def describe(tally: Tally) -> str:
    """Return what happened, as text."""
    numbers, happened = tally.numbers, tally.happened
    crashes = sum(happened[point] for point in CRASH_POINTS)
    lines = [
        f"{numbers['jobs']} jobs, {numbers['attempts']} rounds attempted ({numbers['exact attempts']} of them exact)",
        f"{numbers['releases']} releases, {numbers['aborts']} aborts, {numbers['crashes']} processes died, "
        f"{numbers['restarts']} started again",
        f"{crashes} crashes at {len(CRASH_POINTS)} points, the rarest: "
        + ", ".join(
            f"{point} {happened[point]}" for point in sorted(CRASH_POINTS, key=lambda point: happened[point])[:3]
        ),
        *(f"{happened[kind]:8d} {kind}" for kind in KINDS),
    ]
    return "\n".join(lines)


def verdict(tally: Tally, rounds: int) -> list[str]:
    """Return what is wrong, line by line: broken rules with how to replay them, or faults that were never tried."""
    lines = [
        line
        for seed, problems in tally.failures
        for line in (f"FAILED seed {seed}; replay it with: make simulation SEED={seed}", *problems)
    ]
    if rounds >= COVERED_FROM and not lines and tally.blind:
        lines.append(f"BLIND: these never occurred: {', '.join(tally.blind)}")
    return lines


def replay(seed: int) -> int:
    """Print what happened in one seed's world, and what is wrong with it."""
    world, history = play(seed)
    say(f"seed {seed}: {world.faults.weather}")
    say(f"{history.rounds} rounds, {history.attempts} attempts, {history.threshold} of {len(history.silos)} silos")
    for fact in history.facts:
        say(str(fact))
    problems = check(history)
    say("\n".join(problems) or "nothing is wrong")
    return 1 if problems else 0


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run as the command line says; 1 when a rule is broken or the simulation is blind."""
    parser = argparse.ArgumentParser(description="Simulate whole training jobs under faults.")
    parser.add_argument("--rounds", type=int, default=COVERED_FROM, help="rounds to attempt at least")
    parser.add_argument("--seed", type=int, help="replay this seed and print what happens")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    begin = time.monotonic()
    tally = play_rounds(arguments.rounds, len(os.sched_getaffinity(0)))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(describe(tally))
    say(f"{time.monotonic() - begin:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time")
    wrong = verdict(tally, arguments.rounds)
    say("\n".join(wrong) or "every rule holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
