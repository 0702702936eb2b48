"""The record of a small run, written out: three rounds in four attempts, one of which released nothing."""

from __future__ import annotations

from typing import Any

from foedus.report.record import Ending, PreparationStep, RunRecord, SiloAccount
from foedus_contract.progress import PhaseSeconds, RoundFinished
from support.training_plans import ANY_DIGEST, tiny_plan

SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")
HOSTILE = (
    """<script>alert("1")</script>'"><img src=x onerror='1'>&lt;]]>--><style>*{}</style>[a](http://x.y)![b](//x.y)"""
)


def attempt(number: int, *, silos: int = 4, lost: tuple[str, ...] = (), **changes: Any) -> RoundFinished:
    """Attempt `number` of the run, with its first `silos` silos."""
    values: dict[str, Any] = {
        "at": 1030.0 + 10 * number,
        "round": number,
        "attempt": number,
        "applied": True,
        "survivors": SILOS[:silos],
        "dropped": lost,
        "epsilon_spent": 0.25 * (number + 1),
        "accuracy": 0.5 + 0.1 * number,
        "seconds": 10.0,
        "phases": PhaseSeconds(agree=1, compute=6, unmask=1, apply=2),
    }
    return RoundFinished.model_validate(values | changes)


def small_record(**changes: Any) -> RunRecord:
    """Return the run's record; keywords replace its fields."""
    failed = {"applied": False, "survivors": (), "reason": "2 silos left, 3 are needed", "accuracy": 0.5, "round": 1}
    attempts = (
        attempt(0),
        attempt(1, lost=("silo-3", "silo-4"), **failed),
        attempt(2, silos=3, lost=("silo-4",), round=1),
        attempt(3, silos=3, round=2, epsilon_spent=0.9),
    )
    plan = tiny_plan(ANY_DIGEST).model_copy(update={"rounds": 3, "spare_attempts": 2})
    values: dict[str, Any] = {
        "foedus": "0.1.0",
        "plan": plan.public(),
        "plan_digest": plan.digest(),
        "base_model": "tiny",
        "began_at": 1000.0,
        "preparation": (
            PreparationStep(what="starting, loading the model", until=1008.0),
            PreparationStep(what="caching activations", until=1015.0),
            PreparationStep(what="joining", until=1018.0),
        ),
        "trainable_parameters": 194,
        "kappa": 0.25,
        "attempts": attempts,
        "accounts": tuple(SiloAccount(silo=silo, reserved=5, charged=4 - (silo == "silo-4")) for silo in SILOS),
        "epsilon_spent": 0.9,
        "epsilon_spent_rdp": 1.0,
        "ending": Ending(outcome="Complete", at=1065.0, adapter_digest=ANY_DIGEST),
        "notes": ("Foedus started the silos.",),
    }
    return RunRecord.model_validate(values | changes)


def hostile_record() -> RunRecord:
    """Return a record in which every text that is not ours is an attack."""
    record = small_record()
    model = record.plan.model.model_copy(update={"labels": (HOSTILE, "b")})
    return small_record(
        foedus=HOSTILE[:64],
        plan=record.plan.model_copy(update={"model": model}),
        base_model=HOSTILE,
        attempts=(attempt(0, applied=False, reason=HOSTILE),),
        preparation=(PreparationStep(what=HOSTILE[:64], until=1010.0),),
        ending=Ending(outcome="Failed", message=HOSTILE, at=1065.0, adapter_digest=HOSTILE[:71]),
        notes=(HOSTILE,),
    )
