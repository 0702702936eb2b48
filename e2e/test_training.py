"""Whole trainings on nodes, from `kubectl apply` to the adapter; what dies in between costs at most its attempts."""

import json

import peft
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from e2e.cluster.kubectl import wait_for
from e2e.command_line import foedus
from e2e.release import NAMESPACE, installed
from e2e.trainings import JOB_SECONDS, Trainings
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
    trainings.submit(small.manifest(name, **fields), small.root / "volumes", LABELS, epsilon=epsilon)


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
    uid = trainings.uid("whole")
    wait_for("the accounts are closed", lambda: trainings.closed("whole", uid, SILOS))
    (there,) = small.ledger().read().accounts.values()
    expected = {**there.model_dump(mode="json", by_alias=True), "claimant": f"{trainings.namespace}/whole"}
    assert trainings.accounts_of("whole", uid, SILOS) == dict.fromkeys(SILOS, expected)

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


def test_a_job_ends_right_though_pods_are_killed_in_its_middle(trainings, small, release, tmp_path):
    submit(trainings, small, "killed", rounds=LONG, spare=4)
    victims = (
        lambda: trainings.kill_latest("killed", SILOS[1]),
        lambda: trainings.kill_latest("killed", "coordinator"),
        lambda: trainings.kill(NAMESPACE, release.leader()),
    )
    for kill in victims:
        before = trainings.round("killed")
        wait_for("rounds go on", lambda: trainings.round("killed") > before)  # noqa: B023
        kill()
    status = trainings.ended("killed")
    assert (status["phase"], status["round"]) == ("Complete", LONG), status["message"]
    uid = trainings.uid("killed")
    wait_for("the accounts are closed", lambda: trainings.closed("killed", uid, SILOS))
    assert_ledgers_hold(trainings, "killed", uid, tmp_path)


def assert_ledgers_hold(trainings, name, uid, folder):
    """Of each silo, by its own journal: what it uploaded was charged, and what was charged it had begun to release."""
    for silo, account in trainings.accounts_of(name, uid, SILOS).items():
        stages = trainings.stages(name, silo, folder / silo)
        assert len(list((folder / silo).glob("journal-*.jsonl"))) == 1
        uploaded, begun = stages.count("Uploaded"), stages.count("Charging")
        assert 0 < uploaded <= account["charged"] <= begun <= account["reserved"], silo


def test_a_deleted_job_leaves_what_it_has_charged_and_another_of_its_name_trains(trainings, small):
    submit(trainings, small, "again", rounds=LONG, epsilon=4)
    first = trainings.uid("again")
    wait_for("a round", lambda: trainings.round("again") > 0)
    trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "again")
    submit(trainings, small, "again", epsilon=4)
    second = trainings.uid("again")
    assert trainings.ended("again")["phase"] == "Complete"
    for uid in (first, second):
        wait_for("the accounts are closed", lambda: trainings.closed("again", uid, SILOS))  # noqa: B023
    assert all(0 < account["charged"] < LONG for account in trainings.accounts_of("again", first, SILOS).values())
    assert {account["charged"] for account in trainings.accounts_of("again", second, SILOS).values()} == {2}
    trainings.kubectl("-n", trainings.namespace, "delete", "federatedtrainingjob", "again")
    wait_for("its pods go", lambda: not trainings.get("pods", "-l", "foedus.dev/job=again")["items"])
    claims = {claim["metadata"]["name"] for claim in trainings.get("persistentvolumeclaims")["items"]}
    assert {claim for claim in claims if claim.startswith("again-")} == {f"again-{silo}-ledger" for silo in SILOS}
