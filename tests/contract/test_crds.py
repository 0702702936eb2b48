"""One table of cases, run against pydantic and against the CRD: jsonschema for the schema, celpy for the rules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from foedus_contract.errors import ExitCode, InvalidInput, Refused
from foedus_engine import names
from foedus_engine.api.parse import check_transition, parse, parse_stored
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.crdgen import ALL_KINDS, main
from foedus_engine.manifests import KINDS, load_manifests, parse_manifest
from foedus_operator.ledgers import read_record
from support.crd_oracle import complaints

ROOT = Path(__file__).parents[2]
SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in (yaml.safe_load(path.read_text("utf-8")) for path in sorted((ROOT / "crds").glob("*.yaml")))
}
DIGEST = "sha256:" + "a" * 64
GONE = object()


def client(number: int, **changes: Any) -> dict[str, Any]:
    name = f"silo-{number:02}"
    data = {"persistentVolumeClaim": {"claimName": name, "path": "train.jsonl"}}
    return {"name": name, "budgetRef": {"name": name}, "data": data} | changes


def job(clients: int = 4) -> dict[str, Any]:
    return {
        "apiVersion": "foedus.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "news"},
        "spec": {
            "model": {"source": {"package": {"name": "minilm"}}, "labels": ["a", "b"]},
            "lora": {"rank": 1, "alpha": 1, "targetModules": ["query"]},
            "training": {"rounds": 20},
            "clients": [client(number) for number in range(clients)],
        },
    }


def on_claim(name: str) -> dict[str, Any]:
    return {"data": {"persistentVolumeClaim": {"claimName": name, "path": "train.jsonl"}}}


def account(**changes: Any) -> dict[str, Any]:
    mechanism = {"kind": "DistributedDiscreteGaussian", "noiseMultiplier": 16.7}
    return {
        "mechanism": mechanism, "reserved": 21, "charged": 3, "lastAttempt": 2, "claimant": "engine", "state": "Open",
    } | changes  # fmt: skip


def budget() -> dict[str, Any]:
    return {
        "apiVersion": "foedus.dev/v1alpha1",
        "kind": "PrivacyBudget",
        "metadata": {"name": "silo-01"},
        "spec": {"dataset": {"digest": DIGEST, "records": 170}, "epsilon": 1, "delta": 1e-5},
        "status": {"accounts": {"uid-1": account()}},
    }


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted path replaced; GONE removes it."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = result
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    key: Any = int(last) if isinstance(place, list) else last
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    return result


C = "spec.clients"
LORA = {"rank": 1, "alpha": 1}
DAMPED = {"model": {**job()["spec"]["model"], "queryDamping": 0.5}}
# path, value, the line that pydantic's side says; None: accepted by both
JOBS: list[tuple[str, Any, str | None]] = [
    ("spec.suspend", False, None),
    ("spec.lora", GONE, None),
    ("spec.lora", None, None),
    ("spec.privacy", None, None),
    ("spec.privacy", {}, None),
    ("spec.training.rounds", GONE, "spec.training.rounds: is required; add it"),
    ("spec.training.rounds", "20", "spec.training.rounds: must be a whole number; write it without quotes"),
    ("spec.training.rounds", 2.5, "spec.training.rounds: must be a whole number"),
    ("spec.training.rounds", 0, "spec.training.rounds: must be at least 1"),
    ("spec.training.rounds", 10_000, "spec.training: rounds + spareAttempts must be at most 10000"),
    ("spec.training.round", 20, "spec.training.round: is not a known field; did you mean rounds?"),
    ("spec.training.microBatchSize", None, None),
    ("spec.training.micro_batch_size", 32, "is not a known field; did you mean microBatchSize?"),
    ("spec.clients.1.budget", {"name": "x"}, "spec.clients[1].budget: is not a known field; did you mean budgetRef?"),
    ("spec.training.optimizer.endFactor", 0, "spec.training.optimizer.endFactor: must be greater than 0"),
    ("spec.training.optimizer.momentum", 1, "spec.training.optimizer.momentum: must be less than 1"),
    ("spec.training.optimizer.learningRate", 0, "spec.training.optimizer.learningRate: must be greater than 0"),
    ("spec.privacy.epsilon", 50, None),
    ("spec.privacy.epsilon", 0, "spec.privacy.epsilon: must be greater than 0"),
    ("spec.privacy.epsilon", -1, "spec.privacy.epsilon: must be greater than 0"),
    ("spec.privacy.epsilon", 51, "spec.privacy.epsilon: must be at most 50"),
    ("spec.privacy.epsilon", "1", "spec.privacy.epsilon: must be a number; write it without quotes"),
    ("spec.privacy.delta", 0, "spec.privacy.delta: must be greater than 0"),
    ("spec.privacy.delta", 1, "spec.privacy.delta: must be less than 1"),
    ("spec.privacy.noise", "Distributed", None),
    ("spec.privacy.noise", "Local", None),
    ("spec.privacy.noise", "local", "spec.privacy.noise: must be 'Distributed' or 'Local'"),
    ("spec.privacy.noise", None, None),
    ("spec.model.labels", ["a"], "spec.model.labels: must have at least 2 entries, and has 1"),
    ("spec.model.labels", ["a", "a"], "spec.model.labels: labels must differ from each other"),
    ("spec.model.labels", ["yes", False], "spec.model.labels[1]: must be text; put it in quotes"),
    ("spec.model.labels", "ab", "spec.model.labels: must be a list"),
    ("spec.model.source", {}, "spec.model.source: exactly one of package and persistentVolumeClaim must be set"),
    ("spec.model.source.persistentVolumeClaim", {"claimName": "x"}, "exactly one of package and persistentVolumeClaim"),
    ("spec.model.source", {"persistentVolumeClaim": {"claimName": "x", "path": "a/b"}}, None),
    ("spec.model.source.package.path", "/etc", "spec.model.source.package.path: must be a relative path"),
    ("spec.model.source.package.path", "a/../b", "must be a relative path"),
    ("spec.model.source.package.path", "..", "must be a relative path"),
    ("spec.model.source.package.path", "a//b", "must be a relative path"),
    ("spec.model.source.package.path", ".cache/..x", "must be a relative path"),
    ("spec.model.source.package.path", ".cache/x.y", None),
    ("spec.lora.targetModules", ["query", "query"], "targetModules must differ from each other"),
    ("spec.lora.targetModules", [], "spec.lora.targetModules: must have at least 1 entries"),
    ("spec.model.queryDamping", 0.5, None),
    ("spec", {**job()["spec"], **DAMPED, "lora": {**LORA, "targetModules": ["attention.self.query"]}}, None),
    ("spec", {**job()["spec"], **DAMPED, "lora": None}, None),
    (
        "spec",
        {**job()["spec"], **DAMPED, "lora": {**LORA, "targetModules": ["value"]}},
        "spec.model.queryDamping: queryDamping needs query among lora's targetModules",
    ),
    ("spec.model.queryDamping", 1.5, "spec.model.queryDamping: must be at most 1"),
    ("spec.lora", "yes", "spec.lora: must be a mapping"),
    ("spec.aggregation.joinTimeout", "1h30m", None),
    ("spec.aggregation.joinTimeout", "24h", None),
    ("spec.aggregation.joinTimeout", "24h1s", "spec.aggregation.joinTimeout: must be between 1s and 24h"),
    ("spec.aggregation.stageTimeout", "999ms", "spec.aggregation.stageTimeout: must be between 1s and 24h"),
    ("spec.aggregation.computeTimeout", "5 minutes", "must be a duration such as 90s, 5m or 1h30m"),
    ("spec.aggregation.computeTimeout", 300, "spec.aggregation.computeTimeout: must be text"),
    ("spec.aggregation.threshold", 3, None),
    ("spec.aggregation.threshold", 4, None),
    ("spec.aggregation.threshold", 5, "spec.aggregation.threshold: must be at least ⌊2n/3⌋+1 and at most n"),
    ("spec.aggregation.colluders", 2, "spec.aggregation.colluders: threshold - colluders must be at least 2"),
    ("spec", job(10)["spec"] | {"aggregation": {"colluders": 3}}, None),
    ("spec", job(10)["spec"] | {"aggregation": {"colluders": 4}}, "spec.aggregation.colluders: twice the threshold"),
    (C, [client(n) for n in range(3)], "spec.clients: must have at least 4 entries, and has 3"),
    (C, [client(n) for n in range(51)], "spec.clients: must have at most 50 entries, and has 51"),
    (f"{C}.1.name", "silo-00", "spec.clients: client names must differ from each other"),
    (f"{C}.1.name", "Silo_1", "spec.clients[1].name: must be lower-case letters, digits and `-`, e.g. silo-01"),
    (f"{C}.1.name", "coordinator", "spec.clients[1].name: a silo cannot be called ca, coordinator, insp"),
    (f"{C}.1.name", "s" * 59, "metadata.name: the job's name and a client's name together must be at most 62"),
    (f"{C}.1.budgetRef.name", "silo-00", "two clients cannot share a budget"),
    (f"{C}.1.data.persistentVolumeClaim.claimName", "silo-00", "two clients cannot have the same data"),
    ("spec.evaluation", on_claim("public"), None),
    ("spec.evaluation", on_claim("silo-01"), "spec.evaluation.data.persistentVolumeClaim.claimName: evaluation cannot"),
    ("spec.model.source", {"persistentVolumeClaim": {"claimName": "silo-03"}}, "claimName: the model cannot be on a"),
    (
        "spec",
        job()["spec"] | {"evaluation": on_claim("x"), "model": {"source": on_claim("x")["data"], "labels": ["a", "b"]}},
        "spec.model.source.persistentVolumeClaim.claimName: the model cannot be on a PersistentVolumeClaim that holds",
    ),
    ("spec.evaluation", on_claim("silo-01-ledger"), "spec.evaluation.data.persistentVolumeClaim.claimName: names that"),
    ("spec.evaluation", on_claim("other-coordinator-output"), "claimName: names that end in -ledger, -state, -coord"),
    ("spec.evaluation", on_claim("state"), None),
    (f"{C}.1.data.persistentVolumeClaim.claimName", "old-silo-00-state", "claimName: names that end in -ledger"),
    ("spec.model.source", {"persistentVolumeClaim": {"claimName": "x-ledger"}}, "claimName: names that end in -ledger"),
    (f"{C}.1.data", {}, "spec.clients[1].data.persistentVolumeClaim: is required"),
    (f"{C}.1.regionRef", {"name": "eu-west-1"}, None),
    ("spec.resources", {"client": {"requests": {"cpu": 1, "memory": "2Gi"}}}, None),
    ("spec.resources", {"client": {"requests": {"cpu": 0.5}}}, "spec.resources.client.requests.cpu: must be text"),
    ("spec.resources", {"client": {"limits": {"memory": "2 GB"}}}, "must be a quantity such as 500m, 2 or 2Gi"),
    ("spec.resources", {"client": {"limits": {"CPU!": "2"}}}, "must map resource names such as cpu and memory"),
    (f"{C}.1.name", "inspector", "spec.clients[1].name: a silo cannot be called ca, coordinator, insp"),
    ("spec.scheduling", {"client": {"tolerations": [{"operator": "Exists"}]}}, None),
    ("spec.scheduling", {"client": {"tolerations": [{"key": "a/b", "value": "c", "effect": "NoSchedule"}]}}, None),
    (
        "spec.scheduling",
        {"client": {"tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 0}]}},
        None,
    ),
    ("spec.scheduling", {"client": {"tolerations": [{}]}}, "operator: Exists takes no value, and Equal needs a key"),
    ("spec.scheduling", {"client": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}, "no value"),
    ("spec.scheduling", {"client": {"tolerations": [{"key": "a", "tolerationSeconds": 1}]}}, "effect NoExecute alone"),
    ("spec.scheduling", {"client": {"tolerations": [{"key": "a b"}]}}, "must be a name such as foedus.dev/operator"),
    ("spec.scheduling", {"coordinator": {"nodeSelector": {"a b": "c"}}}, "nodeSelector: must map label names such as"),
    ("spec.scheduling", {"coordinator": {"runtimeClassName": "Kata"}}, "runtimeClassName: must be lower-case letters"),
    ("spec.scheduling", {"silos": {}}, "spec.scheduling.silos: is not a known field"),
    ("spec.managedBy", "kueue.x-k8s.io/multikueue", None),
    ("spec.managedBy", "a b", "spec.managedBy: must be a name such as foedus.dev/operator"),
    ("spec.backoffLimit", -1, "spec.backoffLimit: must be at least 0"),
    ("spec.activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds: must be at least 1"),
    ("metadata.name", "news.2", "metadata.name: must be at most 51"),
    ("metadata.name", "2news", "metadata.name: must be at most 51"),
    ("metadata.name", "n" * 52, "metadata.name: must be at most 51"),
]
# The last values that are still good.
JOBS += [
    (path, value, None)
    for path, value in (
        ("metadata.name", "n" * 51),
        ("spec.model.maxTokens", 8),
        ("spec.model.maxTokens", 512),
        ("spec.model.labels", [str(number) for number in range(20)]),
        ("spec.model.source.package.path", "a" * 512),
        ("spec.lora.rank", 256),
        ("spec.lora.alpha", 0.5),
        ("spec.lora.targetModules", [f"attention.layer_{number}" for number in range(16)]),
        ("spec.lora.lastLayers", 128),
        ("spec.training.rounds", 1),
        ("spec.training", {"rounds": 9_999, "spareAttempts": 1}),
        ("spec.training.spareAttempts", 0),
        ("spec.training.seed", 2**31 - 1),
        ("spec.training.microBatchSize", 1024),
        ("spec.training.optimizer", {"learningRate": 1000, "momentum": 0, "endFactor": 1}),
        ("spec.privacy.epsilon", 0.001),
        ("spec.privacy.delta", 1e-9),
        ("spec.aggregation", {"joinTimeout": "1s", "stageTimeout": "500ms500ms", "computeTimeout": "1.5h"}),
        (C, [client(number) for number in range(10)]),
        (f"{C}.1.name", "s" * 58),
        ("spec.backoffLimit", 100),
        ("spec.managedBy", "foedus.dev/operator"),
        ("spec.scheduling", {"client": {"nodeSelector": {"topology.kubernetes.io/region": "eu-west-1", "disk": ""}}}),
        ("spec.scheduling", {"client": {"runtimeClassName": "nvidia"}, "coordinator": {}}),
        ("spec.resources", {"client": {"limits": {"nvidia.com/gpu": 1}}}),
        ("spec.ttlSecondsAfterFinished", 0),
        ("spec.activeDeadlineSeconds", 2**31 - 1),
        ("spec.resources", {"coordinator": {"requests": {"memory": "1.5Gi"}, "limits": {"example.com/gpu": 1}}}),
    )
]
BUDGETS: list[tuple[str, Any, str | None]] = [
    ("spec.owner", "Hospital A", None),
    ("spec.leastColluders", 0, None),
    ("spec.leastColluders", -1, "spec.leastColluders: must be at least 0"),
    ("spec.leastColluders", 51, "spec.leastColluders: must be at most 50"),
    ("spec.labels", ["sport", "tech"], None),
    ("spec.labels", [], None),
    ("spec.labels", [""], "spec.labels[0]: must not be empty"),
    ("spec.labels", ["l" * 64], "spec.labels[0]: must have at most 63 characters"),
    ("spec.labels", ["sport", "sport"], "spec.labels: labels must differ from each other"),
    ("spec.labels", [f"label-{n}" for n in range(101)], "spec.labels: must have at most 100 entries, and has 101"),
    ("spec.dataset.digest", "sha256:12", "spec.dataset.digest: must be sha256: and 64 lower-case hex digits"),
    ("spec.dataset.records", 0, "spec.dataset.records: must be at least 1"),
    ("spec.epsilon", GONE, "spec.epsilon: is required; add it"),
    ("spec.delta", 0.00588, None),
    ("spec.delta", 0.00589, "spec.delta: must be below 1 / dataset.records"),
    ("metadata.name", "n" * 57, "metadata.name: must be at most 56 characters"),
    ("status.accounts.uid-1.charged", 21, None),
    ("status.accounts.uid-1.charged", 22, "status.accounts.uid-1.charged: charged must be at most reserved"),
    ("status.accounts.uid-1.state", "Ajar", "status.accounts.uid-1.state: must be 'Open' or 'Closed'"),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "want"), [(job(), *each) for each in JOBS] + [(budget(), *each) for each in BUDGETS]
)
def test_pydantic_and_the_crd_agree(base: dict[str, Any], path: str, value: Any, want: str | None) -> None:
    document = changed(base, path, value)
    found = complaints(SCHEMAS[document["kind"]], document)
    if want is None:
        parse(KINDS[document["kind"]], document)
        assert found == []
        return
    with pytest.raises(InvalidInput) as caught:
        parse(KINDS[document["kind"]], document, source="x.yaml")
    assert str(caught.value).startswith("x.yaml: ")
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code is ExitCode.INVALID_SPEC
    assert found != []


def head(count: int) -> dict[str, Any]:
    return {"count": count, "hash": "sha256:" + "e" * 64, "signature": "c2ln"}


U = "status.accounts.uid-1"
CLOSED = changed(budget(), f"{U}.state", "Closed")
TRANSITIONS: list[tuple[dict[str, Any], str, Any, str | None]] = [
    (job(), "spec.suspend", True, None),
    (job(), "spec.ttlSecondsAfterFinished", 60, None),
    (job(), "spec.activeDeadlineSeconds", 60, None),
    (job(), "spec.backoffLimit", 0, None),
    (job(), "metadata.labels", {"a": "b"}, None),
    (job(), "spec.clients", [client(n) for n in (3, 2, 1, 0)], None),
    (job(), "spec.clients.0.data.persistentVolumeClaim.path", "other", "spec.clients: cannot change"),
    (job(), "spec.clients.4", client(4), "spec.clients: cannot change"),
    (job(), "spec.model.maxTokens", 32, "spec.model: cannot change"),
    (job(), "spec.lora", GONE, "spec.lora: cannot change"),
    (job(), "spec.training.rounds", 21, "spec.training: cannot change"),
    (job(), "spec.privacy.epsilon", 2, "spec.privacy: cannot change"),
    (job(), "spec.privacy.epsilon", 1, None),
    (job(), "spec.aggregation.stageTimeout", "2m", "spec.aggregation: cannot change"),
    (job(), "spec.evaluation", on_claim("public"), "spec.evaluation: cannot change"),
    (job(), "spec.resources", {}, "spec.resources: cannot change"),
    (job(), "spec.scheduling", {"client": {}}, "spec.scheduling: cannot change"),
    (job(), "spec.managedBy", "foedus.dev/operator", "spec.managedBy: cannot change"),
    (budget(), "spec.epsilon", 2, "spec: cannot change: a new decision of the data's holder is a new budget"),
    (budget(), "spec.owner", "B", "spec: cannot change"),
    (budget(), "spec.labels", ["a", "b"], "spec: cannot change"),
    (budget(), f"{U}.charged", 4, None),
    (budget(), f"{U}.charged", 2, f"{U}.charged: cannot fall: what was spent stays spent"),
    (budget(), f"{U}.lastAttempt", 1, f"{U}.lastAttempt: cannot fall: an attempt is charged once"),
    (budget(), f"{U}.lastAttempt", 5, None),
    (
        budget(),
        f"{U}.claimant",
        "team-a/other",
        f"{U}.claimant: cannot change: an account of a job that is not there is closed",
    ),
    (budget(), f"{U}.reserved", 22, f"{U}: mechanism and reserved cannot change"),
    (budget(), f"{U}.mechanism.noiseMultiplier", 17, f"{U}: mechanism and reserved cannot change"),
    (budget(), f"{U}.state", "Closed", None),
    (budget(), "status.accounts.uid-2", account(), None),
    (budget(), U, GONE, "status.accounts: accounts cannot be removed"),
    (budget(), "status.accounts", GONE, "status.accounts: accounts cannot be removed"),
    (budget(), "status", GONE, "status: the ledger cannot be removed"),
    (budget(), "status.head", head(2), None),
    (changed(budget(), "status.head", head(2)), "status.head", head(3), None),
    (changed(budget(), "status.head", head(2)), "status.head", head(1), "status.head: what was seen of the silo's log"),
    (changed(budget(), "status.head", head(2)), "status.head", GONE, "status.head: what was seen of the silo's log"),
    (CLOSED, f"{U}.charged", 4, None),
    (CLOSED, f"{U}.charged", 2, f"{U}.charged: cannot fall: what was spent stays spent"),
    (CLOSED, f"{U}.state", "Open", f"{U}: a closed account is not opened again"),
    (CLOSED, "status.epsilonSpent", 0.5, None),
]


@pytest.mark.parametrize(("old", "path", "value", "want"), TRANSITIONS)
def test_transitions_agree(old: dict[str, Any], path: str, value: Any, want: str | None) -> None:
    new = copy.deepcopy(old)
    if path == "spec.clients.4":
        new["spec"]["clients"].append(value)
    else:
        new = changed(old, path, value)
    model = KINDS[old["kind"]]
    found = complaints(SCHEMAS[old["kind"]], new, _by_name(old, new))
    if want is None:
        check_transition(parse(model, old), parse(model, new))
        assert found == []
        return
    with pytest.raises(InvalidInput, match=r".") as caught:
        check_transition(parse(model, old), parse(model, new))
    assert str(caught.value).startswith(want)
    assert found != []


def _by_name(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return `old` with its clients in the order of `new`: the API server compares a list of type map by key."""
    if old["kind"] != "FederatedTrainingJob":
        return old
    order = [each["name"] for each in new["spec"]["clients"]]
    clients = sorted(old["spec"]["clients"], key=lambda each: order.index(each["name"]))
    return changed(old, "spec.clients", clients)


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], ROOT / "crds", ROOT / "charts/foedus/definitions") == 0
    assert capsys.readouterr().err == ""


