"""The ledger service on a real API server: who may charge what, and what the silo's side makes of its answers."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import BUDGET_PATH, CHARGES_PATH
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.plan import ObjectKey
from foedus_ledger.charge_log import read_charges
from foedus_ledger.charges import LedgerBehind, is_signed
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster
from foedus_operator.ledgers import KubeLedgers
from foedus_workloads.training.held_ledgers import ServiceLedger
from foedus_workloads.training.silo_ledger import SiloLedger
from foedus_workloads.transport.ledger_client import NotSent
from support.audit import Audit, denied, granted, used
from support.certificates import Authority
from support.kubernetes import api_server, install_crds
from support.ledger_world import (
    RULES,
    SYSTEM,
    Service,
    TrainingJob,
    ledger_service,
    make_identity,
    make_token,
    pod_token,
)

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
NOISE = 100.0
MakeJob = Callable[..., Awaitable[TrainingJob]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as made:
        await install_crds(made)
        yield made
    await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def audit() -> Audit:
    return Audit.from_now_on()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(server: ApiServer, audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("ledger")
    identity = await make_identity(server, "foedus-ledger", RULES, folder)
    async with ledger_service(identity, folder) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def make_job(server: ApiServer, tmp_path: Path) -> AsyncIterator[MakeJob]:
    made: list[TrainingJob] = []

    async def make(**more: Any) -> TrainingJob:
        made.append(await TrainingJob.create(server, tmp_path, **more))
        return made[-1]

    yield make
    for namespace in {each.namespace for each in made}:
        await server.request("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest_asyncio.fixture(loop_scope="module")
async def job(make_job: MakeJob) -> TrainingJob:
    made = await make_job()
    await made.reserve()
    return made


async def silo_ledger(service: Service, job: TrainingJob, pod: Object) -> SiloLedger:
    ledger = ServiceLedger(service.client(await job.token_file(pod)))
    return SiloLedger(ledger, job.folder / "charges.jsonl", KEY)


async def charge(service: Service, token: Path, attempt: int = 0) -> None:
    await service.client(token).charge(attempt, NOISE)


async def test_a_charge_is_in_the_object_and_in_the_log(service: Service, job: TrainingJob) -> None:
    silo = await silo_ledger(service, job, await job.start("silo-1"))
    assert (await asyncio.to_thread(silo.open)).count == 0
    for attempt in (0, 3):
        await asyncio.to_thread(silo.charge, job.uid, attempt, noise_multiplier=NOISE)
    account = await job.account()
    assert (account.charged, account.last_attempt, account.state) == (2, 3, "Open")
    assert read_charges(job.folder / "charges.jsonl").accounts == {job.uid: account}
    head = await asyncio.to_thread(silo.open)
    assert head.count == 2
    assert is_signed(head, KEY.public_key().public_bytes_raw())


@pytest.mark.parametrize(
    ("attempt", "noise", "refusal"),
    [(0, NOISE, "not above the last charged one"), (1, NOISE - 1, "below 100"), (2, NOISE, None)],
)
async def test_an_attempt_is_charged_once_and_with_its_noise(
    service: Service, job: TrainingJob, attempt: int, noise: float, refusal: str | None
) -> None:
    client = service.client(await job.token_file(await job.start("silo-1")))
    await client.charge(0, NOISE)
    if refusal is None:
        assert (await client.charge(attempt, noise)).accounts[job.uid].charged == 2
        return
    with pytest.raises(Refused, match=refusal) as caught:
        await client.charge(attempt, noise)
    assert caught.value.code is ExitCode.BUDGET_REFUSED
    assert (await job.account()).charged == 1


async def test_all_of_a_reservation_and_no_more(service: Service, job: TrainingJob) -> None:
    client = service.client(await job.token_file(await job.start("silo-1")))
    for attempt in range(20):
        await client.charge(attempt, NOISE)
    with pytest.raises(Refused, match="all 20 reserved releases"):
        await client.charge(20, NOISE)


async def test_a_token_for_another_audience_charges_nothing(
    service: Service, server: ApiServer, job: TrainingJob
) -> None:
    pod = await job.start("silo-1")
    for_the_api_server = await job.token_file(pod, "https://kubernetes.default.svc.cluster.local")
    with pytest.raises(Refused, match="the token is not accepted") as caught:
        await charge(service, for_the_api_server)
    assert caught.value.code is ExitCode.IDENTITY_REFUSED
    assert (await job.account()).charged == 0


async def test_the_token_for_the_service_opens_nothing_else(server: ApiServer, job: TrainingJob) -> None:
    token = await pod_token(server, await job.start("silo-1"))
    configuration = server._client.configuration
    authority = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
        http.get(f"{configuration.host}/version", ssl=authority) as answer,
    ):
        assert answer.status == 401


async def test_no_token_and_one_without_a_pod_charge_nothing(
    service: Service, server: ApiServer, job: TrainingJob
) -> None:
    token = job.folder / "token"
    spec = {"audiences": ["foedus-ledger"], "expirationSeconds": 600}
    for content, refusal in (
        ("", "there is no token"),
        ("not.a.token", "the token is not accepted"),
        (await make_token(server, job.namespace, "default", spec), "not bound to a pod"),
    ):
        token.write_text(content, "ascii")
        with pytest.raises(Refused, match=refusal):
            await charge(service, token)
    assert (await job.account()).charged == 0


def pod_document(namespace: str, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": f"foreign-{uuid.uuid4().hex[:8]}", "namespace": namespace}
    if owner:
        meta |= {"ownerReferences": [owner], "finalizers": ["foedus.dev/tests"]}  # the collector would take it
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"serviceAccountName": "default", "containers": [{"name": "a", "image": "example.org/a"}]},
    }


async def test_a_pod_that_no_job_owns_charges_nothing(service: Service, server: ApiServer, job: TrainingJob) -> None:
    pod = await KubeCluster(server, KeyFeed()).create(pod_document(job.namespace))
    with pytest.raises(Refused, match="belongs to no Job"):
        await charge(service, await job.token_file(pod))


async def test_a_pod_that_is_gone_charges_nothing(service: Service, server: ApiServer, job: TrainingJob) -> None:
    pod = await job.start("silo-1")
    token = await job.token_file(pod)
    await charge(service, token)  # the API server remembers for some seconds that this token was good
    key = ObjectKey("v1", "Pod", job.namespace, pod["metadata"]["name"], pod["metadata"]["uid"])
    await KubeCluster(server, KeyFeed()).delete(key)
    with pytest.raises((Refused, Unavailable), match=r"is gone|is ending"):
        await charge(service, token, 1)
    await job.pod("demo-silo-1", other_than=key.uid)  # its Job has seen the end
    with pytest.raises(Refused, match=r"is gone|has ended|is not accepted") as caught:
        await charge(service, token, 1)
    assert caught.value.code is ExitCode.IDENTITY_REFUSED
    assert (await job.account()).charged == 1


async def test_a_pod_elsewhere_that_says_it_belongs_to_the_job_charges_nothing(
    service: Service, server: ApiServer, job: TrainingJob, make_job: MakeJob
) -> None:
    await job.start("silo-1")
    target = await KubeCluster(server, KeyFeed()).get(ObjectKey("batch/v1", "Job", job.namespace, "demo-silo-1"))
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "demo-silo-1",
        "uid": target["metadata"]["uid"],
        "controller": True,
    }
    elsewhere = await make_job()
    cluster = KubeCluster(server, KeyFeed())
    pod = await cluster.create(pod_document(elsewhere.namespace, owner))
    try:
        with pytest.raises((Refused, Unavailable), match=r"Job demo-silo-1 is gone|the pod is ending"):
            await charge(service, await elsewhere.token_file(pod))
    finally:
        path = f"/api/v1/namespaces/{elsewhere.namespace}/pods/{pod['metadata']['name']}"
        patch = {"metadata": {"finalizers": None}}
        await server.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
    assert (await job.account()).charged == 0


async def test_a_job_of_the_same_name_elsewhere_has_its_own_budgets(
    service: Service, job: TrainingJob, make_job: MakeJob
) -> None:
    other = await make_job()
    await other.reserve()
    await charge(service, await other.token_file(await other.start("silo-1")))
    assert ((await job.account()).charged, (await other.account()).charged) == (0, 1)
    without = await make_job(budgets=False)
    with pytest.raises(Refused, match="there is no budget here"):
        await charge(service, await without.token_file(await without.start("silo-1")))


async def test_a_silo_reads_its_budget_and_a_coordinator_none(service: Service, job: TrainingJob) -> None:
    await job.reserve("silo-2", count=5)
    record = await service.client(await job.token_file(await job.start("silo-2"))).read()
    assert record.accounts == {job.uid: await job.account("silo-2")}
    coordinator = service.client(await job.token_file(await job.start("coordinator")))
    for ask in (coordinator.read(), coordinator.charge(0, NOISE)):
        with pytest.raises(Refused, match="a coordinator charges nothing"):
            await ask


async def test_a_charge_and_a_closing_at_once_end_in_one_of_two_orders(
    service: Service, server: ApiServer, job: TrainingJob
) -> None:
    client = service.client(await job.token_file(await job.start("silo-1")))

    async def charge_on() -> int:
        for attempt in range(20):
            try:
                await client.charge(attempt, NOISE)
            except Refused:
                return attempt
        return 20

    async def close_soon() -> None:
        await asyncio.sleep(0.05)
        await KubeLedgers(server).close(job.budget(), job_uid=job.uid)

    charged, _ = await asyncio.gather(charge_on(), close_soon())
    account = await job.account()
    assert (account.charged, account.state) == (charged, "Closed")


async def test_of_two_jobs_on_one_budget_each_charge_counts_once(
    service: Service, job: TrainingJob, make_job: MakeJob
) -> None:
    other = await make_job(namespace=job.namespace, name="other", budgets=False)
    await other.reserve()
    clients = [service.client(await each.token_file(await each.start("silo-1"))) for each in (job, other)]

    async def charge_all(number: int) -> None:
        for attempt in range(10):
            await clients[number].charge(attempt, NOISE)

    await asyncio.gather(charge_all(0), charge_all(1))
    assert ((await job.account()).charged, (await other.account()).charged) == (10, 10)


async def test_each_start_of_a_role_gets_a_higher_number(service: Service, server: ApiServer, job: TrainingJob) -> None:
    first = await job.start("silo-1")
    token = await job.token_file(first)
    claims = [await service.client(token).claim() for _ in range(2)]
    coordinator = await service.client(await job.token_file(await job.start("coordinator"))).claim()
    assert (claims, coordinator) == ([0, 0], 0)
    meta = first["metadata"]
    await KubeCluster(server, KeyFeed()).delete(ObjectKey("v1", "Pod", job.namespace, meta["name"], meta["uid"]))
    second = await job.pod("demo-silo-1", other_than=meta["uid"])
    assert await service.client(await job.token_file(second)).claim() == 1
    with pytest.raises((Refused, Unavailable)):
        await service.client(token).claim()
    lease = await KubeCluster(server, KeyFeed()).get(
        ObjectKey("coordination.k8s.io/v1", "Lease", job.namespace, "demo-silo-1")
    )
    assert lease["spec"] == {"holderIdentity": second["metadata"]["uid"], "leaseTransitions": 1}
    assert lease["metadata"]["ownerReferences"][0]["uid"] == job.uid


async def test_an_old_copy_of_the_budget_is_charged_for_nothing(
    service: Service, server: ApiServer, job: TrainingJob
) -> None:
    silo = await silo_ledger(service, job, await job.start("silo-1"))
    for attempt in range(3):
        await asyncio.to_thread(silo.charge, job.uid, attempt, noise_multiplier=NOISE)
    key = job.budget()
    path = f"/apis/foedus.dev/v1alpha1/namespaces/{key.namespace}/privacybudgets/{key.name}"
    await server.request("DELETE", path)
    await job.make_budget(key.name)
    await job.reserve()
    for act in (silo.open, lambda: silo.charge(job.uid, 3, noise_multiplier=NOISE)):
        with pytest.raises(LedgerBehind, match="the ledger is an old copy") as caught:
            await asyncio.to_thread(act)
        assert caught.value.code is ExitCode.LEDGER_BEHIND


async def ask(service: Service, path: str, *, context: ssl.SSLContext | None = None, **more: Any) -> tuple[int, bytes]:
    trusted = context or ssl.create_default_context(cadata=service.address.ca)
    url = f"https://localhost:{service.address.port}{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.request(more.pop("method", "GET"), url, ssl=trusted, **more) as answer,
    ):
        return answer.status, await answer.read()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b'{"attempt": 0}', 400),
        (b'{"attempt": -1, "noiseMultiplier": 100}', 400),
        (b'{"attempt": 0, "noiseMultiplier": NaN}', 400),
        (b'{"attempt": 0, "noiseMultiplier": 100, "budget": "team-b/other"}', 400),
        (b"[" * 2000, 400),
    ],
)
async def test_what_is_no_charge_is_refused_before_anything_is_read(
    service: Service, job: TrainingJob, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {(await job.token_file(await job.start('silo-1'))).read_text('ascii')}"}
    found, answer = await ask(service, CHARGES_PATH, method="POST", headers=headers, data=body)
    assert found == status
    assert b"ChargeRequest" in answer or b"larger than 1024 bytes" in answer
    assert (await job.account()).charged == 0


async def test_it_says_how_it_is_to_all_and_what_it_did_to_whom_rbac_lets_read_it_and_no_secret(
    server: ApiServer, service: Service, job: TrainingJob, tmp_path: Path
) -> None:
    token = await job.token_file(await job.start("silo-1"))
    await charge(service, token)
    assert await ask(service, "/health") == (200, b"ok")
    assert await ask(service, "/ready") == (200, b"ok")
    stranger = await make_token(server, SYSTEM, "default", {"expirationSeconds": 600})
    for shown, status in ((None, 401), (token.read_text("ascii"), 401), ("x", 401), (stranger, 403)):
        headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
        assert (await ask(service, "/metrics", headers=headers))[0] == status
    await make_identity(server, "foedus-metrics", [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}], tmp_path)
    reader = await make_token(server, SYSTEM, "foedus-metrics", {"expirationSeconds": 600})
    status, metrics = await ask(service, "/metrics", headers={"Authorization": f"Bearer {reader}"})
    assert status == 200
    assert b'foedus_ledger_requests_total{outcome="OK",what="charge"}' in metrics
    secret = token.read_bytes()
    assert not any(secret in said for said in (metrics, *service.log))


async def test_older_tls_plain_text_and_foreign_authorities_are_refused(
    service: Service, job: TrainingJob, tmp_path: Path
) -> None:
    old = ssl.create_default_context(cadata=service.address.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(service, BUDGET_PATH, context=old)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://localhost:{service.address.port}{BUDGET_PATH}")
    foreign = Authority.create().issue(tmp_path / "foreign", x509.DNSName("localhost")).ca.read_text("ascii")
    token = job.folder / "token"
    token.write_text("token", "ascii")
    with pytest.raises(Refused, match="prove to be the one that is pinned") as caught:
        await service.client(token, ca=foreign).read()
    assert caught.value.code is ExitCode.IDENTITY_REFUSED


async def test_without_its_right_to_write_nothing_is_said_to_be_charged(
    server: ApiServer, job: TrainingJob, tmp_path: Path
) -> None:
    rules = [rule for rule in RULES if rule.get("resources") != ["privacybudgets/status"]]
    identity = await make_identity(server, f"reader-{uuid.uuid4().hex[:8]}", rules, tmp_path)
    token = await job.token_file(await job.start("silo-1"))
    async with ledger_service(identity, tmp_path) as reader:
        with pytest.raises(Unavailable):
            await charge(reader, token)
    with pytest.raises(NotSent):
        await charge(reader, token)  # nobody answers any more
    assert (await job.account()).charged == 0


async def test_none_of_its_rights_is_unused_and_none_was_missing(service: Service, audit: Audit) -> None:
    """It comes last: the audit log has what all tests of this file made the service ask for, but for health."""
    assert (await ask(service, "/ready"))[0] == 200
    events = list(audit.requests("system:serviceaccount:foedus-system:foedus-ledger"))
    assert denied(events) == []
    assert used(events) | {("/readyz", "get")} == granted("foedus-ledger")
