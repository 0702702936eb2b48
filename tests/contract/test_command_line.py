"""`foedus` against a real API server: what it shows, what it changes, and what it says when it may not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.test_crds import budget as budget_document
from foedus.cluster import fetch
from foedus.cluster.session import Change, Session, open_session
from foedus.cluster.target import Target
from foedus.main import plugin
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import LedgerHead, head_to_sign
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Forbidden, Object
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_ledger.charge_log import log_path
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster
from foedus_operator.ledgers import KubeLedgers
from support.brain import manifest
from support.calling import foedus
from support.kubernetes import api_server, install_crds, kubeconfig, make_namespace
from support.one_line import check_one_line
from support.silo_ledgers import file_ledger, written_log

pytestmark = pytest.mark.e2e
NAMESPACE = f"foedus-client-{uuid.uuid4().hex[:8]}"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
MECHANISM = Mechanism(noise_multiplier=17.2, gap_epsilon=1e-9, gap_delta=1e-30)
NO_DIGEST = "sha256:" + "0" * 64
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
Capture = pytest.CaptureFixture[str]


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    moment = "2026-03-01T12:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


STATUSES: dict[str, dict[str, Any]] = {
    "new": {},
    "running": {"phase": "Training", "round": 1, "rounds": 3, "clients": "4/4", "epsilonSpent": 0.3, "epsilonLimit": 1},
    "failed": {
        "phase": "Failed",
        "conditions": [condition("Failed", "True", "QuorumLost", "2 of 4 silos failed and 3 are needed")],
    },
    "done": {
        "phase": "Complete",
        "round": 3,
        "rounds": 3,
        "clients": "4/4",
        "epsilonSpent": 0.9,
        "epsilonLimit": 1,
        "conditions": [
            condition("Complete", "True", "AllRounds", "3 rounds in 3 attempts"),
            condition("Ready", "True", "Finished", "3 rounds in 3 attempts"),
        ],
        "result": {"outcome": "Complete", "accuracy": 0.75, "rounds": 3, "attempts": 3, "adapterDigest": NO_DIGEST},
    },
}


@pytest.fixture(scope="module")
def place() -> tuple[str, ...]:
    """Make a namespace with jobs in every state; return the options that lead there."""
    asyncio.run(fill())
    return ("--kubeconfig", str(kubeconfig()), "--namespace", NAMESPACE)


async def fill() -> None:
    async with api_server() as server:
        await install_crds(server)
        await make_namespace(server, NAMESPACE, RESTRICTED)
        cluster = KubeCluster(server, KeyFeed())
        for name, status in STATUSES.items():
            document = {**manifest(), "metadata": {"name": name, "namespace": NAMESPACE}}
            await set_status(cluster, await cluster.create(document), status)
    await asyncio.sleep(0.1)


async def set_status(cluster: KubeCluster, obj: Object, status: dict[str, Any]) -> None:
    await cluster.update_status({**obj, "status": status})


def test_jobs_are_listed_as_they_stand(place: tuple[str, ...], capsys: Capture) -> None:
    assert foedus("get", "jobs", *place) == ExitCode.OK
    rows = [line.split()[:-1] for line in capsys.readouterr().out.splitlines()]  # without the age
    assert rows == [
        ["NAME", "PHASE", "ROUND", "SILOS", "ε-SPENT", "ε-LIMIT", "ACCURACY", "READY"],
        ["done", "Complete", "3/3", "4/4", "0.9000", "1", "0.7500", "True"],
        ["failed", "Failed", "0/3", "0/4", "-", "-", "-", "-"],
        ["new", "Pending", "0/3", "0/4", "-", "-", "-", "-"],
        ["running", "Training", "1/3", "4/4", "0.3000", "1", "-", "-"],
    ]
    assert foedus("get", "ftj", "-o", "json", *place) == ExitCode.OK
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in objects] == [
        ("FederatedTrainingJob", name) for name in sorted(STATUSES)
    ]
    assert foedus("get", "-A", *place[:2]) == ExitCode.OK
    assert f"{NAMESPACE}   done" in capsys.readouterr().out


def test_of_one_job_its_conditions_are_shown(place: tuple[str, ...], capsys: Capture) -> None:
    assert foedus("get", "job", "failed", *place) == ExitCode.OK
    assert "Failed      True     QuorumLost   2 of 4 silos failed and 3 are needed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["get", "job", "none"], 10, f"FederatedTrainingJob {NAMESPACE}/none: does not exist; `foedus get jobs -n "),
        (["get", "budget", "none"], 10, f"PrivacyBudget {NAMESPACE}/none: does not exist; `foedus get budgets"),
        (["budget", "show", "none"], 10, f"PrivacyBudget {NAMESPACE}/none: does not exist"),
        (["budget", "reconcile", "none", "--log", __file__], 10, f"PrivacyBudget {NAMESPACE}/none: does not exist"),
        (["logs", "none"], 10, f"FederatedTrainingJob {NAMESPACE}/none: does not exist"),
        (["logs", "new"], 40, "no process of it has left a log here; `foedus get job new"),
        (["logs", "new", "--silo", "other"], 10, "the job has no silo other; it has silo-1, silo-2, silo-3, silo-4"),
        (["adapter", "download", "new", "--out", "OUT"], 40, "the job is not finished: it is Pending, round 0 of ?; w"),
        (["adapter", "download", "running", "--out", "OUT"], 40, "it is Training, round 1 of 3; wait with: kubectl"),
        (["adapter", "download", "failed", "--out", "OUT"], 30, "it has no adapter: QuorumLost: 2 of 4 silos failed"),
        (["adapter", "download", "done", "--out", "OUT"], 10, "no Job is left that would name an image; name the"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path, arguments: list[str], code: int, line: str
) -> None:
    out = tmp_path / "out"
    assert foedus(*[str(out) if word == "OUT" else word for word in arguments], *place) == code
    assert check_one_line(capsys, "error: ", line) == ""
    assert not out.exists()


def test_a_pod_that_no_node_takes_is_given_up_and_deleted(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace enforces the restricted profile, so the API server has judged the pod."""
    monkeypatch.setattr(fetch, "START_SECONDS", 3.0)
    out = tmp_path / "out"
    assert foedus("adapter", "download", "done", "--image", "foedus.test/none", "--out", str(out), *place) == 40
    said = check_one_line(capsys, "error: done-reader-", "the pod that reads the volume does not start")
    assert said.startswith("waiting for the pod done-reader-")
    assert not out.exists()
    assert asyncio.run(pods()) in ([], ["deleted"])


