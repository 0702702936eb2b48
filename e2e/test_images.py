"""The project's images: they run as a user without rights on a read-only file system, and hold no compiler."""

import json

import pytest

from e2e.cluster.kubectl import wait_for
from e2e.probes import RESTRICTED

pytestmark = pytest.mark.e2e

TOOLS = ("cc", "gcc", "g++", "c++", "clang", "tcc", "as", "ld", "make")
PROGRAMS = {
    "operator": "import foedus_operator.main",
    # A path other than torch's is refused where the kernels are missing.
    "workloads": "import foedus_workloads.entry, torch, peft, opendp, foedus_ring as ring; "
    "ring.pack(torch.ones(1, 1, dtype=int), path='plain')",
}
LOOK = """
import importlib.util, json, os, shutil, sys
{imports}
def writable(folder):
    try:
        open(os.path.join(folder, "probe"), "w")
    except OSError:
        return False
    return True
print(json.dumps({{
    "user": [os.getuid(), os.getgid()],
    "tools": [name for name in {tools} if shutil.which(name)],
    "writable": [folder for folder in ("/", "/opt/foedus", "/tmp", "/root") if writable(folder)],
    "development": [name for name in ("pytest", "mypy", "hypothesis", "ruff") if importlib.util.find_spec(name)],
    "torch": "torch" in sys.modules,
}}))
"""


# What an image does without a command, in a pod that sets nothing: exit code, and what it prints.
OWN_COMMAND = {
    "operator": (10, "FOEDUS_OPERATOR_IDENTITY"),
    "workloads": (0, "usage: foedus_workloads.entry"),
}


def run_to_end(probes, image, **container):
    """Return exit code and output of a pod with the fewest rights, and /tmp of its own as the pods of jobs have."""
    restricted = {**RESTRICTED, "runAsGroup": 65532}
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    containers = [{"name": "once", "image": image, "securityContext": restricted, "volumeMounts": mounts, **container}]
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": containers}
    spec["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    probes.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "once"}, "spec": spec})
    wait_for("the pod's end", lambda: probes.get("pod", "once")["status"]["phase"] in ("Succeeded", "Failed"))
    (status,) = probes.get("pod", "once")["status"]["containerStatuses"]
    return status["state"]["terminated"]["exitCode"], probes.kubectl("-n", probes.namespace, "logs", "once")


@pytest.mark.parametrize(("name", "imports"), PROGRAMS.items())
def test_an_image_runs_without_rights(target, probes, name, imports):
    program = LOOK.format(imports=imports, tools=TOOLS)
    code, output = run_to_end(probes, target.image(name), command=["python", "-c", program])
    assert (code, json.loads(output.splitlines()[-1])) == (
        0,
        {
            "user": [65532, 65532],
            "tools": [],
            "writable": ["/tmp"],
            "development": [],
            "torch": name == "workloads",
        },
    )


@pytest.mark.parametrize(("name", "expected"), OWN_COMMAND.items())
def test_an_image_says_what_it_wants(target, probes, name, expected):
    code, output = run_to_end(probes, target.image(name))
    assert (code, expected[1] in output) == (expected[0], True), output
