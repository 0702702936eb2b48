"""What the chart makes: golden files, one a set of values, and what must hold of them whatever they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.documents import CHART, main
from chart.golden import SETS, compose, identity, read
from chart.helm import GOLDEN, find_helm, render, run_helm

ROOT = Path(__file__).parents[2]
KEEP = {"helm.sh/resource-policy": "keep"}


@pytest.fixture(scope="session")
def helm() -> str:
    found = find_helm()
    if found is None:
        pytest.skip("helm is neither on the PATH nor built: python -m e2e.cluster build")
    return found


def test_lint(helm: str) -> None:
    done = run_helm(helm, "lint", "--strict", str(CHART), "--kube-version", "1.35.0")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SETS)
def test_templates_are_golden(helm: str, name: str) -> None:
    assert compose(helm, name) == (GOLDEN / f"{name}.yaml").read_text("utf-8")


def test_kinds_and_the_ledgers_policies_are_templates_that_stay(helm: str) -> None:
    made = {identity(each): each for each in render(helm)}
    kept = {key for key, each in made.items() if each["metadata"].get("annotations") == KEEP}
    assert kept == {
        "CustomResourceDefinition federatedtrainingjobs.foedus.dev",
        "CustomResourceDefinition privacybudgets.foedus.dev",
        "ValidatingAdmissionPolicy kept.foedus.dev",
        "ValidatingAdmissionPolicy ledger.foedus.dev",
        "ValidatingAdmissionPolicyBinding kept.foedus.dev",
        "ValidatingAdmissionPolicyBinding ledger.foedus.dev",
    }
    files = [*(ROOT / "crds").glob("*.yaml"), *(CHART / "policies").glob("*.yaml")]
    said = {identity(each): each for file in files for each in yaml.safe_load_all(file.read_text("utf-8"))}
    assert said == {key: made[key] for key in said}
    assert said.keys() - kept == {
        f"ValidatingAdmissionPolicy{kind} {name}.foedus.dev" for kind in ("", "Binding") for name in ("leases", "pods")
    }


def test_policies_name_the_identities_of_the_release(helm: str) -> None:
    text = yaml.safe_dump(render(helm, namespace="elsewhere"), width=1000)
    assert text.count("system:serviceaccount:elsewhere:foedus-operator") == 2
    assert text.count("system:serviceaccount:elsewhere:foedus-ledger") == 2
    assert "foedus-system" not in text


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("operator.replica=2", "additional properties 'replica' not allowed"),
        ("operator.replicas=0", "minimum: got 0, want 1"),
        ("ledger.certificate.source=chart", "value must be one of 'Chart', 'CertManager', 'Secret'"),
    ],
)
def test_helm_refuses_by_the_schema(helm: str, value: str, complaint: str) -> None:
    done = run_helm(helm, "template", "foedus", str(CHART), "--set", value)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], CHART) == 0, capsys.readouterr().err


def pods() -> list[Any]:
    made = [(name, each) for name in SETS for each in read(name) if each["kind"] == "Deployment"]
    return [
        pytest.param(each["spec"]["template"]["spec"], id=f"{name}-{each['metadata']['name']}") for name, each in made
    ]


@pytest.mark.parametrize("pod", pods())
def test_pods_are_restricted_and_bounded(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert {next(key for key in volume if key != "name") for volume in pod["volumes"]} <= {"emptyDir", "secret"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}
        assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


@pytest.mark.parametrize("name", SETS)
def test_every_pod_is_closed_unless_that_is_switched_off(name: str) -> None:
    documents = read(name)
    closed = {
        str(each["spec"]["podSelector"]["matchLabels"])
        for each in documents
        if each["kind"] == "NetworkPolicy" and each["spec"]["policyTypes"] == ["Ingress", "Egress"]
    }
    labels = {str(each["spec"]["selector"]["matchLabels"]) for each in documents if each["kind"] == "Deployment"}
    assert closed == (set() if name == "open" else labels)