async def pods() -> list[str]:
    async with api_server() as server:
        found = await KubeCluster(server, KeyFeed()).list("v1", "Pod", NAMESPACE)
    await asyncio.sleep(0.1)
    return ["deleted" if "deletionTimestamp" in pod["metadata"] else pod["metadata"]["name"] for pod in found]


async def test_a_watch_tells_what_there_is_and_then_each_change(place: tuple[str, ...]) -> None:
    async with api_server() as server:
        cluster = KubeCluster(server, KeyFeed())
        session = Session(server, "https://cluster", NAMESPACE)
        changes = session.watch("foedus.dev/v1alpha1", "FederatedTrainingJob", "watched")
        name = {"name": "watched", "namespace": NAMESPACE}
        created = await cluster.create({**manifest(), "metadata": name})
        seen = [await anext(changes)]
        await set_status(cluster, created, STATUSES["running"])
        seen.append(await anext(changes))
        await cluster.delete(ObjectKey("foedus.dev/v1alpha1", "FederatedTrainingJob", NAMESPACE, "watched"))
        seen.append(await anext(changes))
        await changes.aclose()
    await asyncio.sleep(0.1)
    assert [(change.kind, phase(change)) for change in seen] == [
        ("ADDED", None),
        ("MODIFIED", "Training"),
        ("DELETED", "Training"),
    ]


def phase(change: Change) -> str | None:
    found: str | None = (change.object.get("status") or {}).get("phase")
    return found


def test_a_watch_prints_until_it_is_interrupted(place: tuple[str, ...]) -> None:
    program = "from foedus.main import main; main()"
    command = [sys.executable, "-u", "-c", program, "get", "jobs", "done", "--watch", "-o", "json", *place]
    environ = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.terminate()
        _, err = process.communicate()
    assert (first["event"], first["object"]["metadata"]["name"]) == ("Added", "done")
    assert (process.returncode, err) == (130, "error: interrupted\n")


# Who may not, and what is not reached


async def _account(server: ApiServer, name: str, rules: list[dict[str, Any]]) -> str:
    """Make a ServiceAccount with these rights in the namespace, and return a token of it."""
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    meta = {"name": name, "namespace": NAMESPACE}
    await server.request("POST", accounts, body={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}
    await server.request("POST", f"{RBAC}/{NAMESPACE}/roles", body=role)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", **meta}],
    }
    await server.request("POST", f"{RBAC}/{NAMESPACE}/rolebindings", body=binding)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await server.request("POST", f"{accounts}/{name}/token", body=asked)
    return str(answer["status"]["token"])


