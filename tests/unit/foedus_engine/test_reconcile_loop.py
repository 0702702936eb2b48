"""The loop: which objects get passes, and what happens after a pass that failed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from foedus_contract.errors import FoedusError, InvalidInput, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_engine import reconcile, workqueue
from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.cluster.embedded_ledgers import EmbeddedLedgers
from foedus_engine.cluster.protocol import Busy, Conflict, Object
from foedus_engine.decide.plan import ContentRequest, Event, ObjectKey, Plan
from foedus_engine.reconcile import Decide, Reconciler

KIND = ("foedus.dev/v1alpha1", "FederatedTrainingJob")
KEY = ObjectKey(*KIND, "default", "job")
PATIENCE_SECONDS = 30


def job(name: str = "job") -> dict[str, Any]:
    return {"apiVersion": KIND[0], "kind": KIND[1], "metadata": {"name": name, "namespace": "default"}, "spec": {}}


def no_factory(request: ContentRequest, issuer: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
    raise AssertionError("the factory must not be called")


@asynccontextmanager
async def looping(
    tmp_path: Path, decide: Decide, reports: list[FoedusError] | None = None
) -> AsyncIterator[EmbeddedCluster]:
    def report(_key: ObjectKey, error: FoedusError) -> None:
        (reports if reports is not None else []).append(error)

    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        ledgers = EmbeddedLedgers(tmp_path)
        kinds = {KIND: decide}
        loop = Reconciler(cluster, ledgers, no_factory, kinds, clock=time.monotonic, report=report)
        task = asyncio.create_task(loop.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield cluster
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Any) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_an_object_is_handled_when_it_appears_when_it_changes_and_when_its_child_does(tmp_path: Path) -> None:
    seen: list[int] = []

    async def decide(obj: Object) -> Plan:
        seen.append(obj["metadata"]["generation"])
        return Plan()

    async with looping(tmp_path, decide) as cluster:
        made = await cluster.create(job())
        await until(lambda: seen == [1])
        changed = await cluster.update({**made, "spec": {"suspend": True}})
        await until(lambda: seen == [1, 2])
        owner = {"apiVersion": KIND[0], "kind": KIND[1], "name": "job", "uid": changed["metadata"]["uid"]}
        meta = {"name": "child", "namespace": "default", "ownerReferences": [{**owner, "controller": True}]}
        await cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
        await until(lambda: seen == [1, 2, 2])


async def test_a_plan_that_wants_another_look_gets_it(tmp_path: Path) -> None:
    passes: list[str] = []

    async def decide(obj: Object) -> Plan:
        passes.append(obj["metadata"]["name"])
        return Plan(requeue_seconds=0.01 if len(passes) < 4 else None)

    async with looping(tmp_path, decide) as cluster:
        await cluster.create(job())
        await until(lambda: len(passes) == 4)


@pytest.mark.parametrize("error", [Unavailable("away"), Conflict("changed"), RuntimeError("a defect")])
async def test_a_pass_that_may_succeed_later_is_repeated(tmp_path: Path, error: Exception) -> None:
    passes: list[str] = []

    async def decide(obj: Object) -> Plan:
        passes.append(obj["metadata"]["name"])
        if len(passes) == 1:
            raise error
        return Plan(status={"phase": "Training"})

    async with looping(tmp_path, decide) as cluster:
        await cluster.create(job())
        while (await cluster.get(KEY)).get("status") != {"phase": "Training"}:
            await asyncio.sleep(0.01)


async def test_what_fails_again_for_sure_waits_for_a_change_and_is_told(tmp_path: Path) -> None:
    reports: list[FoedusError] = []

    async def decide(obj: Object) -> Plan:
        if not obj["spec"]:
            raise InvalidInput("is empty", where="spec", cure="fill it")
        return Plan(status={"phase": "Training"})

    async with looping(tmp_path, decide, reports) as cluster:
        made = await cluster.create(job())
        await until(lambda: reports)
        assert [event.message for event in await cluster.events(KEY)] == ["spec: is empty; fill it"]
        await cluster.update({**made, "spec": {"rounds": 1}})
        while (await cluster.get(KEY)).get("status") != {"phase": "Training"}:
            await asyncio.sleep(0.01)
        assert len(reports) == 1


async def test_an_event_that_is_lost_neither_hides_the_error_nor_ends_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[FoedusError] = []

    async def publish(_cluster: EmbeddedCluster, _key: ObjectKey, _event: Event) -> None:
        raise OSError("disk full")

    async def decide(obj: Object) -> Plan:
        raise InvalidInput(obj["metadata"]["name"])

    monkeypatch.setattr(EmbeddedCluster, "publish", publish)
    async with looping(tmp_path, decide, reports) as cluster:
        await cluster.create(job())
        await until(lambda: len(reports) == 1)
        await cluster.create(job("second"))
        await until(lambda: [error.what for error in reports] == ["job", "second"])


async def events(cluster: EmbeddedCluster) -> list[str]:
    """Return the messages of the events about the job, once there are any."""
    while not (found := await cluster.events(KEY)):
        await asyncio.sleep(0.01)
    return [event.message for event in found]


async def test_a_defect_is_told_logged_and_an_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reports: list[FoedusError] = []

    async def decide(_obj: Object) -> Plan:
        raise KeyError("spec")

    async with looping(tmp_path, decide, reports) as cluster:
        await cluster.create(job())
        told = await events(cluster)
    assert reports[0].code is ExitCode.INTERNAL
    said = str(reports[0])
    assert said.startswith("FederatedTrainingJob default/job: internal error: KeyError at test_reconcile_loop.py:")
    assert (told, said in caplog.text) == ([said], True)
    assert "spec" not in caplog.text  # a defect's text may hold anything


async def test_what_is_missing_for_long_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accountants' process has no memory, say: each pass fails, and nothing of the job would tell."""
    reports: list[FoedusError] = []
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(workqueue, "LONGEST_PAUSE_SECONDS", 0.04)
    monkeypatch.setattr(reconcile, "LONGEST_PAUSE_SECONDS", 0.04)

    async def decide(_obj: Object) -> Plan:
        raise Unavailable("died", where="accounting", cure="give it memory")

    async with looping(tmp_path, decide, reports) as cluster:
        await cluster.create(job())
        assert await events(cluster) == ["accounting: died; give it memory"]
    assert len(reports) >= 3  # the third pause is the longest


