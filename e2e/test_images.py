"""The project's images: they run as a user without rights on a read-only file system, and hold no compiler."""

import json

import pytest

pytestmark = pytest.mark.e2e

TOOLS = ("cc", "gcc", "g++", "c++", "clang", "tcc", "as", "ld", "make")
PROGRAMS = {
    "operator": "import foedus_engine.reconcile",
    "workloads": "import foedus_workloads.entry, torch, peft, opendp",
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


@pytest.mark.parametrize(("target_name", "imports"), PROGRAMS.items())
def test_an_image_runs_without_rights(target, probes, target_name, imports):
    program = LOOK.format(imports=imports, tools=TOOLS)
    container = {
        "name": "look",
        "image": target.image(target_name),
        "command": ["python", "-c", program],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    probes.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look"}, "spec": spec})
    probes.kubectl(
        "-n",
        probes.namespace,
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/look",
        "--timeout=240s",
        seconds=300,
    )
    found = json.loads(probes.kubectl("-n", probes.namespace, "logs", "look").splitlines()[-1])
    assert found == {
        "user": [65532, 65532],
        "tools": [],
        "writable": [],
        "development": [],
        "torch": target_name == "workloads",
    }
