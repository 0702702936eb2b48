"""One job in virtual time: coordinator, silos, disks, ledgers and network, with the faults of one seed.

    with cheap():                   # simulation.standins; without it a world is exact
        history = World(7).run()
    check(history)                  # simulation.checker: what is wrong, an empty list when nothing is

The machines are production's; time, network, disks and the processes around the machines are the simulation's.
"""

from __future__ import annotations

import itertools
import random
import traceback
from collections.abc import Callable
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from foedus_contract.errors import FoedusError
from foedus_contract.plan import TrainingPlan, threshold_for
from foedus_contract.wire import AttemptId
from foedus_workloads.secagg.effects import Entropy, SiloIdentity
from foedus_workloads.training.coordinator_state import CoordinatorRules
from foedus_workloads.training.job_effects import RoundVectors
from foedus_workloads.training.silo_job import SiloRules
from simulation.coordinator_process import NAME as COORDINATOR
from simulation.coordinator_process import CoordinatorProcess
from simulation.faults import Faults, draw_weather
from simulation.history import Fact, History
from simulation.network import Door
from simulation.silo_process import SiloProcess
from simulation.standins import CheapSigner, CheapSigningKey
from simulation.storage import CoordinatorDisk, LedgerStore, SiloDisk
from simulation.timeline import Crashed, Process, Timeline
from support.training_plans import tiny_plan

VECTORS = RoundVectors(("A", "B"), {"A": 2, "B": 3})
ADAPTER_COORDINATES = 5
TICK_SECONDS = 10.0  # how often a fault from outside may strike
LONGEST_CUT = 100.0
LONGEST_RESTART = 150.0
LONGEST_STRANDED = 100.0
LAGGING = 0.5  # of the connections while a coordinator is stranded: its address is still known
MOST_STEPS = 1_000_000  # a job takes some tens of thousands


def draw_plan(seed: int, rng: random.Random) -> TrainingPlan:
    """Return a seed's plan: mostly four silos, three to ten rounds, more spare attempts than usual."""
    silos = rng.choice((4, 4, 4, 4, 4, 4, 5, 6, 7))
    threshold, rounds = threshold_for(silos), rng.randint(3, 10)
    small = tiny_plan("sha256:" + "1" * 64)
    privacy = small.privacy.model_copy(update={"threshold": threshold, "min_honest": threshold - 1})
    template = small.silos[0]
    return small.model_copy(
        update={
            "uid": f"u-{seed}",
            "rounds": rounds,
            "spare_attempts": rng.choice((0, 1, rounds, 2 * rounds)),
            "privacy": privacy,
            "deadlines": small.deadlines.model_copy(update={"join_seconds": 300, "compute_seconds": 300}),
            "silos": tuple(
                template.model_copy(update={"name": f"silo-{n}", "data_digest": f"sha256:{n:064}"})
                for n in range(1, silos + 1)
            ),
        }
    )


