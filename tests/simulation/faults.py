"""Which faults a seed brings, when, and what of them has happened.

Processes ask at named points; the answer comes from the seed alone. After `until` nothing goes wrong any more.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

SILO_EFFECTS = (
    *(f"Send {kind}" for kind in ("AdvertiseKeys", "ShareKeys", "MaskedVector", "ConfirmSurvivors", "Unmask")),
    *(f"Send {kind}" for kind in ("Offer", "Refuse")),
    *(f"JournalSilo {stage}" for stage in ("Opened", "Charging", "Uploaded", "Unmasked")),
    *("KeepBroadcast", "LoadAdapter", "ComputeSum", "ChargeLedger", "DrawNoise", "SeekNewer", "Leave"),
)
COORDINATOR_EFFECTS = (
    *(f"SendTo {kind}" for kind in ("Welcome", "StartAttempt", "Roster", "DeliverShares", "Survivors")),
    *(f"SendTo {kind}" for kind in ("SurvivorProof", "AttemptOver")),
    *(f"JournalCoordinator {entry}" for entry in ("Began", "Restored", "Opened", "Closed")),
    *("SetDeadline", "RestoreAdapter", "ApplySum", "SaveCheckpoint"),
    *("ReportWaiting", "ReportStarted", "ReportAttempt", "Finish"),
)
CRASH_POINTS = tuple(
    f"{role} {effect} {when}"
    for role, effects in (("silo", SILO_EFFECTS), ("coordinator", COORDINATOR_EFFECTS))
    for effect in effects
    for when in ("before", "after")
)

# Faults beside crashes before and after an effect; how often each happens where it can, in units of the seed's rate.
KINDS = {
    "silo journal torn": 2.0,  # the process dies with part of the line written
    "silo upload kept without its entry": 2.0,  # the masked bytes are durable, the journal's line is not
    "silo broadcast torn": 2.0,  # the draft is written, its name is not
    "coordinator journal torn": 2.0,
    "coordinator checkpoint torn": 2.0,
    "coordinator checkpoints kept": 2.0,  # the journal names the new one, the old ones are not removed yet
    "silo disk full": 0.5,
    "coordinator disk full": 0.5,
    "ledger unavailable": 4.0,
    "ledger times out after commit": 4.0,
    "silo charge without its line": 2.0,  # the ledger has the charge, the silo's own log has not
    "gradients too late": 2.0,
    "session lost": 2.0,
    "network cut": 2.0,
    "answer lost": 2.0,  # the request was applied, its answer never arrives: it is made again
    "slow link": 1.0,
    "killed while it runs": 1.0,
    "several killed at once": 0.5,
    "coordinator volume lost": 200.0,  # asked when the coordinator has died
    "coordinator stranded with its volume": 1.0,  # it lives on unseen, and another starts with an empty volume
}
# What a job comes to once or seldom: a world with one of these in focus makes it happen.
RARE = (
    "Refuse",
    "Finish",
    "Restore",
    "Began",
    "SeekNewer",
    "Leave",
    "Offer",
    "ReportStarted",
    "checkpoints kept",
    "volume",
)


@dataclass(frozen=True)
class Weather:
    """How bad it is: chance of a crash at each point, a point where it is likely, and when it ends (seconds)."""

    rate: float
    focus: str
    focus_rate: float
    until: float


def draw_weather(seed: int, rng: random.Random) -> Weather:
    """Return a seed's weather; the point of focus goes round, so that rare points are reached too."""
    focus = (*CRASH_POINTS, *KINDS)[seed % (len(CRASH_POINTS) + len(KINDS))]
    rate, focus_rate = rng.choice((0.0, 0.0002, 0.0005, 0.001, 0.003)), rng.choice((0.02, 0.1, 0.3))
    if any(word in focus for word in RARE):
        rate, focus_rate = 0.003, 0.5
    return Weather(rate, focus, focus_rate, until=rng.choice((100.0, 400.0, 1500.0, 4000.0)))


class Faults:
    """One world's faults: asks the seed, counts what happened."""

    def __init__(self, weather: Weather, rng: random.Random) -> None:
        self.weather = weather
        self.rng = rng
        self.happened: Counter[str] = Counter()

    def crash(self, point: str, now: float) -> bool:
        """Tell whether the process dies at this point."""
        return self._happens(point, self.weather.rate, now)

    def occurs(self, kind: str, now: float) -> bool:
        """Tell whether a fault of this kind happens now."""
        return self._happens(kind, self.weather.rate * KINDS[kind], now)

    def _happens(self, name: str, rate: float, now: float) -> bool:
        if now >= self.weather.until:
            return False
        if self.rng.random() >= (self.weather.focus_rate if name == self.weather.focus else rate):
            return False
        self.happened[name] += 1
        return True
