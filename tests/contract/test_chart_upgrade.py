"""An upgrade with a running job, and back: from a chart of an earlier commit, whose kinds know less, to this one.

Each time the operator of that commit runs, with the rights of that chart. There are no nodes: of pods the test says
what their kubelets would say.
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chart.documents import CHART
from contract.test_chart_install import Installed, installed, operator_process
from foedus_contract.errors import InvalidInput
from foedus_contract.progress import TrainingResult
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.kube import STRICT, collection
from support.audit import denied
from support.brain import SILOS
from support.operator_world import BUDGET, World, start, until

__all__ = ["installed"]
pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
ROOT = Path(__file__).parents[2]
# Its budgets have no spec.leastColluders, and its jobs no reason CertificateInvalid.
EARLIER = "73ab4e2163ab98274372b95d2426d4ee00871b6e"
PACKAGES = ("operator", "workloads", "sdk")


@dataclass(frozen=True)
class Version:
    """A chart, and the code of its operator."""

    chart: Path
    code: Path


def earlier(folder: Path) -> Version:
    """Take the earlier commit out of the repository, which must have its history."""
    archive = folder / "earlier.tar"
    command = ["git", "archive", "--output", str(archive), EARLIER, "charts", *PACKAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the clone must hold commit {EARLIER}: {done.stderr}"
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    return Version(folder / "charts/foedus", folder)


@asynccontextmanager
async def operated(installed: Installed, version: Version, folder: Path) -> AsyncIterator[None]:
    """Run the version's operator meanwhile."""
    async with (
        installed.as_operator(folder) as (config, _),
        operator_process(config, installed.release, version.code, PACKAGES),
    ):
        yield


async def children(world: World) -> dict[str, str]:
    """Return who the Jobs and pods of the roles are: another UID would be another process.

    What looked at the model goes some time after the plan was made.
    """
    found = {}
    for kind in (("batch/v1", "Job"), ("v1", "Pod")):
        for each in await world.cluster.list(*kind, world.namespace, {"foedus.dev/job": "demo"}):
            if each["metadata"]["labels"]["app.kubernetes.io/component"] != "inspector":
                found[f"{kind[1]} {each['metadata']['name']}"] = each["metadata"]["uid"]
    return found


async def accounts(world: World) -> dict[str, Any]:
    budgets = [await world.cluster.get(world.key(*BUDGET, f"budget-{silo}")) for silo in SILOS]
    return {budget["metadata"]["name"]: budget["status"]["accounts"] for budget in budgets}


async def write_newer_budget(world: World, name: str) -> None:
    """Create a budget, strictly, as a user who knows the newer kind."""
    spec = {"dataset": {"digest": "sha256:" + "f" * 64, "records": 500}, "epsilon": 1, "delta": 1e-5}
    document = world.document(*BUDGET, name, spec={**spec, "leastColluders": 2})
    await world.server.request("POST", collection(*BUDGET, world.namespace), query=STRICT, body=document)


async def adopts(world: World, name: str) -> None:
    """Create a suspended job and wait until the operator that runs has said so."""
    await world.make_job(name=name, suspend=True)
    key = world.key("foedus.dev/v1alpha1", "FederatedTrainingJob", name)

    async def phase() -> Any:
        return (await world.cluster.get(key)).get("status", {}).get("phase")

    await until(phase, "Suspended")


async def test_a_running_job_outlives_an_upgrade_and_the_way_back(installed: Installed, tmp_path: Path) -> None:
    before, now = earlier(tmp_path), Version(CHART, ROOT)
    world = World(installed.root, installed.jobs)
    namespace = ("--namespace", installed.release)
    installed.run("package", str(before.chart), "--destination", str(tmp_path))
    installed.run("upgrade", "foedus", str(next(tmp_path.glob("foedus-*.tgz"))), *namespace)
    revision = installed.run("history", "foedus", *namespace).strip().splitlines()[-1].split()[0]
    async with operated(installed, before, tmp_path):
        await world.make_budgets()
        await start(world)
        processes, held = await children(world), await accounts(world)
        assert {account["state"] for each in held.values() for account in each.values()} == {"Open"}
        with pytest.raises(InvalidInput, match="leastColluders"):
            await write_newer_budget(world, "refused-before")

    installed.run("upgrade", "foedus", str(now.chart), *namespace)
    async with operated(installed, now, tmp_path):
        await adopts(world, "after-upgrade")
        await write_newer_budget(world, "newer")
        assert await children(world) == processes
        assert await accounts(world) == held
        assert await world.reason() == "Preparing"

    installed.run("rollback", "foedus", revision, *namespace)
    async with operated(installed, before, tmp_path):
        await adopts(world, "after-rollback")
        with pytest.raises(InvalidInput, match="leastColluders"):
            await write_newer_budget(world, "refused-after")
        assert await children(world) == processes
        assert await accounts(world) == held
        result = TrainingResult(outcome="Complete", rounds=3, attempts=3, accuracy=0.9)
        await world.say("demo-coordinator", message=result.to_json().decode())
        await until(lambda: world.reason("Complete"), "AllRounds")
        await until(world.accounts, {"Closed"})
        newer = ObjectKey(*BUDGET, installed.jobs, "newer")

        async def is_ready() -> Any:
            return [each["reason"] for each in (await world.cluster.get(newer)).get("status", {}).get("conditions", ())]

        await until(is_ready, ["Available"])
    user = f"system:serviceaccount:{installed.release}:foedus-operator"
    assert denied(installed.audit.requests(user)) == []
