"""What is to be done while a training job's processes run, or are to run: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from foedus_contract.plan import TrainingPlan
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import Phase
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.build.pods import Settings
from foedus_engine.decide.certificates import any_active, are_due
from foedus_engine.decide.checks import check_ledgers
from foedus_engine.decide.children import applied_children, ensured_children, owner_of, policy_child, told_children
from foedus_engine.decide.conditions import Condition, parse_timestamp, timestamp
from foedus_engine.decide.drift import drifted, for_the_seen
from foedus_engine.decide.ending import (
    failed_silos,
    first_failure,
    has_policy,
    identities_due,
    joining_since,
    quorum_has_started,
)
from foedus_engine.decide.events import news
from foedus_engine.decide.inspection import superfluous_inspector
from foedus_engine.decide.observed import Observed
from foedus_engine.decide.plan import Ensure, Manifest, Plan, key_of
from foedus_engine.decide.status import is_training, make_status, plan_fields, progress_fields, start_time
from foedus_engine.decide.training_plan import attempts, threshold
from foedus_engine.decide.waiting import find_note, find_wait

EAGER_SECONDS = 1.0
EAGER_TIME = timedelta(minutes=2)  # what takes longer takes minutes, of which a few seconds are no part


def decide_run(
    job: FederatedTrainingJob, observed: Observed, plan: TrainingPlan, settings: Settings, now: datetime
) -> Plan:
    """Make the children as the plan says, and mend what is not so any more.

    The coordinator waits for a quorum of silos with a process: it gives silos joinTimeout from its own start. A queue
    that holds Jobs back lifts their suspension itself, so there nobody waits.
    """
    owner = owner_of(observed.meta)
    status = _running_status(job, observed, plan, now)
    ensured = ensured_children(job, owner, renew=are_due(job, observed, now))
    return Plan(
        ensure=(
            *_absent(_makeable(ensured, observed), observed),
            *_policy(job, observed, now),
        ),
        apply=drifted((*told_children(job, owner, plan, settings), *_untold(job, observed, settings)), observed),
        hasten=_told_pods(observed, now),
        delete=superfluous_inspector(observed, now),
        status=status,
        events=news(observed, status),
        requeue_seconds=_next_look(job, observed, settings, now),
    )


def _next_look(job: FederatedTrainingJob, observed: Observed, settings: Settings, now: datetime) -> float | None:
    """Return when to look for progress; that a suspended job's last process has ended is news by itself.

    While silos have just started, all of them wait for the last one's identity: it is looked for more often.
    """
    if job.spec.suspend and not any_active(observed):
        return None
    since = joining_since(observed)
    if since is not None and not has_policy(observed) and now < since + EAGER_TIME:
        return min(EAGER_SECONDS, settings.poll_seconds)
    return settings.poll_seconds


def _told_pods(observed: Observed, now: datetime) -> tuple[Manifest, ...]:
    """Return the silos' pods with an annotation that says that their policy has been made.

    Nothing reads it, but a kubelet looks at what a pod mounts when its annotations change, and else after a minute or
    two. A pod that is younger than the policy found it when it was started.
    """
    policy = observed.children.get(("ConfigMap", names.policy(observed.meta.name)))
    if policy is None:
        return ()
    made = str(policy.content.get("metadata", {}).get("creationTimestamp") or "")
    if not made or now > parse_timestamp(made) + EAGER_TIME:
        return ()
    pods = [(pod, pod["metadata"], pod["metadata"].get("annotations") or {}) for pod in observed.silo_pods]
    return tuple(
        {**pod, "metadata": {**meta, "annotations": {**annotations, names.TOLD_ANNOTATION: policy.uid}}}
        for pod, meta, annotations in pods
        if names.TOLD_ANNOTATION not in annotations and meta["creationTimestamp"] <= made
    )


def _untold(job: FederatedTrainingJob, observed: Observed, settings: Settings) -> tuple[Manifest, ...]:
    """Return the children that depend on no plan."""
    is_queued = names.QUEUE_LABEL in job.metadata.labels
    waits = not is_queued and joining_since(observed) is None and not quorum_has_started(job, observed)
    return applied_children(job, owner_of(observed.meta), settings, coordinator_waits=waits)


def _makeable(wanted: tuple[Ensure, ...], observed: Observed) -> tuple[Ensure, ...]:
    """Return what can be made: no certificates beside some whose authority is gone or broken."""
    authority = ("Secret", names.ca_secret(observed.meta.name))
    child = observed.children.get(authority)
    has_leaves = any(kind == "Secret" and name != authority[1] for kind, name in observed.children)
    if (not has_leaves) if child is None else (not child.problem):
        return wanted
    return tuple(each for each in wanted if each.manifest["kind"] != "Secret")


def _absent(wanted: tuple[Ensure, ...], observed: Observed) -> Iterator[Ensure]:
    """Return what is not there yet, or is to be renewed: what is there is else never looked at again."""
    for each in wanted:
        seen = observed.children.get(_child_of(each.manifest))
        if seen is None:
            yield each
        elif each.renew:
            yield replace(each, manifest=for_the_seen(each.manifest, seen))


def _child_of(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _policy(job: FederatedTrainingJob, observed: Observed, now: datetime) -> tuple[Ensure, ...]:
    """Pin the silos' identities once all silos that can come have come, or a quorum of them in time."""
    silos = {client.name for client in job.spec.clients}
    awaited = silos - set(failed_silos(job, observed)) - set(observed.identities)
    known = {silo: key for silo, key in observed.identities.items() if silo in silos}
    if has_policy(observed) or len(known) < threshold(job):
        return ()
    if awaited and not identities_due(job, observed, now):
        return ()
    return (policy_child(owner_of(observed.meta), known),)


