"""Carrying out a plan: its order, and what a failure half-way leaves."""

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput, Refused, Unavailable
from foedus_contract.wire import LedgerHead
from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.cluster.execute import AGAIN_SECONDS, execute
from foedus_engine.cluster.protocol import Busy, Conflict, Forbidden, NameTaken, Object, find
from foedus_engine.decide.drift import for_the_seen
from foedus_engine.decide.observed import ChildView
from foedus_engine.decide.plan import BudgetKey, Close, ContentRequest, Ensure, Event, KeepHead, Plan, Reserve, key_of
from foedus_ledger.ledger import BudgetRecord
from foedus_ledger.mechanisms import Mechanism


class Journal:
    """Ledgers that write down what they are asked and fail where they are told to."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        self.said: list[str] = []
        self._failures = failures

    async def read(self, budget: BudgetKey) -> BudgetRecord | None:
        raise NotImplementedError

    async def reserve(
        self, budget: BudgetKey, *, job_uid: str, mechanism: Mechanism, count: int, claimant: str
    ) -> None:
        self.said.append(f"reserve {budget.name}")
        if budget.name in self._failures:
            raise self._failures[budget.name]

    async def close(self, budget: BudgetKey, *, job_uid: str) -> None:
        self.said.append(f"close {budget.name}")

    async def keep_head(self, budget: BudgetKey, head: LedgerHead) -> None:
        self.said.append(f"keep {head.count} of {budget.name}")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(tmp_path, environ={}) as made:
        yield made


def obj(kind: str, name: str, api_version: str = "v1", **content: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **content}


async def owner(cluster: EmbeddedCluster) -> Object:
    return await cluster.create(obj("FederatedTrainingJob", "job", "foedus.dev/v1alpha1", spec={}))


def no_factory(request: ContentRequest, issuer: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
    raise AssertionError("the factory must not be called")


def reserve(*names: str) -> tuple[Reserve, ...]:
    mechanism = Mechanism(noise_multiplier=2.0)
    return tuple(Reserve(BudgetKey("default", name), "u-1", mechanism, 5, "default/job") for name in names)


NOT_READY = {"conditions": [{"type": "Ready", "status": "False", "reason": "Preparing", "message": ""}]}
READY = {"conditions": [{"type": "Ready", "status": "True", "reason": "Finished", "message": ""}]}
QUOTA = "configmaps is forbidden: exceeded quota: small"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Forbidden(QUOTA, where="/api", cure="raise it"), NOT_READY, "QuotaExceeded"),
        (Forbidden("no right", where="/api", cure="raise it"), NOT_READY, "Forbidden"),
        (InvalidInput("must be whole", where="/api", cure="raise it"), NOT_READY, "InvalidSpec"),
        (Forbidden(QUOTA, where="/api", cure="raise it"), READY, "Finished"),
        (Busy("no answer"), NOT_READY, "Preparing"),
    ],
)
async def test_what_the_cluster_refuses_to_make_is_why_the_object_is_not_ready(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, error: Exception, status: dict[str, Any], reason: str
) -> None:
    job = await owner(cluster)

    async def create(_cluster: EmbeddedCluster, _manifest: Mapping[str, Any]) -> Object:
        raise error

    monkeypatch.setattr(EmbeddedCluster, "create", create)
    with pytest.raises(type(error)):
        await execute(
            Plan(apply=(CHILD,), status=status), obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory
        )
    (condition,) = (await cluster.get(key_of(job)))["status"]["conditions"]
    assert condition["reason"] == reason
    if reason in {"QuotaExceeded", "Forbidden", "InvalidSpec"}:
        assert condition["message"] == str(error)


async def test_what_belongs_to_others_is_replaced_in_the_version_that_was_decided_on(cluster: EmbeddedCluster) -> None:
    job, ledgers = await owner(cluster), Journal({})
    read = await cluster.create(obj("ConfigMap", "theirs", data={"a": "1"}))
    plan = Plan(update=({**read, "data": {"a": "2"}},))
    await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory)
    assert (await cluster.get(key_of(read)))["data"] == {"a": "2"}
    with pytest.raises(Conflict):
        await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory)


async def test_what_only_hastens_is_tried_once_and_a_refusal_is_no_news(cluster: EmbeddedCluster) -> None:
    job, ledgers = await owner(cluster), Journal({})
    read = await cluster.create(obj("ConfigMap", "theirs", data={"a": "1"}))
    plan = Plan(hasten=({**read, "data": {"a": "2"}},), requeue_seconds=7.0)
    for _ in range(2):  # the second time in a version that is gone
        assert await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory) == 7.0
    assert (await cluster.get(key_of(read)))["data"] == {"a": "2"}


async def test_a_head_is_kept_before_anything_is_reserved(cluster: EmbeddedCluster) -> None:
    digest = "sha256:" + "0" * 64
    head = LedgerHead(dataset=digest, count=7, hash=digest, signature=b"s" * 64)
    ledgers = Journal({})
    plan = Plan(ledger=(KeepHead(BudgetKey("default", "a"), head), *reserve("b")))
    await execute(plan, obj=await owner(cluster), cluster=cluster, ledgers=ledgers, factory=no_factory)
    assert ledgers.said == ["keep 7 of a", "reserve b"]


CHILD = obj("ConfigMap", "child", data={"a": "1"})


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Refused("does not fit"), ["reserve a", "reserve b", "reserve c", "close b", "close a"]),
        (Unavailable("no answer"), ["reserve a", "reserve b", "reserve c"]),
        (Busy("no answer"), ["reserve a", "reserve b", "reserve c"]),
        (Conflict("lost the race"), ["reserve a", "reserve b", "reserve c"]),
    ],
)
async def test_without_all_reservations_nothing_starts(
    cluster: EmbeddedCluster, failure: Exception, said: list[str]
) -> None:
    job, ledgers = await owner(cluster), Journal({"c": failure})
    plan = Plan(ledger=reserve("a", "b", "c", "d"), apply=(CHILD,), status={"phase": "Training"})
    if isinstance(failure, Refused):
        again = await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory)
        assert again == AGAIN_SECONDS
    else:
        with pytest.raises(type(failure)):
            await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory)
    assert ledgers.said == said
    assert await find(cluster, key_of(CHILD)) is None
    assert "status" not in await cluster.get(key_of(job))
    assert [event.kind for event in await cluster.events(key_of(job))] == ["Warning"]


async def test_everything_in_a_plan_is_done(cluster: EmbeddedCluster) -> None:
    job, ledgers = await owner(cluster), Journal({})
    gone = await cluster.create(obj("ConfigMap", "gone"))
    event = Event("Normal", "Started", "it started")
    plan = Plan(
        ledger=(*reserve("a"), Close(BudgetKey("default", "z"), "u-0")),
        apply=(CHILD,),
        ensure=(Ensure(obj("ConfigMap", "kept", data={"b": "2"})),),
        delete=(key_of(gone), key_of(obj("ConfigMap", "never-there"))),
        status={"phase": "Training"},
        events=(event,),
        requeue_seconds=7.0,
    )
    assert await execute(plan, obj=job, cluster=cluster, ledgers=ledgers, factory=no_factory) == 7.0
    assert ledgers.said == ["reserve a", "close z"]
    names = [each["metadata"]["name"] for each in await cluster.list("v1", "ConfigMap")]
    assert names == ["child", "kept"]
    assert (await cluster.get(key_of(job)))["status"] == {"phase": "Training"}
    assert await cluster.events(key_of(job)) == (event,)


async def test_content_is_made_once_with_its_issuers_content(cluster: EmbeddedCluster) -> None:
    calls: list[tuple[str, Mapping[str, bytes] | None]] = []

    def factory(request: ContentRequest, issuer: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
        calls.append((request.common_name, issuer))
        return {"key": request.common_name.encode()}

    authority, leaf = obj("Secret", "ca"), obj("Secret", "leaf")
    plan = Plan(
        ensure=(
            Ensure(authority, ContentRequest("Authority", "root")),
            Ensure(leaf, ContentRequest("ServerLeaf", "server", issuer=key_of(authority))),
        )
    )
    job = await owner(cluster)
    for _ in range(2):
        await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=factory)
    assert calls == [("root", None), ("server", {"key": b"root"})]
    assert (await cluster.get(key_of(leaf)))["data"] == {"key": base64.b64encode(b"server").decode()}


async def test_content_that_is_to_be_new_is_made_again_from_what_is_there(cluster: EmbeddedCluster) -> None:
    def factory(_request: ContentRequest, issuer: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
        return {"key": b"first" if issuer is None else issuer["key"] + b" again"}

    authority, leaf = obj("Secret", "ca"), obj("Secret", "leaf")
    job, root = await owner(cluster), ContentRequest("Authority", "root")
    signed = ContentRequest("ServerLeaf", "server", issuer=key_of(authority))
    first = Plan(ensure=(Ensure(authority, root), Ensure(leaf, signed)))
    itself = replace(root, issuer=key_of(authority))
    await execute(first, obj=job, cluster=cluster, ledgers=Journal({}), factory=factory)
    seen = [for_the_seen(each, await view(cluster, each)) for each in (authority, leaf)]
    renewal = Plan(ensure=(Ensure(seen[0], itself, renew=True), Ensure(seen[1], signed, renew=True)))
    await execute(renewal, obj=job, cluster=cluster, ledgers=Journal({}), factory=factory)
    with pytest.raises(Conflict):  # what was decided on an old version renews nothing
        await execute(renewal, obj=job, cluster=cluster, ledgers=Journal({}), factory=factory)
    found = [base64.b64decode((await cluster.get(key_of(each)))["data"]["key"]) for each in (authority, leaf)]
    assert found == [b"first again", b"first again again"]


async def test_the_status_is_written_although_a_step_failed(cluster: EmbeddedCluster) -> None:
    job = await owner(cluster)
    plan = Plan(apply=(obj("CronJob", "x"),), status={"phase": "Failed"}, events=(Event("Normal", "Never", "said"),))
    with pytest.raises(Exception, match="no such kind"):
        await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    assert (await cluster.get(key_of(job)))["status"] == {"phase": "Failed"}
    assert await cluster.events(key_of(job)) == ()


async def test_an_unchanged_status_is_not_written(cluster: EmbeddedCluster) -> None:
    plan = Plan(status={"phase": "Training"})
    job = await owner(cluster)
    await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    written = await cluster.get(key_of(job))
    await execute(plan, obj=written, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    assert await cluster.get(key_of(job)) == written


async def test_a_status_decided_on_an_old_object_is_not_written(cluster: EmbeddedCluster) -> None:
    job = await owner(cluster)
    await cluster.update({**job, "spec": {"suspend": True}})
    plan = Plan(status={"phase": "Training"})
    with pytest.raises(Conflict):
        await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)


async def view(cluster: EmbeddedCluster, manifest: Mapping[str, Any]) -> ChildView:
    meta = (await cluster.get(key_of(manifest)))["metadata"]
    return ChildView(meta["uid"], version=meta["resourceVersion"])


def owned(manifest: Mapping[str, Any], by: Object, **changes: Any) -> dict[str, Any]:
    reference = {"apiVersion": by["apiVersion"], "kind": by["kind"], "controller": True}
    reference |= {key: by["metadata"][key] for key in ("name", "uid")} | changes
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


NAMES_TAKEN = "ConfigMap default/child: is there already and belongs to {}; delete it if it is not needed"


@pytest.mark.parametrize("ensured", [True, False])
@pytest.mark.parametrize(
    ("owners", "whose"),
    [
        ([], "nobody that Foedus knows"),
        ([{"controller": False}], "nobody that Foedus knows"),
        ([{"name": "another", "uid": "u-2"}], "FederatedTrainingJob another"),
        ([{"uid": "u-2"}], "FederatedTrainingJob job"),  # an earlier one of the name
    ],
)
async def test_what_bears_a_childs_name_without_being_one_is_never_taken_over(
    cluster: EmbeddedCluster, owners: list[dict[str, Any]], whose: str, ensured: bool
) -> None:
    job = await owner(cluster)
    keeper = await cluster.create(obj("ConfigMap", "keeper"))  # else what has no owner is collected
    there = owned(obj("ConfigMap", "child", data={"x": "theirs"}), keeper, controller=False)
    for changes in owners:
        there["metadata"]["ownerReferences"] += owned(CHILD, job, **changes)["metadata"]["ownerReferences"]
    before = await cluster.create(there)
    child = owned(obj("ConfigMap", "child", data={"x": "ours"}), job)
    plan = Plan(**({"ensure": (Ensure(child),)} if ensured else {"apply": (child,)}), status=NOT_READY)

    with pytest.raises(NameTaken, match=NAMES_TAKEN.format(whose)):
        await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    assert await cluster.get(key_of(child)) == before
    (condition,) = (await cluster.get(key_of(job)))["status"]["conditions"]
    assert condition["reason"] == "NameTaken"
    assert "or create this object again under another name" in condition["message"]


@pytest.mark.parametrize("ensured", [True, False])
async def test_a_child_that_an_earlier_pass_has_made_is_ours(cluster: EmbeddedCluster, ensured: bool) -> None:
    job = await owner(cluster)
    child = owned(obj("ConfigMap", "child", data={"x": "ours"}), job)
    before = await cluster.create(child)
    plan = Plan(ensure=(Ensure(child),)) if ensured else Plan(apply=(child,))
    await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    assert await cluster.get(key_of(child)) == before


async def test_a_change_is_made_of_the_version_that_was_seen_and_of_no_other(cluster: EmbeddedCluster) -> None:
    job = await owner(cluster)
    child = owned(obj("ConfigMap", "child", data={"x": "old", "y": "old"}), job)
    await cluster.create(child)
    seen = await view(cluster, child)
    wanted = for_the_seen({**child, "data": {"x": "new"}}, seen)
    plan = Plan(apply=(wanted,))
    await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    found = await cluster.get(key_of(child))
    assert found["data"] == {"x": "new"}  # what we made and leave out goes
    with pytest.raises(Conflict):
        await execute(plan, obj=job, cluster=cluster, ledgers=Journal({}), factory=no_factory)
    assert await cluster.get(key_of(child)) == found
