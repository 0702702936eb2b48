"""What a job left on its volume is brought to a person's machine, whole and as its result names it, or not at all."""

import json
from pathlib import Path

import pytest
import yaml

from e2e.cluster.kubectl import wait_for
from e2e.command_line import foedus
from foedus_contract.delivery import describe_folder
from foedus_engine import names
from foedus_engine.build.metadata import Owner
from foedus_engine.build.pods import Settings, build_pod_spec, claim_mount
from foedus_engine.build.storage import build_output_claim
from support.brain import manifest

pytestmark = pytest.mark.e2e

CRDS = sorted((Path(__file__).parents[1] / "crds").glob("*.yaml"))
SIZE = 64 * 1024 * 1024  # the largest adapter
FILL = f"""
import os, pathlib
from foedus_contract.delivery import describe_folder
folder = pathlib.Path("/foedus/output/adapter")
folder.mkdir()
(folder / "README.md").write_text("# card")
(folder / "adapter_model.safetensors").write_bytes(os.urandom({SIZE}))
print(describe_folder(folder).digest())
"""
CHANGE = "open('/foedus/output/adapter/README.md', 'a').write('!')"


def run_on_volume(probes, name, image, program):
    """Run the program in a pod with the job's volume, and return what it prints."""
    mount = claim_mount("output", "/foedus/output", names.coordinator_output("demo"), read_only=False)
    spec = build_pod_spec(
        ("python", "-c", program), (), [mount], {}, Settings(image=image), service_account="default", scheduling={}
    )
    probes.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    wait_for("the pod's end", lambda: probes.get("pod", name)["status"]["phase"] in ("Succeeded", "Failed"))
    return probes.kubectl("-n", probes.namespace, "logs", name).strip()


def complete(probes, digest):
    """Let the job be complete with this result."""
    condition = {
        "type": "Complete",
        "status": "True",
        "reason": "AllRounds",
        "message": "done",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }
    result = {"outcome": "Complete", "rounds": 3, "attempts": 3, "adapterDigest": digest}
    status = {"phase": "Complete", "epsilonSpent": 0.9, "epsilonLimit": 1, "conditions": [condition], "result": result}
    patch = ("patch", "ftj", "demo", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    probes.kubectl("-n", probes.namespace, *patch)


def test_what_a_job_left_is_fetched_as_its_result_names_it_or_not_at_all(target, probes, tmp_path):
    image = target.image("operator")  # it has the whole package, as the workloads' image has, and is built sooner
    for file in CRDS:
        target.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
        name = yaml.safe_load(file.read_text("utf-8"))["metadata"]["name"]
        target.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    probes.apply({**manifest(suspend=True), "metadata": {"name": "demo"}})
    uid = probes.get("ftj", "demo")["metadata"]["uid"]
    probes.apply(build_output_claim(Owner(names.TRAINING_KIND, probes.namespace, "demo", uid)))
    digest = run_on_volume(probes, "fill", image, FILL)
    complete(probes, digest)

    out = tmp_path / "out"
    download = ("adapter", "download", "demo", "--image", image, "--out", str(out))
    done = foedus(target.kubectl, probes.namespace, *download)
    assert (done.returncode, done.stderr) == (0, "")
    assert describe_folder(out).digest() == digest
    assert (out / "adapter_model.safetensors").stat().st_size == SIZE

    run_on_volume(probes, "change", image, CHANGE)
    refused = foedus(target.kubectl, probes.namespace, *download[:-1], str(tmp_path / "again"))
    assert refused.returncode == 10
    assert "the files are not those that the job's result names" in refused.stderr
    assert not (tmp_path / "again").exists()
    wait_for("the reading pods are gone", lambda: "reader" not in probes.kubectl("-n", probes.namespace, "get", "pods"))
