"""The chart on a real API server: what it grants is enough, none of it is too much, and what an uninstall leaves."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from e2e.cluster.binaries import HELM, built, cache_folder
from e2e.cluster.progress import Progress

from chart.documents import CHART
from chart.helm import find_helm, run_helm
from chart.life import Life
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import NotFound, find
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.api_server import ApiServer, connect, load_configuration
from foedus_operator.kube import KubeCluster
from foedus_operator.serving import Review, reviewed_by
from support.audit import Audit, denied, granted, used
from support.brain import manifest
from support.kubernetes import api_server, kubeconfig, make_namespace

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
OPERATOR = "foedus-operator"
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
PLACES = {
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}
STAY = [
    ("CustomResourceDefinition", "federatedtrainingjobs.foedus.dev"),
    ("CustomResourceDefinition", "privacybudgets.foedus.dev"),
    ("ValidatingAdmissionPolicy", "kept.foedus.dev"),
    ("ValidatingAdmissionPolicy", "ledger.foedus.dev"),
    ("ValidatingAdmissionPolicyBinding", "kept.foedus.dev"),
    ("ValidatingAdmissionPolicyBinding", "ledger.foedus.dev"),
]
GO = [
    ("/api/v1", "secrets"),
    ("/api/v1", "serviceaccounts"),
    ("/api/v1", "services"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
]


@dataclass
class Installed:
    """The chart in a namespace that insists on the restricted profile, and one beside it for jobs."""

    root: ApiServer
    release: str
    jobs: str
    helm: str
    audit: Audit

    def run(self, *arguments: str) -> str:
        done = run_helm(self.helm, *arguments, "--kubeconfig", str(kubeconfig()))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, namespace: str) -> None:
        # Another test, or an earlier run, may have left the kinds.
        self.run("install", "foedus", str(CHART), "--namespace", namespace, "--take-ownership")

    @asynccontextmanager
    async def as_operator(self, folder: Path) -> AsyncIterator[tuple[Path, ApiServer]]:
        """Yield a kubeconfig with a token of the operator's ServiceAccount, and the API server as that sees it."""
        path = f"/api/v1/namespaces/{self.release}/serviceaccounts/{OPERATOR}/token"
        made = await self.root.request("POST", path, body={"spec": {"expirationSeconds": 3600}})
        config = yaml.safe_load(kubeconfig().read_text("utf-8"))
        config["users"] = [
            {"name": user["name"], "user": {"token": made["status"]["token"]}} for user in config["users"]
        ]
        file = folder / "operator.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(config), "utf-8")
        async with connect(await load_configuration(file)) as server:
            yield file, server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed() -> AsyncIterator[Installed]:
    helm = find_helm() or str(built((HELM,), cache_folder(os.environ), Progress())["helm"])
    suffix = uuid.uuid4().hex[:8]
    async with api_server() as root:
        made = Installed(root, f"foedus-release-{suffix}", f"foedus-jobs-{suffix}", helm, Audit.from_now_on())
        await make_namespace(root, made.release, {"pod-security.kubernetes.io/enforce": "restricted"})
        await make_namespace(root, made.jobs, {"foedus.dev/budgets": "kept"})
        made.install(made.release)
        yield made
        for kind, name in STAY:
            if kind != "CustomResourceDefinition":
                with suppress(NotFound):
                    await root.request("DELETE", f"{PLACES[kind]}/{name}")
    await asyncio.sleep(0.1)