def test_check_names_a_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 0
    stale = tmp_path / "foedus.dev_privacybudgets.yaml"
    stale.write_text(stale.read_text("utf-8") + "\n", "utf-8")
    assert main(["--check"], tmp_path) == 1
    assert str(stale) in capsys.readouterr().err
    assert main(["--chekc"], tmp_path) == 2


ALLOWED = {
    "type", "description", "format", "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "default",
    "minProperties", "maxProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "required", "items",
    "properties", "additionalProperties", "anyOf", "x-kubernetes-int-or-string", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
}  # fmt: skip


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inside = [*schema.get("properties", {}).values()]
    inside += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    return [schema] + [each for part in inside for each in parts(part)]


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_schemas_are_structural(kind: str) -> None:
    for part in parts(SCHEMAS[kind]):
        assert set(part) <= ALLOWED
        assert "type" in part or part.get("x-kubernetes-int-or-string")
        assert not ("properties" in part and "additionalProperties" in part)
        assert all(isinstance(part.get(flag, True), bool) for flag in ("exclusiveMinimum", "exclusiveMaximum"))


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_metadata_is_left_to_the_api_server(kind: str) -> None:
    # At the root it refuses a CRD that says more of `metadata` than its type, even a description.
    assert SCHEMAS[kind]["properties"]["metadata"] == {"type": "object"}