def decide_carry_on(
    job: FederatedTrainingJob, observed: Observed, message: str, settings: Settings, now: datetime
) -> Plan:
    """Leave what processes were told alone, although the job could not be started again as things are.

    They can still be suspended, and what they run in is mended; no process is started that was not there.
    """
    status = _running_status(job, observed, None, now, message)
    return Plan(
        apply=drifted(_mendable(job, observed, settings), observed),
        status=status,
        events=news(observed, status),
        requeue_seconds=settings.poll_seconds,
    )


def _mendable(job: FederatedTrainingJob, observed: Observed, settings: Settings) -> list[Manifest]:
    """Return what may be mended without a plan: Jobs to be stopped, and all that is there if every silo has reserved.

    A Job that is not there stays so: a process needs every reservation, and a lost one may be why there is no plan.
    """
    wanted = [each for each in _untold(job, observed, settings) if key_of(each) not in observed.foreign]
    jobs = [each for each in wanted if each["kind"] == "Job" and _child_of(each) in observed.children]
    if job.spec.suspend:
        return jobs
    accounts = [None if budget is None else budget.account for budget in observed.budgets.values()]
    if not all(account is not None and account.state == "Open" for account in accounts):
        return []
    return [*(each for each in wanted if each["kind"] != "Job"), *jobs]


def _running_status(
    job: FederatedTrainingJob, observed: Observed, plan: TrainingPlan | None, now: datetime, message: str = ""
) -> dict[str, object]:
    training, suspended = is_training(observed), job.spec.suspend
    wait = None if suspended else find_wait(job, observed)
    phase = _phase(suspended=suspended, training=training, waiting=wait is not None)
    failure = first_failure(job, observed) or ("" if suspended else find_note(job, observed))
    message = message or (wait.message if wait else failure) or _PHASE_MESSAGE[phase]
    reason = wait.reason if wait else _PHASE_REASON[phase]
    conditions = [
        Condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, ""),
        _reservation(job, observed),
        _suspension(observed, suspended),
        _quorum(training, failure),
        Condition(ConditionType.READY, "False", reason, message),
    ]
    fields = progress_fields(job, observed)
    fields["startTime"] = None if suspended else start_time(observed, now)
    joins = not suspended and quorum_has_started(job, observed)
    fields["joinStartTime"] = (
        None if suspended else observed.meta.status.get("joinStartTime") or (timestamp(now) if joins else None)
    )
    if plan is not None:
        fields["plan"] = plan_fields(plan)
    return make_status(observed, now, phase=phase, conditions=conditions, message=message, **fields)


def _phase(*, suspended: bool, training: bool, waiting: bool) -> Phase:
    if suspended:
        return "Suspended"
    if waiting:
        return "Pending"
    return "Training" if training else "Preparing"


_PHASE_REASON = {"Suspended": Reason.SUSPENDED, "Preparing": Reason.PREPARING, "Training": Reason.TRAINING}
_PHASE_MESSAGE = {
    "Suspended": "spec.suspend is true; the reservation is kept",
    "Preparing": "silos load the model and join",
    "Training": "rounds are running",
}


def _reservation(job: FederatedTrainingJob, observed: Observed) -> Condition:
    problem = check_ledgers(job, observed)
    if problem is not None:
        return Condition(ConditionType.BUDGET_AVAILABLE, "Unknown", problem.reason, problem.message)
    return Condition(
        ConditionType.BUDGET_AVAILABLE, "True", Reason.RESERVED, f"{attempts(job)} attempts in every budget"
    )


def _quorum(training: bool, failure: str) -> Condition:
    if training:
        return Condition(ConditionType.QUORUM_REACHED, "True", Reason.SILOS_JOINED, failure)
    return Condition(ConditionType.QUORUM_REACHED, "False", Reason.WAITING_FOR_SILOS, failure)


def _suspension(observed: Observed, suspended: bool) -> Condition:
    if suspended:
        return Condition(ConditionType.SUSPENDED, "True", Reason.SUSPENDED, "")
    before = {condition["type"]: condition for condition in observed.meta.status.get("conditions", ())}
    was = before.get(str(ConditionType.SUSPENDED), {}).get("reason")
    resumed = was in {str(Reason.SUSPENDED), str(Reason.RESUMED)}
    return Condition(ConditionType.SUSPENDED, "False", Reason.RESUMED if resumed else Reason.NOT_SUSPENDED, "")