async def until(check: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await check():
            await asyncio.sleep(0.2)


@asynccontextmanager
async def operator_process(
    config: Path, namespace: str, code: Path = ROOT, packages: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the operator; with `packages`, their folders in `code` come before what is installed."""
    environ = {
        "KUBECONFIG": str(config),
        "PATH": os.environ["PATH"],
        "FOEDUS_OPERATOR_IDENTITY": "a-pod.its-uid",
        "FOEDUS_OPERATOR_NAMESPACE": namespace,
        "FOEDUS_OPERATOR_HEALTH_PORT": "0",
        "PYTHONPATH": os.pathsep.join(str(code / package) for package in packages),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "foedus_operator.main", env=environ)
    try:
        yield process
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_pods_are_admitted_by_the_restricted_profile(installed: Installed) -> None:
    place = f"/apis/apps/v1/namespaces/{installed.release}/deployments"

    async def made() -> bool:
        found = (await installed.root.request("GET", place))["items"]
        return [(each["metadata"]["name"], each["status"].get("replicas")) for each in found] == [
            ("foedus-ledger", 2),
            ("foedus-operator", 2),
        ]

    await until(made)


async def test_the_operator_lives_by_the_charts_rights(installed: Installed, tmp_path: Path) -> None:
    cluster = KubeCluster(installed.root, KeyFeed())
    lease = ObjectKey("coordination.k8s.io/v1", "Lease", installed.release, OPERATOR)
    waiting = ObjectKey("foedus.dev/v1alpha1", "FederatedTrainingJob", installed.jobs, "waiting")
    document = {**manifest(suspend=True), "metadata": {"name": waiting.name, "namespace": waiting.namespace}}
    await cluster.create(document)
    async with installed.as_operator(tmp_path) as (config, server):
        async with operator_process(config, installed.release):
            await until(lambda: is_held(cluster, lease, "a-pod.its-uid"))
            await until(lambda: is_in_phase(cluster, waiting, "Suspended"))
        life = Life(installed.root, server, installed.jobs, installed.release, with_controllers=True)
        await life.live()
        await until(lambda: is_left(life, [("PersistentVolumeClaim", "demo-coordinator-output")]))
        await who_may_read_is_asked(installed, reviewed_by(server))
    events = list(installed.audit.requests(f"system:serviceaccount:{installed.release}:{OPERATOR}"))
    assert denied(events) == []
    assert used(events) == granted(OPERATOR)


async def who_may_read_is_asked(installed: Installed, review: Review) -> None:
    """Show a token before and after its holder has the chart's role for reading numbers, and one that is none."""
    account = f"/api/v1/namespaces/{installed.release}/serviceaccounts/default"
    made = await installed.root.request("POST", f"{account}/token", body={"spec": {"expirationSeconds": 600}})
    token = made["status"]["token"]
    assert [await review(each, "/metrics") for each in ("none", token)] == [None, False]
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": f"reads-{installed.release}"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "foedus-metrics"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": installed.release}],
    }
    bindings = f"/apis/{group}/v1/clusterrolebindings"
    await installed.root.request("POST", bindings, body=binding)
    await until(lambda: review(token, "/metrics"))
    assert not await review(token, "/logs")
    await installed.root.request("DELETE", f"{bindings}/reads-{installed.release}")


async def is_held(cluster: KubeCluster, lease: ObjectKey, holder: str) -> bool:
    found = await find(cluster, lease)
    return found is not None and found["spec"]["holderIdentity"] == holder


async def is_in_phase(cluster: KubeCluster, job: ObjectKey, phase: str) -> bool:
    return (await cluster.get(job)).get("status", {}).get("phase") == phase


async def is_left(life: Life, what: list[tuple[str, str]]) -> bool:
    return await life.left() == what


async def test_an_upgrade_renews_the_certificate_under_the_same_authority(installed: Installed, tmp_path: Path) -> None:
    place = f"/api/v1/namespaces/{installed.release}/secrets/foedus-ledger-tls"
    before = contents(await installed.root.request("GET", place))
    installed.run("upgrade", "foedus", str(CHART), "--namespace", installed.release)
    after = contents(await installed.root.request("GET", place))
    assert before["ca.crt"] == after["ca.crt"]
    assert before["tls.key"] != after["tls.key"]
    for folder, made in (("before", before), ("after", after)):
        (tmp_path / folder).mkdir()
        qualified = (f"foedus-ledger.{installed.release}", f"foedus-ledger.{installed.release}.svc")
        for host in ("foedus-ledger", *qualified, f"foedus-operator.{installed.release}.svc"):
            assert handshake(tmp_path / folder, made, before["ca.crt"], host) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path / "after", after, before["ca.crt"], "foedus-ledger.elsewhere.svc")


def contents(secret: dict[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


def handshake(folder: Path, served: dict[str, bytes], ca: bytes, host: str) -> str | None:
    """Return the version that a client who trusts `ca` and a server of that certificate agree on."""
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_bytes(served[name])
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client_context = ssl.create_default_context(cadata=ca.decode("ascii"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return client.version()


async def test_an_uninstall_leaves_kinds_policies_and_objects(installed: Installed) -> None:
    installed.run("uninstall", "foedus", "--namespace", installed.release)
    for kind, name in STAY:
        assert (await installed.root.request("GET", f"{PLACES[kind]}/{name}"))["metadata"]["name"] == name
    budgets = f"/apis/foedus.dev/v1alpha1/namespaces/{installed.jobs}/privacybudgets"
    assert len((await installed.root.request("GET", budgets))["items"]) == 4
    for group, plural in GO:
        found = await installed.root.request("GET", f"{group}/namespaces/{installed.release}/{plural}")
        assert [name for each in found["items"] if (name := each["metadata"]["name"]) != "default"] == []
    # Somebody else may install it again; the policies follow.
    elsewhere = f"{installed.release}-again"
    await make_namespace(installed.root, elsewhere)
    installed.install(elsewhere)
    policy = await installed.root.request("GET", f"{PLACES['ValidatingAdmissionPolicy']}/ledger.foedus.dev")
    assert f"system:serviceaccount:{elsewhere}:foedus-operator" in json.dumps(policy["spec"])
    installed.run("uninstall", "foedus", "--namespace", elsewhere)