@pytest.mark.parametrize(
    "name",
    [
        names.ledger_claim("silo-01"),
        names.client_state("news", "silo-01"),
        names.coordinator_output("news"),
    ],
)
def test_every_claim_of_foedus_bears_a_name_that_no_user_may_give(name: str) -> None:
    assert name.endswith(names.OWN_CLAIM_SUFFIXES)


def test_the_deadline_says_that_downtime_counts() -> None:
    spec = SCHEMAS["FederatedTrainingJob"]["properties"]["spec"]["properties"]
    assert "wall-clock time, as in batch/v1" in spec["activeDeadlineSeconds"]["description"]


def test_columns_and_names() -> None:
    crds = {kind.__name__: yaml.safe_load((ROOT / "crds" / f"foedus.dev_{kind.PLURAL}.yaml").read_text("utf-8"))
            for kind in ALL_KINDS}  # fmt: skip
    got = {
        name: (
            crd["spec"]["names"]["shortNames"],
            [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]],
        )
        for name, crd in crds.items()
    }
    assert got == {
        "FederatedTrainingJob": (["ftj"], ["Phase", "Round", "Clients", "ε-Spent", "ε-Limit", "Ready", "Age"]),
        "PrivacyBudget": (["pb"], ["Dataset", "ε-Spent", "ε-Reserved", "ε-Limit", "Ready"]),
    }
    assert all(crd["spec"]["names"]["categories"] == ["foedus"] for crd in crds.values())
    assert all(crd["spec"]["versions"][0]["subresources"] == {"status": {}} for crd in crds.values())


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_parse_and_round_trip(path: Path) -> None:
    documents = load_manifests(path.read_bytes(), source=path.name)
    assert documents
    for document in documents:
        model = parse_manifest(document, source=path.name)
        assert parse_manifest(model.to_document()) == model
        assert complaints(SCHEMAS[document["kind"]], document) == []
        assert complaints(SCHEMAS[document["kind"]], model.to_document()) == []


