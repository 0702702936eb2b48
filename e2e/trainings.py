"""Training jobs on a cluster: silos' volumes on different nodes, budgets, and what the ledgers say afterwards."""

from __future__ import annotations

import base64
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.kubectl import PATIENCE, Kubectl, wait_for
from foedus_workloads.training.data import read_records

API_VERSION = "foedus.dev/v1alpha1"
ENDED = ("Complete", "Failed")
JOB_SECONDS = 900  # it only ends what would never end: five pods load a training framework, on a machine that is busy
# A folder of every node: a claim for the base model that pods on all nodes may mount.
SHARED = "/var/tmp/foedus-e2e"


@dataclass(frozen=True)
class Trainings:
    """A namespace in which jobs can train. `image` has a shell; the volumes are filled and read with it."""

    kubectl: Kubectl
    namespace: str
    image: str

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects, in the namespace."""
        placed = [{**one, "metadata": {**one["metadata"], "namespace": self.namespace}} for one in objects]
        self.kubectl.apply(yaml.safe_dump_all(placed))

    def get(self, kind: str, *name: str) -> dict[str, Any]:
        """Return an object of the namespace, or the list of all."""
        return self.kubectl.get("-n", self.namespace, kind, *name)

    def status(self, job: str) -> dict[str, Any]:
        """Return a job's status."""
        return dict(self.get("federatedtrainingjob", job).get("status", {}))

    def ended(self, job: str) -> dict[str, Any]:
        """Return a job's status once it has ended, however it did."""
        wait_for(f"the end of {job}", lambda: self.status(job).get("phase") in ENDED, JOB_SECONDS, pause=1)
        return self.status(job)

    def accounts(self) -> dict[str, dict[str, Any]]:
        """Return the accounts of every budget, by the job's UID."""
        budgets = self.get("privacybudgets")["items"]
        return {one["metadata"]["name"]: one.get("status", {}).get("accounts", {}) for one in budgets}

    def submit(self, document: dict[str, Any], volumes: Path, labels: Iterable[str], *, epsilon: float = 1.0) -> None:
        """Apply a job with budgets of its own for the silos' data in `volumes`, as a user does."""
        for client in document["spec"]["clients"]:
            silo = client["name"]
            data = read_records(volumes / silo / "train.jsonl")
            client["budgetRef"]["name"] = f"{document['metadata']['name']}-{silo}"
            self.apply(budget(client["budgetRef"]["name"], data.digest, data.count, labels, epsilon))
        self.apply(document)

    def uid(self, job: str) -> str:
        """Return a job's UID."""
        return str(self.get("federatedtrainingjob", job)["metadata"]["uid"])

    def accounts_of(self, job: str, uid: str, silos: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the account of each silo's own budget that a submitted job has; empty where it has none."""
        accounts = self.accounts()
        return {silo: accounts[f"{job}-{silo}"].get(uid, {}) for silo in silos}

    def closed(self, job: str, uid: str, silos: Iterable[str]) -> bool:
        """Return whether all of these accounts are closed."""
        return {account.get("state") for account in self.accounts_of(job, uid, silos).values()} == {"Closed"}

    def kill(self, namespace: str, pod: str) -> None:
        """Delete a pod; its processes get SIGKILL after a second."""
        self.kubectl("-n", namespace, "delete", "pod", pod, "--now", "--wait=false")

    def kill_latest(self, job: str, role: str) -> None:
        """Kill the latest pod of a role."""
        self.kill(self.namespace, self.pods(job, role)[-1]["metadata"]["name"])

    def stages(self, job: str, silo: str, folder: Path) -> list[str]:
        """Return the stages of a silo's own journal, which is brought into `folder`."""
        self.download(f"{job}-{silo}-state", folder)
        lines = [line for file in folder.glob("journal-*.jsonl") for line in file.read_text("utf-8").splitlines()]
        return [json.loads(line)["stage"] for line in lines]

    def pods(self, job: str, role: str) -> list[dict[str, Any]]:
        """Return the pods of a role, `coordinator` or a silo's name, oldest first."""
        found = self.get("pods", "-l", f"batch.kubernetes.io/job-name={job}-{role}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def events(self, pod: str) -> list[dict[str, Any]]:
        """Return what a pod's process has reported so far; nothing while its node does not answer."""
        done = self.kubectl.attempt("-n", self.namespace, "logs", pod)
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def round(self, job: str) -> int:
        """Return how many rounds the coordinator has finished, by its own report; it need not be in the status yet."""
        pods = self.pods(job, "coordinator")
        found = self.events(pods[-1]["metadata"]["name"]) if pods else []
        return max((event["round"] + 1 for event in found if event.get("applied")), default=0)

    @property
    def nodes(self) -> list[str]:
        """Return the names of all nodes."""
        return [str(node["metadata"]["name"]) for node in self.kubectl.get("nodes")["items"]]

    def fill(self, volumes: Path, nodes: Sequence[str] = ()) -> None:
        """Make a claim of each folder in `volumes`, on one node after the other; that of the base model is on all."""
        folders = sorted(folder for folder in volumes.iterdir() if folder.name != "base")
        self.apply(*(_claim(folder.name) for folder in folders))
        self._share(volumes / "base")

        def fill_one(folder: Path, node: str) -> None:
            source = {"persistentVolumeClaim": {"claimName": folder.name}}
            with self._holder(folder.name, source, node) as pod:
                self._write(pod, folder)

        self._each(fill_one, folders, itertools.cycle(nodes or self.nodes))

    def _share(self, folder: Path) -> None:
        """Put the base model on every node, and make the claim `base` of it."""
        place = f"{SHARED}/{self.namespace}"

        def share_one(node: str) -> None:
            source = {"hostPath": {"path": place, "type": "DirectoryOrCreate"}}
            with self._holder(f"base-{node}", source, node) as pod:
                self._write(pod, folder)

        self._each(share_one, self.nodes)
        self.kubectl.apply(yaml.safe_dump(_shared_volume(self.namespace, place)))
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": self.namespace}
        self.apply({**_claim("base"), "spec": {**_claim("base")["spec"], **spec}})

    def download(self, claim: str, folder: Path) -> None:
        """Write what lies in a claim into a folder of this machine."""
        with self._holder(f"reader-{claim}", {"persistentVolumeClaim": {"claimName": claim}}) as pod:
            packed = self.kubectl("-n", self.namespace, "exec", pod, "--", "sh", "-c", "tar -c -C /volume . | base64")
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
            archive.extractall(folder, filter="data")

    def clear(self) -> None:
        """End all jobs while an operator is there to let their pods go, and remove what is not in the namespace."""
        self.kubectl("-n", self.namespace, "delete", "federatedtrainingjobs", "--all")
        wait_for("the jobs' pods are gone", lambda: not self.get("pods", "-l", "foedus.dev/job")["items"])

        def clear_one(node: str) -> None:
            with self._holder(f"base-{node}", {"hostPath": {"path": SHARED}}, node) as pod:
                self.kubectl("-n", self.namespace, "exec", pod, "--", "rm", "-rf", f"/volume/{self.namespace}")

        self._each(clear_one, self.nodes)
        self.kubectl("delete", "persistentvolume", self.namespace, "--wait=false")

    @staticmethod
    def _each(work: Callable[..., None], *arguments: Iterable[Any]) -> None:
        """Do the work for each, at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(work, *arguments))

    def _write(self, pod: str, folder: Path) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, ".")
        unpack = ("sh", "-c", "base64 -d | tar -x -o -C /volume && chmod -R a+rX /volume")
        text = base64.b64encode(packed.getvalue()).decode("ascii")
        self.kubectl("-n", self.namespace, "exec", "-i", pod, "--", *unpack, stdin=text)

    @contextmanager
    def _holder(self, name: str, source: Mapping[str, Any], node: str = "") -> Iterator[str]:
        """Yield a pod that has a volume mounted at /volume. It is root: folders of a node are."""
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsUser": 0},
            "containers": [
                {
                    "name": "holder",
                    "image": self.image,
                    "command": ["sleep", "100000"],
                    "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
                }
            ],
            "volumes": [{"name": "volume", **source}],
        }
        # A selector and no nodeName: the scheduler binds the claim.
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        pod = f"holder-{name}"
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec})
        ready = ("wait", "--for=condition=Ready", f"pod/{pod}", f"--timeout={PATIENCE}s")
        self.kubectl("-n", self.namespace, *ready, seconds=2 * PATIENCE)
        yield pod
        self.kubectl("-n", self.namespace, "delete", "pod", pod, "--now")


def budget(name: str, file_digest: str, records: int, labels: Iterable[str], epsilon: float = 1.0) -> dict[str, Any]:
    """Return the manifest of a budget."""
    spec = {
        "dataset": {"digest": file_digest, "records": records},
        "epsilon": epsilon,
        "delta": 1e-4,
        "labels": list(labels),
    }
    return {"apiVersion": API_VERSION, "kind": "PrivacyBudget", "metadata": {"name": name}, "spec": spec}


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def _shared_volume(namespace: str, place: str) -> dict[str, Any]:
    """Return a volume of every node, for the claim `base` alone; it stays when that goes, and holds no data."""
    spec = {
        "capacity": {"storage": "10Mi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": place, "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": "base"},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": spec}