def token_of(name: str, *rules: dict[str, Any]) -> str:
    async def make() -> str:
        async with api_server() as server:
            token = await _account(server, name, list(rules))
        await asyncio.sleep(0.1)
        return token

    return asyncio.run(make())


def as_user(path: Path, token: str, **cluster: str) -> str:
    """Write a kubeconfig of the same cluster with this token alone, and return its name."""
    document = yaml.safe_load(kubeconfig().read_text("utf-8"))
    for each in document["clusters"]:
        each["cluster"].update(cluster)
    document["users"] = [{"name": user["name"], "user": {"token": token}} for user in document["users"]]
    path.write_text(yaml.safe_dump(document), "utf-8")
    return str(path)


def test_who_may_not_is_told_what_is_missing(place: tuple[str, ...], capsys: Capture, tmp_path: Path) -> None:
    name = as_user(tmp_path / "config", token_of("nobody"))
    options = ("--kubeconfig", name, "-n", NAMESPACE)
    assert foedus("get", "jobs", *options) == ExitCode.UNAVAILABLE
    check_one_line(capsys, 'cannot list resource "federatedtrainingjobs"', f'in the namespace "{NAMESPACE}"')
    assert foedus("budget", "list", *options) == ExitCode.UNAVAILABLE
    check_one_line(capsys, 'cannot list resource "privacybudgets"')
    viewer = {"apiGroups": ["foedus.dev"], "resources": ["federatedtrainingjobs"], "verbs": ["get"]}
    name = as_user(tmp_path / "config", token_of("viewer", viewer))
    assert foedus("logs", "running", *options) == ExitCode.UNAVAILABLE
    check_one_line(capsys, 'cannot list resource "pods"')
    download = ("adapter", "download", "done", "--out", str(tmp_path / "out"), *options)
    assert foedus(*download) == ExitCode.UNAVAILABLE
    check_one_line(capsys, 'cannot get resource "jobs"')
    jobs = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]}
    as_user(tmp_path / "config", token_of("reader", viewer, jobs))
    assert foedus(*download, "--image", "foedus.test/none") == ExitCode.UNAVAILABLE
    check_one_line(capsys, 'cannot create resource "pods"')


async def test_who_may_not_forward_a_port_is_told_so(place: tuple[str, ...], tmp_path: Path) -> None:
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "delete"]}
    token = await asyncio.to_thread(token_of, "no-ports", pods)
    target = Target(as_user(tmp_path / "config", token), None, NAMESPACE)
    async with open_session(target, {}) as session:
        with pytest.raises(Forbidden, match='cannot create resource "pods/portforward"') as caught:
            async with session.forward(ObjectKey("v1", "Pod", NAMESPACE, "any"), 8444):
                pass
    await asyncio.sleep(0.1)
    assert caught.value.code == ExitCode.UNAVAILABLE


def test_credentials_that_are_worth_nothing_are_told_from_missing_rights(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path
) -> None:
    name = as_user(tmp_path / "config", "not-a-token")
    assert foedus("get", "--kubeconfig", name) == ExitCode.UNAVAILABLE
    check_one_line(capsys, "the API server does not know who asks; log in to the cluster again")


@pytest.mark.parametrize(
    ("server", "said"),
    [("https://127.0.0.1:1", "ClientConnectorError"), ("https://foedus.invalid", "ClientConnectorDNSError")],
)
def test_a_server_that_is_not_reached_is_said(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path, server: str, said: str
) -> None:
    name = as_user(tmp_path / "config", "x", server=server)
    assert foedus("get", "--kubeconfig", name) == ExitCode.UNAVAILABLE
    check_one_line(capsys, f"error: {server}: the API server does not answer ({said})", "--context")


# Ledgers


def ledger_of(folder: Path, digest: str) -> SqliteLedger:
    spec = BudgetSpec(
        digest=digest, records=170, epsilon=1.0, delta=1e-5, owner="", labels=("no", "yes"), least_colluders=1
    )
    ledger = SqliteLedger(folder / "ledger.sqlite")
    ledger.create(spec)
    return ledger