async def test_one_object_never_has_two_passes_at_a_time(tmp_path: Path) -> None:
    inside = 0
    passes = 0

    async def decide(_obj: Object) -> Plan:
        nonlocal inside, passes
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.01)
        inside -= 1
        passes += 1
        return Plan(status={"passes": passes} if passes < 5 else None)  # its own write is news

    async with looping(tmp_path, decide) as cluster:
        await cluster.create(job())
        await until(lambda: passes >= 5)


OVER = {"completionTime": "2026-03-01T12:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]}


async def test_a_look_at_all_objects_finds_what_no_news_told_and_leaves_alone_what_rests(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        for name, status in {"new": {}, "over": OVER, "rests": {**OVER, "settledTime": OVER["completionTime"]}}.items():
            await cluster.update_status({**await cluster.create(job(name)), "status": status})
        loop = Reconciler(cluster, EmbeddedLedgers(tmp_path), no_factory, {KIND: idle}, clock=time.monotonic)
        assert await loop._look_at_all(*KIND)
        assert [key.name for key in taken(loop)] == ["new", "over"]


async def idle(_obj: Object) -> Plan:
    return Plan()


def taken(loop: Reconciler) -> list[ObjectKey]:
    keys = []
    while (key := loop._queue.take(time.monotonic())) is not None:
        keys.append(key)
    return sorted(keys)


async def test_a_look_that_the_cluster_cuts_short_is_told_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconcile, "RESYNC_SECONDS", 0.0)
    monkeypatch.setattr(reconcile, "RESYNC_AGAIN_SECONDS", 0.0)
    scan, looks, reports = EmbeddedCluster.scan, [], list[FoedusError]()

    async def scan_later(cluster: EmbeddedCluster, *kind: Any) -> AsyncIterator[Object]:
        looks.append(len(looks))
        if len(looks) < 3:
            raise Busy("the API server does not answer", where="/apis")
        async for obj in scan(cluster, *kind):
            yield obj

    passes: list[int] = []

    async def decide(_obj: Object) -> Plan:
        passes.append(len(looks))
        return Plan()

    monkeypatch.setattr(EmbeddedCluster, "scan", scan_later)
    async with looping(tmp_path, decide, reports) as cluster:
        await cluster.create(job())
        await until(lambda: max(passes, default=0) > 3)
    assert [str(error) for error in reports] == ["/apis: the API server does not answer"] * 2
    assert "the look at every FederatedTrainingJob was cut short" in caplog.text


BUDGETS = ("foedus.dev/v1alpha1", "PrivacyBudget")


@asynccontextmanager
async def standing_by(
    tmp_path: Path, decide: Decide, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[EmbeddedCluster, Reconciler]]:
    """Yield a loop that stands by, and rehearses of two kinds one."""
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        kinds = {KIND: decide, BUDGETS: decide}
        made = Reconciler(cluster, EmbeddedLedgers(tmp_path), no_factory, kinds, clock=clock, rehearsed=[KIND])
        task = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield cluster, made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def budget() -> dict[str, Any]:
    return {**job("budget"), "kind": BUDGETS[1]}


async def test_who_stands_by_decides_and_does_nothing_and_looks_at_everything_once_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "REHEARSE_SECONDS", 0.0)
    decided: list[str] = []

    async def decide(obj: Object) -> Plan:
        decided.append(obj["metadata"]["name"])
        return Plan(status={"phase": "Training"})

    async with standing_by(tmp_path, decide) as (cluster, loop):
        await cluster.create(budget())
        await cluster.create(job())
        await until(lambda: decided)
        await cluster.create(job("second"))
        await until(lambda: "second" in decided)
        assert decided == ["job", "second"]
        assert not any("status" in each for each in await cluster.list(*KIND))
        loop.lead()
        for kind, count in {KIND: 2, BUDGETS: 1}.items():
            while [each.get("status") for each in await cluster.list(*kind)] != [{"phase": "Training"}] * count:
                await asyncio.sleep(0.01)


