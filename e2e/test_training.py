"""Whole trainings on nodes, from `kubectl apply` to the adapter; what dies in between costs at most its attempts."""

import json

import peft
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from e2e.cluster.kubectl import wait_for
from e2e.command_line import foedus
from e2e.release import NAMESPACE, installed
from e2e.trainings import JOB_SECONDS, Trainings, budget
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers so
def test_a_job_trains_on_three_nodes_as_foedus_run_does_on_one_machine(trainings, small, tmp_path):
    submit(trainings, small, "whole")
    condition = ("wait", "federatedtrainingjob/whole", "--for=condition=Complete", f"--timeout={JOB_SECONDS}s")
    trainings.kubectl("-n", trainings.namespace, *condition, seconds=JOB_SECONDS + 30)
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
        "BudgetAvailable": ("False", "Released"),
        "Suspended": ("False", "NotSuspended"),
        "QuorumReached": ("True", "SilosJoined"),
        "Ready": ("True", "Finished"),
        "Complete": ("True", "AllRounds"),
    }
    assert_loads(trainings, small, tmp_path / "result")


def assert_loads(trainings, small, folder):
    """The adapter is fetched as a user does it, loads with plain peft, and gives other scores than without it."""
    done = foedus(trainings.kubectl, trainings.namespace, "adapter", "download", "whole", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    base = small.root / "volumes/base/model"
    model = BertForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    batch = AutoTokenizer.from_pretrained(base)(["a new phone"], return_tensors="pt")
    with torch.no_grad():
        scores = adapted(**batch).logits
        with adapted.disable_adapter():
            assert not torch.equal(scores, adapted(**batch).logits)


def closed(trainings, name, uid):
    return {account["state"] for account in accounts_of(trainings, name, uid).values()} == {"Closed"}


def test_a_job_ends_right_though_pods_are_killed_in_its_middle(trainings, small, release, tmp_path):
    submit(trainings, small, "killed", rounds=LONG, spare=4)
    victims = (
        lambda: (trainings.namespace, latest_pod(trainings, "killed", SILOS[1])),
        lambda: (trainings.namespace, latest_pod(trainings, "killed", "coordinator")),
        lambda: (NAMESPACE, release.leader()),
    )
    for find_victim in victims:
        before = trainings.round("killed")
        wait_for("rounds go on", lambda: trainings.round("killed") > before)  # noqa: B023
        kill(trainings, *find_victim())
    status = trainings.ended("killed")
    assert (status["phase"], status["round"]) == ("Complete", LONG), status["message"]
    uid = uid_of(trainings, "killed")
    wait_for("the accounts are closed", lambda: closed(trainings, "killed", uid))
    assert_ledgers_hold(trainings, "killed", uid, tmp_path)


def latest_pod(trainings, job, role):
    return trainings.pods(job, role)[-1]["metadata"]["name"]


def kill(trainings, namespace, pod):
    """Delete a pod; its processes get SIGKILL after a second."""
    trainings.kubectl("-n", namespace, "delete", "pod", pod, "--now", "--wait=false")


def assert_ledgers_hold(trainings, name, uid, folder):
    """Of each silo, by its own journal: what it uploaded was charged, and what was charged it had begun to release."""
    for silo, account in accounts_of(trainings, name, uid).items():
        stages = journal(trainings, f"{name}-{silo}-state", folder / silo)
        uploaded, begun = stages.count("Uploaded"), stages.count("Charging")
        assert 0 < uploaded <= account["charged"] <= begun <= account["reserved"], silo


def journal(trainings, claim, folder):
    trainings.download(claim, folder)
    (file,) = folder.glob("journal-*.jsonl")
    return [json.loads(line)["stage"] for line in file.read_text("utf-8").splitlines()]


def test_a_deleted_job_leaves_what_it_has_charged_and_another_of_its_name_trains(trainings, small):
    submit(trainings, small, "again", rounds=LONG, epsilon=4)
    first = uid_of(trainings, "again")
    wait_for("a round", lambda: trainings.round("again") > 0)
    trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "again")
    submit(trainings, small, "again", epsilon=4)
    second = uid_of(trainings, "again")
    assert trainings.ended("again")["phase"] == "Complete"
    for uid in (first, second):
        wait_for("the accounts are closed", lambda: closed(trainings, "again", uid))  # noqa: B023
    assert all(0 < account["charged"] < LONG for account in accounts_of(trainings, "again", first).values())
    assert {account["charged"] for account in accounts_of(trainings, "again", second).values()} == {2}
    trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "again")
    wait_for("its pods go", lambda: not trainings.get("pods", "-l", "foedus.dev/job=again")["items"])
    claims = {claim["metadata"]["name"] for claim in trainings.get("persistentvolumeclaims")["items"]}
    assert {claim for claim in claims if claim.startswith("again-")} == {f"again-{silo}-ledger" for silo in SILOS}
