"""What a coordinator says of itself, to whom: its silos numbers, a kubelet one word."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from foedus_contract import paths
from foedus_contract.pages import CoordinatorPrivacy, CoordinatorSecurity
from foedus_contract.run_spec import CoordinatorRunSpec, ModelSource, TlsFiles
from foedus_workloads.training.coordinator_entries import Standing
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.training.vitals import Vitals
from foedus_workloads.transport.probes import answering_probes
from foedus_workloads.transport.tls import probe_context
from support.certificates import Authority
from support.training_plans import ANY_DIGEST, tiny_plan

PLAN = tiny_plan(ANY_DIGEST)
CODE = "sha256:" + "c" * 64
SPEC = CoordinatorRunSpec(
    plan=PLAN,
    incarnation=2,
    listen_service="job-coordinator.ns",
    listen_port=8443,
    tls=TlsFiles(certificate="/tls.crt", key="/tls.key", ca="/ca.crt"),
    model=ModelSource(path="/model"),
    evaluation_data=None,
    output="/output",
    progress=paths.PROGRESS_FILE,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pages_say_how_the_job_stands_and_keep_to_their_schema() -> None:
    vitals = Vitals(SPEC, Surroundings(code_digest=lambda: CODE))
    pages = vitals.pages(lambda: frozenset({"silo-b", "silo-a"}), lambda: b"a line\n")
    vitals.note(Standing(rounds=2, attempts=4, charged=3), 0.25)
    said = {path: page() for path, page in pages.items()}
    assert CoordinatorPrivacy.from_json(said["/privacy/status"][1]) == CoordinatorPrivacy(
        plan_digest=PLAN.digest(),
        rounds=2,
        attempts=4,
        charged=3,
        epsilon_spent=0.25,
        epsilon_limit=PLAN.privacy.epsilon,
        delta=PLAN.privacy.delta,
    )
    assert CoordinatorSecurity.from_json(said["/security/status"][1]) == CoordinatorSecurity(
        code_digest=CODE,
        incarnation=2,
        present=("silo-a", "silo-b"),
        threshold=PLAN.privacy.threshold,
        min_honest=PLAN.privacy.min_honest,
    )
    assert said["/progress"] == ("application/jsonl", b"a line\n")
    kind, metrics = said["/metrics"]
    assert kind.startswith("text/plain")
    numbers = dict(line.split() for line in metrics.decode("ascii").splitlines() if not line.startswith("#"))
    assert {name.removeprefix("foedus_coordinator_"): float(number) for name, number in numbers.items()} == {
        "rounds": 2, "attempts": 4, "charged": 3, "epsilon_spent": 0.25, "silos_present": 2,
    }  # fmt: skip


def test_one_piece_of_work_may_take_half_an_hour_and_waiting_for_ever() -> None:
    clock = Clock()
    vitals = Vitals(SPEC, Surroundings(clock=clock))
    for seconds, well in ((1799, True), (1800, False)):
        clock.now = 100.0
        vitals.works()
        clock.now += seconds
        assert vitals.is_well() is well
    vitals.waits()
    assert vitals.is_well()


async def test_a_kubelet_is_told_one_word_over_tls_1_3(tmp_path: Path) -> None:
    files = Authority.create().issue(tmp_path, x509.DNSName("job-coordinator"))
    well = [True]
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE  # as a kubelet asks
    async with answering_probes("127.0.0.1", 0, probe_context(files), lambda: well[0]) as port:
        for expected in ((200, "ok"), (503, "not healthy")):
            for path in ("/health", "/ready"):
                async with aiohttp.ClientSession() as session:
                    answer = await session.get(f"https://127.0.0.1:{port}{path}", ssl=asking)
                    assert (answer.status, await answer.text()) == expected
            well[0] = False
        async with aiohttp.ClientSession() as session:
            assert (await session.get(f"https://127.0.0.1:{port}/privacy/status", ssl=asking)).status == 404
        asking.maximum_version = ssl.TLSVersion.TLSv1_2
        for scheme in ("https", "http"):
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"{scheme}://127.0.0.1:{port}/health", ssl=asking)