def test_stored_objects_may_know_more_but_not_less() -> None:
    newer = {"phase": "Dreaming", "new": 1, "conditions": [{"type": "New", "reason": "New", "status": "True"}]}
    document = changed(changed(job(), "spec.fromTheFuture", {"a": 1}), "status", newer)
    stored = parse_stored(FederatedTrainingJob, document)
    assert parse(KINDS["FederatedTrainingJob"], job()).spec == stored.spec
    with pytest.raises(InvalidInput, match=r"FederatedTrainingJob news: spec.training: is required"):
        parse_stored(FederatedTrainingJob, changed(document, "spec.training", GONE))


def test_of_a_stored_budget_the_ledger_is_read_and_must_be_known() -> None:
    newer = {"conditions": [{"type": "Ready", "reason": "New", "status": "True"}], "new": 1}
    document = budget()
    document["status"] = {**document["status"], **newer}
    document = changed(document, f"{U}.new", {"a": 1})
    assert {uid: each.charged for uid, each in read_record(document).accounts.items()} == {"uid-1": 3}
    wrong = {"state": "New", "charged": "3", "reserved": None, "lastAttempt": 0.5, "mechanism.noiseMultiplier": 0}
    for field, value in wrong.items():
        with pytest.raises(Refused, match=rf"cannot be trusted: account uid-1\.{field}: "):
            read_record(changed(document, f"{U}.{field}", value))
    with pytest.raises(Refused, match=r"cannot be trusted: PrivacyBudget .*: spec\.epsilon: is required"):
        read_record(changed(document, "spec.epsilon", GONE))


@pytest.mark.parametrize(
    ("path", "value", "want"),
    [
        ("kind", "FederatedTrainingJobs", "use apiVersion foedus.dev/v1alpha1 and kind"),
        ("apiVersion", "foedus.dev/v1", "foedus.dev/v1, FederatedTrainingJob is not known"),
        ("kind", GONE, "no kind is not known"),
        ("kind", ["x"], "no kind is not known"),
        ("metadata", GONE, "metadata: is required"),
        ("metadata.generateName", "x-", "metadata.generateName: is not a known field"),
    ],
)
def test_what_is_no_manifest_of_ours(path: str, value: Any, want: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_manifest(changed(job(), path, value), source="x.yaml")
    assert want in str(caught.value)


def test_a_users_status_is_ignored() -> None:
    assert parse_manifest(changed(job(), "status", {"phase": "Complete", "nonsense": 1})).status is None
