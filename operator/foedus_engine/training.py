"""How the loop handles a FederatedTrainingJob: parse, gather, decide."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from foedus_contract.errors import InvalidInput
from foedus_engine import names
from foedus_engine.accounting import Accounting
from foedus_engine.api.parse import parse_stored
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.build.pods import Settings
from foedus_engine.cluster.gather import gather_training
from foedus_engine.cluster.protocol import Cluster, Ledgers, Object
from foedus_engine.decide.observed import ObjectMeta
from foedus_engine.decide.over import decide_rest
from foedus_engine.decide.plan import Plan
from foedus_engine.decide.training import decide_invalid, decide_training
from foedus_engine.reconcile import Kinds


def training_kinds(
    cluster: Cluster,
    ledgers: Ledgers,
    accounting: Accounting,
    *,
    clock: Callable[[], datetime],
    settings: Settings | None = None,
    manager: str | None = None,
) -> Kinds:
    """Return the table that a Reconciler needs for training jobs; with a `manager`, for those that are its own."""

    async def decide(obj: Object) -> Plan:
        if obj["metadata"].get("deletionTimestamp"):
            return Plan()  # it is going, and what belongs to it: nothing is made any more
        meta = ObjectMeta.from_document(obj)
        try:
            job = parse_stored(FederatedTrainingJob, obj)
        except InvalidInput as error:
            return decide_invalid(meta, error, now=clock())
        if manager is not None and (job.spec.managed_by or names.OPERATOR) != manager:
            return Plan()
        if (rest := decide_rest(job, meta, clock())) is not None:
            return rest
        observed = await gather_training(cluster, ledgers, accounting, job, meta)
        return decide_training(job, observed, now=clock(), settings=settings)

    return {(names.API_VERSION, names.TRAINING_KIND): decide}