async def _restored(name: str, releases: int) -> str:
    """Make a budget whose ledger holds so many releases of job-a, and return its data set."""
    async with api_server() as server:
        document = budget_document()
        del document["status"]
        cluster = KubeCluster(server, KeyFeed())
        await cluster.create({**document, "metadata": {"name": name, "namespace": NAMESPACE}})
        ledgers, key = KubeLedgers(server), BudgetKey(NAMESPACE, name)
        await ledgers.reserve(key, job_uid="job-a", mechanism=MECHANISM, count=5, claimant="team/a")
        for number in range(releases):
            await ledgers.charge(key, job_uid="job-a", attempt=number, noise_multiplier=17.2)
    await asyncio.sleep(0.1)
    return str(document["spec"]["dataset"]["digest"])


async def _keep_head(name: str, head: LedgerHead) -> None:
    async with api_server() as server:
        await KubeLedgers(server).keep_head(BudgetKey(NAMESPACE, name), head)
    await asyncio.sleep(0.1)


def test_a_restored_ledger_takes_over_what_its_silos_log_has(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path
) -> None:
    digest = asyncio.run(_restored("restored", releases=1))
    ledger = ledger_of(tmp_path, digest)
    ledger.reserve("job-a", MECHANISM, 5, "team/a")
    silo = file_ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.generate())
    silo.open()
    for number in range(3):
        silo.charge("job-a", number, noise_multiplier=17.2)
    log = str(log_path(tmp_path / "ledger.sqlite"))
    reconcile = ("budget", "reconcile", "restored", "--log", log, *place)
    assert foedus(*reconcile) == ExitCode.IDENTITY_REFUSED
    check_one_line(capsys, f"{log}: nothing tells whose log this is: the cluster keeps no log head of PrivacyBudget")
    asyncio.run(_keep_head("restored", silo.open()))
    forged = tmp_path / "forged.jsonl"
    forged.write_bytes(written_log(ledger.read(), Ed25519PrivateKey.generate()))
    assert foedus("budget", "reconcile", "restored", "--log", str(forged), *place) == ExitCode.BUDGET_REFUSED
    check_one_line(capsys, f"{forged}: the charge log cannot be trusted: it is signed with another key than when")
    assert foedus(*reconcile, "-o", "json") == ExitCode.OK
    done = json.loads(capsys.readouterr().out)
    assert done["imported"] == [{"job": "job-a", "claimant": "team/a", "before": 1, "charged": 3}]
    assert foedus(*reconcile) == ExitCode.OK
    assert capsys.readouterr().out == "budget restored: the log has nothing that the ledger lacks\n"
    assert foedus("budget", "restored", *place) == ExitCode.OK
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3] == ["JOB", "STATE", "CHARGED", "RESERVED", "σ", "CLAIMANT"]
    assert lines[4] == ["job-a", "Open", "3", "5", "17.200", "team/a"]
    assert foedus("budget", "list", "-o", "json", *place) == ExitCode.OK
    (row,) = [row for row in map(json.loads, capsys.readouterr().out.splitlines()) if row["name"] == "restored"]
    assert row["epsilonSpent"] == done["epsilonSpent"] > 0
    assert row["ready"] == {"status": "True", "reason": "Available", "message": ""}
    assert foedus("get", "budgets", *place, program=plugin) == ExitCode.OK
    assert "restored   " in capsys.readouterr().out
    assert foedus("budget", "show", "restored", *place, program=plugin) == ExitCode.OK
    capsys.readouterr()


def test_the_log_of_other_data_and_a_damaged_one_are_refused(
    place: tuple[str, ...], capsys: Capture, tmp_path: Path
) -> None:
    digest, key = asyncio.run(_restored("other", releases=0)), Ed25519PrivateKey.generate()
    end = "sha256:" + "e" * 64
    head = LedgerHead(dataset=digest, count=1, hash=end, signature=key.sign(head_to_sign(digest, 1, end)))
    asyncio.run(_keep_head("other", head))
    ledger = ledger_of(tmp_path, "sha256:" + "9" * 64)
    ledger.reserve("job-a", MECHANISM, 5, "team/a")
    silo = file_ledger(tmp_path / "ledger.sqlite", key)
    silo.open()
    silo.charge("job-a", 0, noise_multiplier=17.2)
    log = log_path(tmp_path / "ledger.sqlite")
    reconcile = ("budget", "reconcile", "other", "--log", str(log), *place)
    assert foedus(*reconcile) == ExitCode.BUDGET_REFUSED
    check_one_line(capsys, "it does not hold the end that was seen after 1 charges")
    log.write_bytes(log.read_bytes().replace(b'"charged":1', b'"charged":2'))
    assert foedus(*reconcile) == ExitCode.BUDGET_REFUSED
    check_one_line(capsys, "the charge log cannot be trusted")
