"""The chart's values: closed, described, and refused when they are wrong. Helm checks the same schema."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from chart.documents import CHART, defaults, main
from chart.golden import SETS

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
DIGEST = "sha256:" + "0a" * 32


def with_value(path: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(defaults(CHART))
    place: Any = values
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return values


def complaints(values: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft7Validator(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(values)]


def test_the_schema_is_one_and_defaults_meet_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert complaints(defaults(CHART)) == []


GOOD = [
    ("images.operator.digest", DIGEST),
    ("images.operator.tag", "v1.2.3_rc.1"),
    ("images.operator.repository", "registry.example.com:5000/team/foedus-operator"),
    ("images.pullSecrets", ["registry"]),
    ("operator.replicas", 5),
    ("operator.resources", {"limits": {"memory": "1.5Gi", "cpu": 2}}),
    ("operator.nodeSelector", {"kubernetes.io/arch": "amd64", "pool": ""}),
    ("operator.tolerations", [{"operator": "Exists"}]),
    ("ledger.certificate.issuer.kind", "ClusterIssuer"),
    ("networkPolicy.apiServer.cidrs", ["10.0.0.1/32", "fd00::1/128"]),
    ("networkPolicy.metricsFrom", ["monitoring"]),
    ("monitoring.interval", "15s"),
    ("global", {"imageRegistry": "x"}),  # Helm adds it where the chart is a part of another
]


@pytest.mark.parametrize(("path", "value"), GOOD)
def test_good_values(path: str, value: Any) -> None:
    assert complaints(with_value(path, value)) == []


BAD = [
    # Unknown names, at every level.
    ("replicas", 2, "$: Additional properties are not allowed ('replicas' was unexpected)"),
    ("images.operatr", {}, "$.images: Additional properties are not allowed ('operatr' was unexpected)"),
    ("images.operator.version", "1", "$.images.operator: Additional properties"),
    ("images.workload.pullPolicy", "Always", "$.images.workload: Additional properties"),
    ("operator.replica", 2, "$.operator: Additional properties"),
    ("operator.securityContext", {"runAsUser": 0}, "$.operator: Additional properties"),
    ("ledger.certificat", {}, "$.ledger: Additional properties"),
    ("ledger.certificate.secret", "x", "$.ledger.certificate: Additional properties"),
    ("ledger.certificate.issuer.nmae", "x", "$.ledger.certificate.issuer: Additional properties"),
    ("networkPolicy.enable", False, "$.networkPolicy: Additional properties"),
    ("networkPolicy.apiServer.port", 443, "$.networkPolicy.apiServer: Additional properties"),
    ("monitoring.enabled", True, "$.monitoring: Additional properties"),
    ("operator.resources", {"limits": {"memory": "1Gi", "gpu": 1}}, "$.operator.resources.limits: Additional"),
    ("operator.resources", {"limits": {"memory": "1Gi"}, "claims": []}, "$.operator.resources: Additional"),
    ("operator.tolerations", [{"effects": "NoSchedule"}], "$.operator.tolerations[0]: Additional properties"),
    # Wrong values.
    ("images.operator.digest", "sha256:12", "$.images.operator.digest: 'sha256:12' does not match"),
    ("images.operator.digest", DIGEST.upper(), "$.images.operator.digest"),
    ("images.operator.tag", "a tag", "$.images.operator.tag: 'a tag' does not match"),
    ("images.operator.tag", 1.0, "$.images.operator.tag: 1.0 is not of type 'string'"),
    ("images.operator.repository", "ghcr.io/foedus:1.0", "$.images.operator.repository"),
    ("images.operator.repository", "", "$.images.operator.repository"),
    ("images.pullPolicy", "always", "$.images.pullPolicy: 'always' is not one of"),
    ("images.pullSecrets", [{"name": "registry"}], "$.images.pullSecrets[0]"),
    ("operator.replicas", 0, "$.operator.replicas: 0 is less than the minimum of 1"),
    ("operator.replicas", "2", "$.operator.replicas: '2' is not of type 'integer'"),
    ("ledger.replicas", 6, "$.ledger.replicas: 6 is greater than the maximum of 5"),
    ("operator.resources", {}, "$.operator.resources: 'limits' is a required property"),
    ("ledger.resources", {"limits": {"cpu": 1}}, "$.ledger.resources.limits: 'memory' is a required property"),
    ("ledger.resources", {"limits": {"memory": "1 GB"}}, "$.ledger.resources.limits.memory: '1 GB' does not match"),
    ("operator.nodeSelector", {"pool": 1}, "$.operator.nodeSelector.pool: 1 is not of type 'string'"),
    ("operator.nodeSelector", {"a b": "c"}, "$.operator.nodeSelector: 'a b' does not match"),
    ("operator.tolerations", [{"effect": "Never"}], "$.operator.tolerations[0].effect: 'Never' is not one of"),
    ("operator.priorityClassName", "High", "$.operator.priorityClassName: 'High' does not match"),
    ("ledger.certificate.source", "cert-manager", "$.ledger.certificate.source: 'cert-manager' is not one of"),
    ("ledger.certificate.secretName", "", "$.ledger.certificate.secretName: '' does not match"),
    ("ledger.certificate.issuer.kind", "issuer", "$.ledger.certificate.issuer.kind: 'issuer' does not match"),
    ("networkPolicy.enabled", "true", "$.networkPolicy.enabled: 'true' is not of type 'boolean'"),
    ("networkPolicy.apiServer.cidrs", ["10.0.0.1"], "$.networkPolicy.apiServer.cidrs[0]: '10.0.0.1' does not match"),
    ("networkPolicy.apiServer.ports", [], "$.networkPolicy.apiServer.ports: [] should be non-empty"),
    ("networkPolicy.apiServer.ports", [70000], "$.networkPolicy.apiServer.ports[0]: 70000 is greater"),
    ("networkPolicy.metricsFrom", ["Monitoring"], "$.networkPolicy.metricsFrom[0]: 'Monitoring' does not match"),
    ("monitoring.kind", "podmonitor", "$.monitoring.kind: 'podmonitor' is not one of"),
    ("monitoring.interval", "30", "$.monitoring.interval: '30' does not match"),
    ("monitoring.labels", {"release": None}, "$.monitoring.labels.release: None is not of type 'string'"),
]


@pytest.mark.parametrize(("path", "value", "complaint"), BAD)
def test_bad_values(path: str, value: Any, complaint: str) -> None:
    found = complaints(with_value(path, value))
    assert any(each.startswith(complaint) for each in found), found


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every part of the schema that describes an object."""
    if schema.get("type") == "object":
        yield schema
    inside = [*schema.get("properties", {}).values(), *schema.get("definitions", {}).values()]
    for part in [*inside, *([schema["items"]] if "items" in schema else [])]:
        yield from objects(part)


def test_every_object_is_closed() -> None:
    closed = [part.get("additionalProperties") for part in objects(SCHEMA)]
    # Labels have free names and strings as values; what is global belongs to Helm.
    assert [each for each in closed if each is not False] == [
        None,
        SCHEMA["definitions"]["labels"]["additionalProperties"],
    ]


@pytest.mark.parametrize("name", SETS)
def test_the_sets_of_the_golden_files_are_good(name: str) -> None:
    assert complaints(dict(SETS[name])) == []


def test_check_names_a_file_that_differs(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("values.schema.json", "README.md"):
        (tmp_path / name).write_text((CHART / name).read_text("utf-8"), "utf-8")
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "values.yaml").write_text("replicas: 2\n", "utf-8")
    assert main(["--check"], tmp_path) == 1
    assert "values.yaml: differs" in capsys.readouterr().err
    assert main(["--chekc"], tmp_path) == 2


def test_the_chart_bears_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])
