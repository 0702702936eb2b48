"""Which events are told about a training job: a closed list of reasons, and one event a change of what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.decide.observed import Observed
from foedus_engine.decide.plan import LEDGER_UNAVAILABLE, RECONCILE_FAILED, Event

NOISY_PLAN = "NoisyPlan"  # the noise is large against the gradients: accuracy suffers

EVENT_REASONS = frozenset({*map(str, Reason), NOISY_PLAN, LEDGER_UNAVAILABLE, RECONCILE_FAILED})
"""Every reason that an event about a training job can have."""

_AS_IT_SHOULD_BE = frozenset(
    {Reason.INSPECTING, Reason.PENDING, Reason.PREPARING, Reason.QUEUED, Reason.SUSPENDED, Reason.TRAINING}
)


def news(observed: Observed, status: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return the event that the job waits for something else than it did, or goes on.

    It is found by comparing with the stored status, so after a crash it may be told twice or not at all.
    """
    before, after = _ready(observed.meta.status), _ready(status)
    if before.get("reason") == after["reason"]:
        return ()
    reason, message = str(after["reason"]), str(after["message"])
    return (Event("Normal" if reason in _AS_IT_SHOULD_BE else "Warning", reason, message),)


def _ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = str(ConditionType.READY)
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})
