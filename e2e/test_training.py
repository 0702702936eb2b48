"""Whole trainings on nodes, from `kubectl apply` to the adapter; what dies in between costs at most its attempts."""

import json

import peft
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from e2e.cluster.kubectl import wait_for
from e2e.release import NAMESPACE, installed
from e2e.trainings import Trainings, budget
from foedus_workloads.training.data import read_records
from support.small_job import LABELS, SILOS, build_small_job

pytestmark = pytest.mark.e2e

LONG = 20  # rounds: seconds enough for a kill in the middle


@pytest.fixture(scope="module")
def release(target):
    with installed(target, trains=True) as found:
        yield found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build_small_job(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def trainings(target, release, small):
    made = Trainings(target.kubectl, release.make_namespace(), target.image("busybox"))
    made.fill(small.root / "volumes")
    for name in ("foedus-operator", "foedus-ledger"):
        release.rolled_out(name)
    yield made
    made.clear()


def submit(trainings, small, name, *, epsilon=1, **fields):
    """Apply a job with budgets of its own, as a user does."""
    document = small.manifest(name, **fields)
    for client in document["spec"]["clients"]:
        silo = client["name"]
        data = read_records(small.root / "volumes" / silo / "train.jsonl")
        client["budgetRef"]["name"] = f"{name}-{silo}"
        trainings.apply(budget(f"{name}-{silo}", data.digest, data.count, LABELS, epsilon))
    trainings.apply(document)
    return document


def accounts_of(trainings, name, uid):
    return {silo: trainings.accounts()[f"{name}-{silo}"][uid] for silo in SILOS}


def uid_of(trainings, name):
    return trainings.get("federatedtrainingjob", name)["metadata"]["uid"]


def conditions(status):
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_a_job_trains_on_three_nodes_as_foedus_run_does_on_one_machine(trainings, small, tmp_path):
    submit(trainings, small, "whole")
    condition = ("wait", "federatedtrainingjob/whole", "--for=condition=Complete", "--timeout=300s")
    trainings.kubectl("-n", trainings.namespace, *condition, seconds=330)
    status = trainings.status("whole")
    nodes = {pod["spec"]["nodeName"] for silo in SILOS for pod in trainings.pods("whole", silo)}
    assert len(nodes) == 3

    assert small.start(small.run(name="whole")).wait() == 0
    plan = json.loads((small.root / "out/report.json").read_text("utf-8"))["plan"]["privacy"]
    here = {key: status["plan"][key] for key in ("epsilonPld", "epsilonRdp", "noiseMultiplier", "threshold")}
    assert here == {key: plan[key] for key in here}
    uid = uid_of(trainings, "whole")
    wait_for("the accounts are closed", lambda: closed(trainings, "whole", uid))
    (there,) = small.ledger().read().accounts.values()
    expected = {**there.model_dump(mode="json", by_alias=True), "claimant": f"{trainings.namespace}/whole"}
    assert accounts_of(trainings, "whole", uid) == dict.fromkeys(SILOS, expected)

    assert (status["phase"], status["round"], status["rounds"], status["clients"]) == ("Complete", 2, 2, "4/4")
    assert conditions(status) == {
        "Accepted": ("True", "Accepted"),
        "BudgetAvailable": ("True", "Released"),
        "QuorumReached": ("True", "SilosJoined"),
        "Ready": ("True", "Finished"),
        "Complete": ("True", "AllRounds"),
        "Failed": ("False", "InProgress"),
    }
    assert_loads(trainings, small, tmp_path)


def assert_loads(trainings, small, folder):
    """The adapter loads with plain peft, and gives other scores than without it."""
    trainings.download("whole-coordinator-output", folder)
    base = small.root / "volumes/base/model"
    model = BertForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    (adapter,) = {file.parent for file in folder.rglob("adapter_config.json")}
    adapted = peft.PeftModel.from_pretrained(model, adapter).eval()
    batch = AutoTokenizer.from_pretrained(base)(["a new phone"], return_tensors="pt")
    with torch.no_grad():
        scores = adapted(**batch).logits
        with adapted.disable_adapter():
            assert not torch.equal(scores, adapted(**batch).logits)


def closed(trainings, name, uid):
    return {account["state"] for account in accounts_of(trainings, name, uid).values()} == {"Closed"}


@pytest.mark.parametrize("victim", ["client", "coordinator", "leader"])
def test_a_job_ends_right_though_a_pod_is_killed_in_its_middle(trainings, small, release, victim):
    submit(trainings, small, victim, rounds=LONG, spare=4)
    wait_for("some rounds", lambda: trainings.rounds(victim) >= 3, pause=0.2)
    if victim == "leader":
        kill(trainings, NAMESPACE, release.leader())
    else:
        role = SILOS[1] if victim == "client" else "coordinator"
        kill(trainings, trainings.namespace, trainings.pods(victim, role)[-1]["metadata"]["name"])
    status = trainings.ended(victim)
    assert (status["phase"], status["round"]) == ("Complete", LONG), status["message"]
    uid = uid_of(trainings, victim)
    wait_for("the accounts are closed", lambda: closed(trainings, victim, uid))
    assert_ledgers_hold(trainings, victim, uid)


def kill(trainings, namespace, pod):
    """End a pod's processes at once, and its object."""
    trainings.kubectl("-n", namespace, "delete", "pod", pod, "--now", "--wait=false")


def assert_ledgers_hold(trainings, name, uid):
    """Every release has been charged before, and nothing beyond what was reserved."""
    released = dict.fromkeys(SILOS, 0)
    for pod in trainings.pods(name, "coordinator"):
        for event in trainings.events(pod["metadata"]["name"]):
            for silo in event.get("survivors", ()) if event.get("applied") else ():
                released[silo] += 1
    for silo, account in accounts_of(trainings, name, uid).items():
        assert released[silo] <= account["charged"] <= account["reserved"]


def test_a_job_that_is_deleted_leaves_nothing_but_what_it_has_charged(trainings, small):
    submit(trainings, small, "gone", rounds=LONG)
    uid = uid_of(trainings, "gone")
    wait_for("a round", lambda: trainings.rounds("gone") >= 1)
    trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "gone")
    wait_for("the accounts are closed", lambda: closed(trainings, "gone", uid))
    wait_for("its pods go", lambda: not trainings.get("pods", "-l", "foedus.dev/job=gone")["items"])
    assert all(account["charged"] >= 1 for account in accounts_of(trainings, "gone", uid).values())
    claims = {claim["metadata"]["name"] for claim in trainings.get("persistentvolumeclaims")["items"]}
    assert {claim for claim in claims if claim.startswith("gone-")} == {f"gone-{silo}-ledger" for silo in SILOS}


def test_two_jobs_of_one_name_train_one_after_the_other(trainings, small):
    uids = []
    for _ in range(2):
        submit(trainings, small, "again", epsilon=4)
        uids.append(uid_of(trainings, "again"))
        assert trainings.ended("again")["phase"] == "Complete"
        wait_for("the accounts are closed", lambda: closed(trainings, "again", uids[-1]))
        trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "again")
    charged = [{account["charged"] for account in accounts_of(trainings, "again", uid).values()} for uid in uids]
    assert charged == [{2}, {2}]
