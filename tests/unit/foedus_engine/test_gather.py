"""What gather makes of the objects in a cluster."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.inspection import InspectedModel, Inspection
from foedus_contract.progress import IdentityReady, ProcessFailed, TrainingResult, TrainingStarted
from foedus_contract.wire import LedgerHead, head_to_sign
from foedus_engine.accounting import Accounting
from foedus_engine.api.parse import parse_stored
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.gather import gather_training
from foedus_engine.cluster.protocol import Conflict, NotFound
from foedus_engine.decide.observed import Calibrated, ChildView, LedgerFault, ModelView, ObjectMeta, Observed, PodsView
from foedus_engine.decide.plan import BudgetKey, ContentRequest, KeepHead, ObjectKey
from foedus_engine.pki import content_factory
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec
from foedus_ledger.sqlite import LedgerDamaged
from support.brain import MODEL, NOW, RECORDS, SILOS, UID, bert_modules, manifest

Reports = Mapping[str, tuple[Any, ...]]
DONE = {
    "type": "Complete",
    "status": "True",
    "reason": "AllRounds",
    "message": "",
    "lastTransitionTime": "2026-03-01T12:00:00Z",
}


class FakeCluster:
    """Objects and reports, read-only; a method that gather must not call does not exist."""

    def __init__(self, objects: list[dict[str, Any]], reports: Reports, result: Any = None) -> None:
        self.objects = objects
        self.reports = reports
        self.result = result

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], ...]:
        wanted = dict(labels or {}).items()
        return tuple(o for o in self.objects if o["kind"] == kind and wanted <= o["metadata"]["labels"].items())

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        for found in self.objects:
            if (found["kind"], found["metadata"]["name"]) == (key.kind, key.name):
                return found
        raise NotFound("not there", where=str(key))

    async def pods(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, PodsView]:
        result = b"" if self.result is None else self.result.to_json()
        return {
            name: PodsView(
                self.reports.get(name, ()),
                result if name in ("demo-coordinator", "demo-inspector") else b"",
                live=None if name == "demo-silo-2" else {"metadata": {"name": f"{name}-pod"}},
            )
            for name in (job["metadata"]["name"] for job in jobs)
        }


class FakeLedgers:
    """Budgets of all silos but the missing one; `account` is this job's in each, `other` another job's."""

    def __init__(
        self,
        missing: str = "",
        account: Account | None = None,
        other: Account | None = None,
        fault: FoedusError | None = None,
    ) -> None:
        self.missing = missing
        self.accounts = {uid: held for uid, held in ((UID, account), ("uid-other", other)) if held is not None}
        self.fault = fault

    async def read(self, key: BudgetKey) -> BudgetRecord | None:
        silo = key.name.removeprefix("budget-")
        if silo == self.missing:
            return None
        if self.fault is not None and silo == "silo-3":
            raise self.fault
        digest = "sha256:" + f"{SILOS.index(silo) + 1:02x}" * 32
        spec = BudgetSpec(digest=digest, records=RECORDS, epsilon=1.0, delta=1e-5)
        return BudgetRecord(spec=spec, accounts=self.accounts)


def child(name: str, kind: str = "Job", uid: str = UID, labelled: bool = True, **status: Any) -> dict[str, Any]:
    labels = {"foedus.dev/job": "demo"} if labelled else {}
    owner = {"uid": uid, "controller": True}
    metadata = {"name": name, "uid": f"uid-{name}", "labels": labels, "ownerReferences": [owner]}
    return {"kind": kind, "metadata": metadata, "status": status}


async def gather(
    *objects: dict[str, Any],
    reports: Reports | None = None,
    ledgers: FakeLedgers | None = None,
    result: TrainingResult | Inspection | None = None,
    status: dict[str, Any] | None = None,
    reader: Any = lambda _: MODEL,
) -> Observed:
    document = manifest() | ({"status": status} if status else {})
    job, meta = parse_stored(FederatedTrainingJob, document), ObjectMeta.from_document(document)
    cluster: Any = FakeCluster(list(objects), reports or {}, result)
    source: Any = ledgers or FakeLedgers()
    return await gather_training(cluster, source, Accounting(reader), job, meta)


async def test_an_untouched_job_has_budgets_a_model_and_a_calibration() -> None:
    observed = await gather()

    assert list(observed.budgets) == list(SILOS)
    assert observed.model == MODEL
    assert isinstance(observed.calibration, Calibrated)
    assert (observed.children, observed.foreign, observed.progress, observed.result) == ({}, (), (), None)
    assert observed.meta.uid == UID


async def test_silos_pods_are_those_that_live() -> None:
    observed = await gather(*(child(f"demo-{role}") for role in ("coordinator", *SILOS)))

    pods = [pod["metadata"]["name"] for pod in observed.silo_pods]
    assert pods == ["demo-silo-1-pod", "demo-silo-3-pod", "demo-silo-4-pod"]


async def test_without_a_budget_nothing_is_calibrated() -> None:
    observed = await gather(ledgers=FakeLedgers(missing="silo-2"))

    assert observed.budgets["silo-2"] is None
    assert observed.calibration is None


async def test_the_jobs_own_account_is_seen() -> None:
    own = Account(mechanism=Mechanism(noise_multiplier=30.0), reserved=4, charged=1, last_attempt=0, claimant="x")
    observed = await gather(ledgers=FakeLedgers(account=own))
    budget = observed.budgets["silo-1"]

    assert budget is not None
    assert budget.account is not None
    assert (budget.account.reserved, budget.account.charged, budget.account.state) == (4, 1, "Open")


@pytest.mark.parametrize(("state", "holders"), [("Open", ("default/earlier",)), ("Closed", ())])
async def test_who_else_holds_a_part_of_a_budget_is_seen(state: Literal["Open", "Closed"], holders: tuple[str]) -> None:
    mechanism = Mechanism(noise_multiplier=300.0)
    other = Account(mechanism=mechanism, reserved=4, claimant="default/earlier", state=state)
    budget = (await gather(ledgers=FakeLedgers(other=other))).budgets["silo-2"]

    assert budget is not None
    assert budget.holders == holders


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (LedgerDamaged("cannot be trusted", where="ledger.sqlite"), "Damaged"),
        (LedgerBehind("is an old copy", where="ledger.sqlite"), "Behind"),
        (Unavailable("does not answer", where="ledger.sqlite"), "Unavailable"),
    ],
)
@pytest.mark.parametrize("over", [False, True])
async def test_a_ledger_that_cannot_be_used_is_news_of_the_job(fault: FoedusError, reason: Any, over: bool) -> None:
    observed = await gather(ledgers=FakeLedgers(fault=fault), status={"conditions": [DONE]} if over else None)

    message = f"silo silo-3: PrivacyBudget team-a/budget-silo-3: {fault}"
    assert observed.ledger_faults == {"silo-3": LedgerFault(message, reason)}
    assert observed.budgets["silo-3"] is None
    assert observed.budgets["silo-4"] is not None
    assert observed.calibration is None


KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


@pytest.mark.parametrize(
    ("charged", "count", "key", "reason"),
    [(2, 2, KEY, None), (3, 2, KEY, None), (2, 3, KEY, "Behind"), (2, 3, OTHER_KEY, None)],
)
async def test_a_ledger_behind_the_head_that_its_silo_signed_is_news_of_the_job(
    charged: int, count: int, key: Ed25519PrivateKey, reason: str | None
) -> None:
    data, end = "sha256:" + "01" * 32, "sha256:" + "ee" * 32
    head = LedgerHead(dataset=data, count=count, hash=end, signature=key.sign(head_to_sign(data, count, end)))
    started = TrainingStarted(at=0.0, joined=SILOS, trainable_parameters=1, kappa=0.1, heads={"silo-1": head})
    identity = IdentityReady(silo="silo-1", public_key=KEY.public_key().public_bytes_raw())
    own = Account(
        mechanism=Mechanism(noise_multiplier=30.0), reserved=4, charged=charged, last_attempt=charged, claimant="x"
    )
    observed = await gather(
        child("demo-coordinator"),
        child("demo-silo-1"),
        reports={"demo-coordinator": (started,), "demo-silo-1": (identity,)},
        ledgers=FakeLedgers(account=own),
    )
    assert {silo: fault.reason for silo, fault in observed.ledger_faults.items()} == (
        {"silo-1": reason} if reason else {}
    )
    assert (observed.budgets["silo-1"] is None) is (reason is not None)
    kept = KeepHead(BudgetKey("team-a", "budget-silo-1"), head)
    assert [fault.keep for fault in observed.ledger_faults.values()] == ([kept] if reason else [])


async def test_a_fault_of_the_cluster_ends_the_pass() -> None:
    with pytest.raises(Conflict):
        await gather(ledgers=FakeLedgers(fault=Conflict("changed")))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, ChildView("uid-demo-silo-1")),
        ({"active": 1}, ChildView("uid-demo-silo-1", active=1)),
        (
            {"failed": 2, "conditions": [{"type": "Failed", "status": "True", "message": "exit 11"}]},
            ChildView("uid-demo-silo-1", failed=2, finished="Failed", message="exit 11"),
        ),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, ChildView("uid-demo-silo-1")),
        (
            {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]},
            ChildView("uid-demo-silo-1", succeeded=1, finished="Complete"),
        ),
    ],
)
async def test_a_job_is_seen_as_it_is(status: dict[str, Any], expected: ChildView) -> None:
    observed = await gather(child("demo-silo-1", **status))

    assert observed.children == {("Job", "demo-silo-1"): expected}


@pytest.mark.parametrize(("labelled", "foreign"), [(True, ["Secret team-a/demo-ca"]), (False, [])])
async def test_what_somebody_else_owns_is_no_child(labelled: bool, foreign: list[str]) -> None:
    observed = await gather(child("demo-ca", "Secret", uid="somebody", labelled=labelled))

    assert observed.children == {}
    assert [str(key) for key in observed.foreign] == foreign


async def test_a_certificate_says_until_when_it_is_valid() -> None:
    root = ContentRequest("Authority", "root", valid_seconds=60)
    made = content_factory(lambda: NOW, os.urandom)(root, None)
    data = {name: base64.b64encode(value).decode() for name, value in made.items()}
    observed = await gather(child("demo-ca", "Secret") | {"data": data}, child("demo-silo-1-tls", "Secret"))

    ends = {name: child.valid_until for (_, name), child in observed.children.items()}
    assert ends == {"demo-ca": NOW + timedelta(seconds=60), "demo-silo-1-tls": None}


async def test_reports_are_read_only_from_our_own_jobs() -> None:
    reports = {"demo-silo-1": (IdentityReady(silo="silo-1", public_key=b"1" * 32),)}
    observed = await gather(child("demo-silo-1", uid="an-earlier-job"), reports=reports)

    assert observed.identities == {}


async def test_a_silo_speaks_for_itself_only() -> None:
    reports = {
        "demo-silo-1": (IdentityReady(silo="silo-1", public_key=b"1" * 32),),
        "demo-silo-2": (
            IdentityReady(silo="silo-1", public_key=b"2" * 32),
            ProcessFailed(code=11, message="wrong data"),
        ),
    }
    observed = await gather(child("demo-silo-1"), child("demo-silo-2"), reports=reports)

    assert observed.identities == {"silo-1": b"1" * 32}
    assert observed.failures["silo-2"].message == "wrong data"


async def test_the_coordinators_result_is_read_once_its_job_is_there() -> None:
    result = TrainingResult(outcome="Complete")

    assert (await gather(result=result)).result is None
    assert (await gather(child("demo-coordinator"), result=result)).result == result


FOUND = InspectedModel(digest=MODEL.digest, hidden_size=32, layers=2, positions=64, modules=bert_modules(32, 64))
STORED = {
    "digest": MODEL.digest,
    "hiddenSize": 32,
    "layers": 2,
    "positions": 64,
    "modules": [
        {"name": name, "inputs": inputs, "outputs": outputs} for name, (inputs, outputs) in bert_modules(32, 64).items()
    ],
}
GONE = child("demo-inspector", conditions=[{"type": "Failed", "status": "True", "message": "no pod came up"}])


@pytest.mark.parametrize(
    ("objects", "result", "status", "model"),
    [
        ((), None, None, None),
        ((child("demo-inspector"),), None, None, None),
        ((child("demo-inspector"),), Inspection(model=FOUND), None, MODEL),
        ((child("demo-inspector"),), Inspection(problem="no config.json"), None, ModelView(problem="no config.json")),
        ((child("demo-inspector", uid="an-earlier-job"),), Inspection(model=FOUND), None, None),
        ((), None, {"model": STORED}, MODEL),
        (
            (GONE,),
            None,
            None,
            ModelView(problem="spec.model.source: the process that looks at the base model failed: no pod came up"),
        ),
    ],
)
async def test_without_a_reader_a_pod_has_looked_at_the_model_or_the_status_knows_it(
    objects: tuple[dict[str, Any], ...], result: Any, status: Any, model: ModelView | None
) -> None:
    observed = await gather(*objects, result=result, status=status, reader=None)

    assert observed.model == model
    assert (observed.calibration is not None) is (model is not None and not model.problem)


@pytest.mark.parametrize("text", [b"no json", b'{"outcome":"Great"}', b'{"outcome":"Compl'])
async def test_a_result_that_is_none_is_not_believed(text: bytes) -> None:
    class Said:
        def to_json(self) -> bytes:
            return text

    objects = (child("demo-coordinator"), child("demo-inspector"))
    said: Any = Said()
    observed = await gather(*objects, result=said, reader=None)

    assert (observed.result, observed.model) == (None, None)


async def test_a_job_that_is_over_is_not_calibrated_again() -> None:
    observed = await gather(child("demo-silo-1"), status={"conditions": [DONE]})

    assert (observed.model, observed.calibration) == (None, None)
    assert ("Job", "demo-silo-1") in observed.children