class World:
    """Everything of one job; `Silo` and `Coordinator` are the classes of its processes."""

    Silo = SiloProcess
    Coordinator = CoordinatorProcess

    def __init__(self, seed: int, *, exact: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.faults = Faults(draw_weather(seed, self.rng), self.rng)
        self.plan = draw_plan(seed, self.rng)
        self.plan_digest = self.plan.digest()
        self.silos = tuple(silo.name for silo in self.plan.silos)
        self.timeline = Timeline()
        self.door: Door | None = None
        self.disks = {name: SiloDisk() for name in self.silos}
        self.coordinator_disk = CoordinatorDisk()
        self.ledgers = {name: LedgerStore(self.plan.uid, self.plan.attempts) for name in self.silos}
        self.first_adapter = np.zeros(ADAPTER_COORDINATES, np.uint32).tobytes()
        self.history = self._new_history()
        self._numbers = itertools.count()
        self._processes: dict[str, tuple[Process, SiloProcess | CoordinatorProcess]] = {}
        self._stranded: dict[int, tuple[Process, SiloProcess | CoordinatorProcess]] = {}
        self._incarnations = dict.fromkeys((COORDINATOR, *self.silos), 0)
        self._draw_keys(exact)

    def run(self) -> History:
        """Let the job run to its end, or to the bound on its time."""
        seconds = self.plan.deadlines
        longest = 4 * seconds.stage_seconds + seconds.compute_seconds + seconds.join_seconds
        bound = self.history.late + self.plan.attempts * longest
        for name in (COORDINATOR, *self.silos):
            self.timeline.at(self.rng.uniform(0.0, 30.0), partial(self._start, name))
        self.timeline.at(TICK_SECONDS, self._tick)
        self.timeline.run(until=bound, most_steps=MOST_STEPS, done=lambda: self.history.ended)
        for incarnation in tuple(self._stranded):
            self._rescue(incarnation)
        self.history.steps, self.history.seconds = self.timeline.steps, self.timeline.now
        self.history.charged = {name: store.charged for name, store in self.ledgers.items()}
        return self.history

    # What processes ask for

    def note(
        self, who: str, what: str, incarnation: int = 0, attempt: AttemptId | None = None, data: object = None
    ) -> None:
        """Add a fact."""
        place = (-1, -1) if attempt is None else (attempt.round, attempt.attempt)
        self.history.facts.append(Fact(self.timeline.now, who, incarnation, what, *place, data))

    def dial(self) -> Door | None:
        """Return the door that the coordinator's address leads to: now and then still that of a stranded one."""
        stranded = [role.door for _, role in self._stranded.values() if isinstance(role, CoordinatorProcess)]
        lagging = [door for door in stranded if door.is_open]
        return lagging[-1] if lagging and self.rng.random() < LAGGING else self.door

    def crashes(self, point: str) -> bool:
        """Tell whether the process that asks dies at this point."""
        return self.faults.crash(point, self.timeline.now)

    def occurs(self, kind: str) -> bool:
        """Tell whether a fault of this kind happens now."""
        return self.faults.occurs(kind, self.timeline.now)

    def delay(self) -> float:
        """Return how long a request or an answer is under way."""
        return self.rng.uniform(5.0, 80.0) if self.occurs("slow link") else self.rng.uniform(0.005, 0.3)

    def next_number(self) -> int:
        """Return a number that nobody else gets."""
        return next(self._numbers)

    def entropy(self, name: str, incarnation: int) -> Entropy:
        """Return a process's stream of random bytes."""
        return random.Random(f"{self.seed}/{name}/{incarnation}").randbytes

    def noise(self, size: int) -> NDArray[np.int64]:
        """Return fresh noise, wide enough that no two sets of silos add up to the same."""
        return np.array([self.rng.randrange(-(2**20), 2**20) for _ in range(size)], np.int64)

    def sum_of(self, silo: str, number: int) -> NDArray[np.int64]:
        """Return the sum of a silo's gradients in a round; the same whenever it is computed again."""
        source = random.Random(f"{self.seed}/{silo}/{number}/sum")
        size = VECTORS.coordinates[VECTORS.factor(number)]
        return np.array([source.randrange(-1000, 1000) for _ in range(size)], np.int64)

    def check_adapter(self, payload: bytes) -> None:
        """Raise ValueError unless it is an adapter."""
        if len(payload) != len(self.first_adapter):
            raise ValueError("this is no adapter")

    def coordinator_rules(self, incarnation: int) -> CoordinatorRules:
        """Return what does not change for a coordinator's process."""
        return CoordinatorRules(
            plan=self.plan,
            plan_digest=self.plan_digest,
            vectors=VECTORS,
            signer=self._signer,
            checker=self._checker,
            incarnation=incarnation,
        )

    # Processes: started, ended, started again

    def _start(self, name: str) -> None:
        self._incarnations[name] += 1
        incarnation = self._incarnations[name]
        role = self.Coordinator(self, incarnation) if name == COORDINATOR else self.Silo(self, name, incarnation)
        self.note(name, "starts", incarnation)
        process = Process(self.timeline, role.life(), partial(self._ended, name, incarnation))
        role.wake = process.wake
        self._processes[name] = (process, role)

    def _ended(self, name: str, incarnation: int, error: Exception | None) -> None:
        final = error is None or (isinstance(error, FoedusError) and not error.code.retryable)
        self._note_end(name, incarnation, error, final)
        if name == COORDINATOR and incarnation in self._stranded:
            self._clear(*self._stranded.pop(incarnation))
            return
        self._clear(*self._processes.pop(name))
        if name == COORDINATOR:
            self.history.ended = final
        if not final:
            self._start_later(name)

    def _note_end(self, name: str, incarnation: int, error: Exception | None, final: bool) -> None:
        if isinstance(error, Crashed):
            self.note(name, "crashes", incarnation, data=str(error))
        elif isinstance(error, FoedusError):
            self.note(name, "stops for good" if final else "stops", incarnation, data=(error.code.name, str(error)))
        elif error is not None:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.note(name, "defect", incarnation, data=f"{error!r} at {where.name}:{where.lineno}")

    def _clear(self, process: Process, role: SiloProcess | CoordinatorProcess) -> None:
        """Let the network notice that a process is gone."""
        process.kill()
        if isinstance(role, SiloProcess):
            if role.link is not None:
                role.link.close()
            return
        role.door.close()
        if self.door is role.door:
            self.door = None

    def _start_later(self, name: str) -> None:
        if name == COORDINATOR and self.occurs("coordinator volume lost"):
            self.note(name, "loses its volume")
            self.coordinator_disk = CoordinatorDisk()
        quick = self.rng.random() < 0.7
        pause = self.rng.uniform(0.5, 5.0) if quick else self.rng.uniform(5.0, LONGEST_RESTART)
        self.timeline.at(self.timeline.now + pause, partial(self._start, name))

    # Faults from outside

    def _tick(self) -> None:
        if self.timeline.now >= self.faults.weather.until:
            return
        several = self.occurs("several killed at once")
        for name in tuple(self._processes):
            if self.rng.random() < 0.6 if several else self.occurs("killed while it runs"):
                self._ended(name, self._incarnations[name], Crashed("killed"))
        if COORDINATOR in self._processes and self.occurs("coordinator stranded with its volume"):
            self._strand()
        for name in self.silos:
            self._disturb(name)
        self.timeline.at(self.timeline.now + TICK_SECONDS, self._tick)

    def _strand(self) -> None:
        """Let the coordinator run on where nobody sees it, and another one start in its place without its volume."""
        incarnation = self._incarnations[COORDINATOR]
        self._stranded[incarnation] = self._processes.pop(COORDINATOR)
        self.note(COORDINATOR, "is stranded", incarnation)
        self.note(COORDINATOR, "loses its volume")
        self.coordinator_disk, self.door = CoordinatorDisk(), None
        self.timeline.at(
            self.timeline.now + self.rng.uniform(1.0, LONGEST_STRANDED), partial(self._rescue, incarnation)
        )
        self.timeline.at(self.timeline.now + self.rng.uniform(0.5, 20.0), partial(self._start, COORDINATOR))

    def _rescue(self, incarnation: int) -> None:
        if incarnation in self._stranded:
            self._ended(COORDINATOR, incarnation, Crashed("killed where it was stranded"))

    def _disturb(self, name: str) -> None:
        _, role = self._processes.get(name, (None, None))
        link = role.link if isinstance(role, SiloProcess) else None
        if link is None:
            return
        if self.occurs("network cut"):
            self.note(name, "is cut off", self._incarnations[name])
            link.cut(self.rng.uniform(1.0, LONGEST_CUT))
        if self.occurs("session lost"):
            self.note(name, "loses its session", self._incarnations[name])
            link.lose_session()

    # What is drawn at the start

    def _new_history(self) -> History:
        until = self.faults.weather.until
        return History(
            silos=self.silos,
            threshold=self.plan.privacy.threshold,
            rounds=self.plan.rounds,
            attempts=self.plan.attempts,
            faults_until=until,
            # Whoever was cut off, gave up and starts again has joined by then, or the wait for it is over.
            late=until + LONGEST_CUT + LONGEST_RESTART + 3 * self.plan.deadlines.join_seconds,
        )

    def _draw_keys(self, exact: bool) -> None:
        kind: Callable[[bytes], object] = (Ed25519PrivateKey if exact else CheapSigningKey).from_private_bytes
        keys = {name: kind(random.Random(f"{self.seed}/{name}/key").randbytes(32)) for name in self.silos}
        pinned = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
        if exact:
            from support.broadcasts import CHECKER, SIGNER

            self._signer, self._checker = SIGNER, CHECKER
        else:
            self._signer = self._checker = CheapSigner()
        self.silo_rules = {
            name: SiloRules(
                plan=self.plan,
                plan_digest=self.plan_digest,
                identity=SiloIdentity(name, key),
                pinned={peer: public for peer, public in pinned.items() if peer != name},
                vectors=VECTORS,
                checker=self._checker,
            )
            for name, key in keys.items()
        }
