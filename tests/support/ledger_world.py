"""The ledger service as a process beside a real API server, and pods of real Jobs that ask it.

The service runs as its own ServiceAccount with the rights that the chart grants and no others. No node is needed: a pod
that is Pending has a UID, an owner and tokens.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from chart.golden import role_rules
from contract.test_crds import budget as budget_document
from foedus_contract.ledger_wire import AUDIENCE
from foedus_contract.run_spec import LedgerService
from foedus_engine import names
from foedus_engine.api.parse import parse
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.build.identity import build_service_account
from foedus_engine.build.metadata import Owner
from foedus_engine.build.pods import Settings
from foedus_engine.build.roles import build_client_job, build_coordinator_job
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import AlreadyExists, Object
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster
from foedus_operator.ledgers import KubeLedgers
from foedus_workloads.transport.ledger_client import ClientSettings, LedgerClient
from support.brain import manifest
from support.certificates import Authority
from support.kubernetes import kubeconfig, make_namespace

SYSTEM = "foedus-system"
MECHANISM = Mechanism(noise_multiplier=100.0)
QUICK = ClientSettings(patience_seconds=0.0, pause_seconds=0.1)
RULES = role_rules("foedus-ledger")


async def make_identity(server: ApiServer, name: str, rules: list[dict[str, Any]], folder: Path) -> Path:
    """Make a ServiceAccount of the installation with `rules` everywhere; return a kubeconfig that speaks as it."""
    await make_namespace(server, SYSTEM)
    body = {"metadata": {"name": name, "namespace": SYSTEM}}
    with suppress(AlreadyExists):
        await server.request("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", body=body)
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    with suppress(AlreadyExists):
        await server.request("POST", f"{rbac}/clusterroles", body={"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    with suppress(AlreadyExists):
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        await server.request("POST", f"{rbac}/clusterrolebindings", body=binding)
    token = await make_token(server, SYSTEM, name, {"expirationSeconds": 6 * 3600})
    config = yaml.safe_load(kubeconfig().read_text("utf-8"))
    context = config["contexts"][0]["context"]
    config["users"] = [{"name": context["user"], "user": {"token": token}}]
    path = folder / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


async def make_token(server: ApiServer, namespace: str, account: str, spec: Mapping[str, Any]) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = await server.request("POST", path, body={"spec": dict(spec)})
    return str(answer["status"]["token"])


async def pod_token(server: ApiServer, pod: Object, audience: str = AUDIENCE) -> str:
    """Return a token of the pod, as the kubelet would mount it."""
    meta = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    spec = {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound}
    return await make_token(server, meta["namespace"], pod["spec"]["serviceAccountName"], spec)


@dataclass
class Service:
    """The running process: where it answers, and what it has logged."""

    address: LedgerService
    certificates: Authority
    process: asyncio.subprocess.Process
    log: list[bytes] = field(default_factory=list)

    def client(self, token: Path, *, ca: str = "") -> LedgerClient:
        address = self.address.model_copy(update={"ca": ca}) if ca else self.address
        return LedgerClient(address, token, QUICK)


@asynccontextmanager
async def ledger_service(identity: Path, folder: Path) -> AsyncIterator[Service]:
    """Run `python -m foedus_operator.ledger_service` meanwhile."""
    authority = Authority.create()
    files = authority.issue(folder / "service", x509.DNSName("localhost"))
    environ = {
        "KUBECONFIG": str(identity),
        "PATH": os.environ["PATH"],
        "FOEDUS_LEDGER_CERTIFICATE": str(files.certificate),
        "FOEDUS_LEDGER_KEY": str(files.key),
        "FOEDUS_LEDGER_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "foedus_operator.ledger_service", env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    log: list[bytes] = []
    while not (found := re.search(rb"serving on port (\d+)", log[-1] if log else b"")):
        log.append(await process.stderr.readline())
        assert log[-1], b"".join(log).decode()
    address = LedgerService(host="localhost", port=int(found[1]), ca=files.ca.read_text("ascii"), token="unused")

    async def listen(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            log.append(line)

    listener = asyncio.create_task(listen(process.stderr))
    try:
        yield Service(address, authority, process, log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await listener


@dataclass
class TrainingJob:
    """A training job with its budgets in a namespace of its own; its roles' Jobs are made when they are asked for."""

    server: ApiServer
    folder: Path
    namespace: str
    job: FederatedTrainingJob
    uid: str

    @classmethod
    async def create(
        cls, server: ApiServer, folder: Path, namespace: str = "", name: str = "demo", budgets: bool = True
    ) -> TrainingJob:
        namespace = namespace or f"foedus-asks-{uuid.uuid4().hex[:8]}"
        await make_namespace(server, namespace)
        cluster = KubeCluster(server, KeyFeed())
        document = manifest()
        document["metadata"] = {"name": name, "namespace": namespace}
        made = await cluster.create(document)
        world = cls(server, folder, namespace, parse(FederatedTrainingJob, document), made["metadata"]["uid"])
        for client in world.job.spec.clients if budgets else ():
            await world.make_budget(client.budget_ref.name)
        return world

    async def make_budget(self, name: str) -> None:
        document = budget_document()
        del document["status"]
        meta = {"name": name, "namespace": self.namespace}
        await KubeCluster(self.server, KeyFeed()).create({**document, "metadata": meta})

    def budget(self, silo: str = "silo-1") -> BudgetKey:
        return BudgetKey(self.namespace, f"budget-{silo}")

    async def reserve(self, silo: str = "silo-1", count: int = 20) -> None:
        ledgers = KubeLedgers(self.server)
        await ledgers.reserve(
            self.budget(silo), job_uid=self.uid, mechanism=MECHANISM, count=count, claimant=self.namespace
        )

    async def account(self, silo: str = "silo-1") -> Account:
        record = await KubeLedgers(self.server).read(self.budget(silo))
        assert record is not None
        return record.accounts[self.uid]

    async def start(self, role: str) -> Object:
        """Make the role's Job and what its pod runs as, and return the pod that the cluster makes for it."""
        owner = Owner(names.TRAINING_KIND, self.namespace, self.job.metadata.name, self.uid)
        if role == names.COORDINATOR_ROLE:
            document = build_coordinator_job(owner, self.job, Settings(), suspend=False)
        else:
            client = next(client for client in self.job.spec.clients if client.name == role)
            document = build_client_job(owner, self.job, client, Settings(), suspend=False)
        component = names.COORDINATOR_ROLE if role == names.COORDINATOR_ROLE else names.CLIENT_ROLE
        cluster = KubeCluster(self.server, KeyFeed())
        await cluster.apply(build_service_account(owner, component))
        await cluster.create(document)
        return await self.pod(document["metadata"]["name"])

    async def pod(self, job: str, other_than: str = "") -> Object:
        """Return the pod of a Job; with `other_than` a UID, the one after that pod."""
        cluster = KubeCluster(self.server, KeyFeed())
        async with asyncio.timeout(60):
            while True:
                for pod in await cluster.list("v1", "Pod", self.namespace, {"batch.kubernetes.io/job-name": job}):
                    if pod["metadata"]["uid"] != other_than:
                        return pod
                await asyncio.sleep(0.1)

    async def token_file(self, pod: Object, audience: str = AUDIENCE) -> Path:
        path = self.folder / f"{pod['metadata']['uid']}.{audience[:20].replace('/', '_')}.token"
        path.write_text(await pod_token(self.server, pod, audience), "ascii")
        return path
