"""How many jobs and budgets are in which state: numbers alone, for whoever may see the operator's metrics.

Names, and what one job or budget has spent, are asked of the API server, where RBAC says who may know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from foedus_engine import names
from foedus_engine.api.budget import BudgetReason
from foedus_engine.api.training_status import Phase

UNKNOWN = "Unknown"  # nothing has been said of it yet, or by another version of Foedus

Count = Annotated[int, Field(ge=0)]


class _Page(BaseModel):
    """One page's schema: closed, and written as the API writes names."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class PrivacyStatus(_Page):
    """`/privacy/status`. A process that does not lead counts nothing."""

    leads: bool
    jobs: dict[str, Count]  # by phase
    budgets: dict[str, Count]  # by the reason of `Ready`


class SecurityStatus(_Page):
    """`/security/status`."""

    leads: bool
    lease_transitions: Count
    least_tls: str  # of every connection to the API server
    watches: Count
    dead_watches: tuple[str, ...]  # as paths of the API server, without a name
    faults: dict[str, Count]  # passes that ended in an error, by its class


class Census:
    """The state of each job and budget, as the watches last told it."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, str]] = {names.TRAINING_KIND: {}, names.BUDGET_KIND: {}}

    def note(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Take what a watch tells of an object; other kinds are passed over."""
        kind, uid = body.get("kind"), body["metadata"]["uid"]
        states = self._states.get(str(kind))
        if states is None:
            return
        if gone:
            states.pop(uid, None)
        else:
            states[uid] = _phase(body) if kind == names.TRAINING_KIND else _reason(body)

    def jobs(self) -> dict[str, int]:
        """Return how many jobs there are in each phase."""
        return dict(Counter(self._states[names.TRAINING_KIND].values()))

    def budgets(self) -> dict[str, int]:
        """Return how many budgets there are by what is said of their use."""
        return dict(Counter(self._states[names.BUDGET_KIND].values()))


def _phase(job: Mapping[str, Any]) -> str:
    return _known((job.get("status") or {}).get("phase"), get_args(Phase))


def _reason(budget: Mapping[str, Any]) -> str:
    conditions = (budget.get("status") or {}).get("conditions", ())
    return _known(next((each["reason"] for each in conditions if each["type"] == "Ready"), None), list(BudgetReason))


def _known(said: object, states: Collection[str]) -> str:
    """Return one of a few strings that are there already, for each of ten thousand objects."""
    return next((str(state) for state in states if state == said), UNKNOWN)
