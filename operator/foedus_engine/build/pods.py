"""Pods as every role shares them: the restricted security profile, mounts, one container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foedus_contract import paths
from foedus_contract.exit_codes import FINAL_EXIT_CODES
from foedus_contract.ledger_wire import AUDIENCE
from foedus_contract.pages import HEALTH, PROBE_PORT
from foedus_contract.run_spec import LedgerService
from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_labels, build_metadata

CONTAINER = "workload"
ENTRY = ("python", "-m", "foedus_workloads.entry")
RUN_FOLDER = paths.PROGRESS_FILE.rpartition("/")[0]
READ_BY_GROUP = 0o440  # the kubelet gives a Secret's files to root and the pod's group
TOKEN_SECONDS = 3600  # the kubelet renews it after four fifths of that
UNPRIVILEGED = 65532  # "nonroot" of the distroless images
# What does not answer for five minutes hangs; on a busy node starting and loading take one or two.
LIVENESS: Mapping[str, Any] = {
    "httpGet": {"path": HEALTH, "port": PROBE_PORT, "scheme": "HTTPS"},
    "periodSeconds": 30,
    "timeoutSeconds": 10,
    "failureThreshold": 10,
}
GRACE_SECONDS = 30  # a client finishes its fsync, a coordinator its result file


@dataclass(frozen=True)
class Settings:
    """What an installation decides for all jobs."""

    image: str = "ghcr.io/foedus-dev/foedus:0.1.0"
    image_pull_secrets: tuple[str, ...] = ()  # Secrets of the job's namespace
    poll_seconds: float = 1.0  # between two looks at what running pods report; nothing announces it
    ledger: LedgerService | None = None  # in a cluster: who charges for the silos; None: each has its file


@dataclass(frozen=True)
class Mount:
    """One volume of a pod and where it is mounted."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = True


@dataclass(frozen=True)
class Workload:
    """What differs from role to role in a Job."""

    name: str
    component: str
    silo: str
    mounts: Sequence[Mount]
    resources: Mapping[str, Any]
    backoff_limit: int
    suspend: bool
    scheduling: Mapping[str, Any] = field(default_factory=dict)  # fields of the pod that say where it may run
    queue: str = ""  # of Kueue, which then lifts the suspension
    keep: bool = False  # a deleted pod stays until its result has been read
    probed: bool = False  # it answers on PROBE_PORT


def secret_mount(name: str, path: str, secret: str) -> Mount:
    """Return a Secret's files, readable by the pod's group only."""
    return Mount(name, path, {"secret": {"secretName": secret, "defaultMode": READ_BY_GROUP}})


def config_mount(name: str, path: str, config_map: str, *, optional: bool = False) -> Mount:
    """Return a ConfigMap's files; an optional one may appear while the pod runs."""
    source: dict[str, Any] = {"name": config_map}
    return Mount(name, path, {"configMap": source | ({"optional": True} if optional else {})})


def claim_mount(name: str, path: str, claim: str, *, read_only: bool) -> Mount:
    """Return a PersistentVolumeClaim's folder."""
    source: dict[str, Any] = {"claimName": claim}
    return Mount(name, path, {"persistentVolumeClaim": source | ({"readOnly": True} if read_only else {})}, read_only)


def ledger_mounts(settings: Settings) -> list[Mount]:
    """Return the token that the pod shows to the ledger service, and that is worth nothing elsewhere."""
    if settings.ledger is None:
        return []
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": paths.LEDGER_TOKEN_FILE}
    source = {"defaultMode": READ_BY_GROUP, "sources": [{"serviceAccountToken": token}]}
    return [Mount("ledger-token", paths.LEDGER_TOKEN_FOLDER, {"projected": source})]


def build_job(owner: Owner, workload: Workload, settings: Settings) -> dict[str, Any]:
    """Return the batch Job of one role: one pod at a time, started again only where that can help."""
    metadata = build_metadata(owner, workload.name, workload.component, workload.silo)
    queue = {names.QUEUE_LABEL: workload.queue} if workload.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, "labels": {**metadata["labels"], **queue}},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": workload.backoff_limit,
            "suspend": workload.suspend or bool(workload.queue),
            # A second pod beside one that is still ending would be fenced off by its incarnation; do not start it.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    "labels": build_labels(owner.name, workload.component, workload.silo),
                    **({"finalizers": [names.RESULT_FINALIZER]} if workload.keep else {}),
                },
                "spec": build_pod_spec(
                    ENTRY,
                    ("--spec", names.RUN_SPEC_PATH),
                    workload.mounts,
                    workload.resources,
                    settings,
                    service_account=names.service_account(owner.name, workload.component),
                    scheduling=workload.scheduling,
                    probed=workload.probed,
                ),
            },
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": sorted(FINAL_EXIT_CODES)},
        },
    ]


def build_pod_spec(
    command: Sequence[str],
    arguments: Sequence[str],
    mounts: Sequence[Mount],
    resources: Mapping[str, Any],
    settings: Settings,
    *,
    service_account: str,
    scheduling: Mapping[str, Any],
    probed: bool = False,
) -> dict[str, Any]:
    """Return a pod with one container, under the restricted security profile and without a token."""
    scratch = [Mount("run", RUN_FOLDER, {"emptyDir": {}}, False), Mount("tmp", "/tmp", {"emptyDir": {}}, False)]  # noqa: S108
    mounts = [*mounts, *scratch]
    pull = [{"name": secret} for secret in settings.image_pull_secrets]
    return {
        "restartPolicy": "Never",
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UNPRIVILEGED,
            "runAsGroup": UNPRIVILEGED,
            "fsGroup": UNPRIVILEGED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(command, arguments, mounts, resources, settings)
            | ({"livenessProbe": LIVENESS} if probed else {})
        ],
        "volumes": [{"name": mount.name, **mount.source} for mount in mounts],
        **({"imagePullSecrets": pull} if pull else {}),
        **scheduling,
    }


def _container(
    command: Sequence[str],
    arguments: Sequence[str],
    mounts: Sequence[Mount],
    resources: Mapping[str, Any],
    settings: Settings,
) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.image,
        "command": list(command),
        "args": list(arguments),
        "resources": dict(resources),
        "terminationMessagePath": paths.TERMINATION_FILE,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [_volume_mount(mount) for mount in mounts],
    }


def _volume_mount(mount: Mount) -> dict[str, Any]:
    base: dict[str, Any] = {"name": mount.name, "mountPath": mount.path}
    return base | ({"readOnly": True} if mount.read_only else {})