async def test_what_was_decided_before_it_led_is_decided_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "REHEARSE_SECONDS", 0.0)
    decided: list[str] = []
    goes_on = asyncio.Event()

    async def decide(_obj: Object) -> Plan:
        decided.append("rehearsed" if not decided else "decided")
        phase = decided[-1]
        await goes_on.wait()
        return Plan(status={"phase": phase})

    async with standing_by(tmp_path, decide) as (cluster, loop):
        await cluster.create(job())
        await until(lambda: decided)
        loop.lead()
        goes_on.set()
        while (found := (await cluster.get(KEY)).get("status")) is None:
            await asyncio.sleep(0.01)
    assert found == {"phase": "decided"}


async def test_news_is_rehearsed_half_a_minute_later_and_handled_at_once_by_who_leads(tmp_path: Path) -> None:
    now, decided = 0.0, list[str]()

    async def decide(obj: Object) -> Plan:
        decided.append(f"{obj['metadata']['name']} at {now:.0f} s")
        return Plan()

    async with standing_by(tmp_path, decide, lambda: now) as (cluster, loop):
        for name, at in (("a", 0.0), ("b", 29.0), ("c", 30.0), ("d", 59.0)):
            now = at
            await cluster.create(job(name))
            await asyncio.sleep(0.05)
        loop.lead()
        await until(lambda: "d at 59 s" in decided)
    assert decided[:2] == ["a at 30 s", "b at 59 s"]


async def test_a_rehearsal_that_breaks_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "REHEARSE_SECONDS", 0.0)
    errors = [RuntimeError("a defect"), InvalidInput("is empty")]
    seen: list[str] = []

    async def decide(obj: Object) -> Plan:
        seen.append(obj["metadata"]["name"])
        if errors:
            raise errors.pop()
        return Plan()

    async with standing_by(tmp_path, decide) as (cluster, _):
        for name in ("a", "b", "c"):
            await cluster.create(job(name))
            await until(lambda name=name: name in seen)
        assert await cluster.events(KEY) == ()
    assert seen == ["a", "b", "c"]


async def test_an_object_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    async def decide(_obj: Object) -> Plan:
        raise AssertionError("there is nothing to decide about")

    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        loop = Reconciler(cluster, EmbeddedLedgers(tmp_path), no_factory, {KIND: decide}, clock=time.monotonic)
        assert await loop.reconcile(KEY) is None
