"""What the embedded engine makes of every field of a manifest: honoured, not enforced (and said), or refused.

The engine acts on Job, Service, Secret, ConfigMap and PersistentVolumeClaim; it stores ServiceAccount, NetworkPolicy,
PodDisruptionBudget, and the kinds of foedus.dev. A field that no line here classes is refused too: what is unknown does
not start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from foedus_contract.errors import InvalidInput
from foedus_engine.decide.plan import Manifest, key_of
from foedus_engine.names import API_GROUP

ISOLATION = "Processes of one user are not isolated from each other: whoever runs this engine can read all of it."


class Treatment(Enum):
    """What becomes of a field."""

    HONOURED = "Honoured"
    NOT_ENFORCED = "NotEnforced"
    REFUSED = "Refused"


_YES, _NO, _REFUSED = Treatment.HONOURED, Treatment.NOT_ENFORCED, Treatment.REFUSED

# A line classes a field and all below it; the longest line that fits wins. `[]` is any item of a list.
_METADATA: Mapping[str, Treatment] = {
    "apiVersion": _YES,
    "kind": _YES,
    "metadata": _YES,
    "metadata.finalizers": _REFUSED,
    "metadata.generateName": _REFUSED,
}
_POD = "spec.template.spec"
_CONTAINER = f"{_POD}.containers[]"
_VOLUME = f"{_POD}.volumes[]"
_JOB: Mapping[str, Treatment] = {
    "spec.activeDeadlineSeconds": _YES,
    "spec.backoffLimit": _YES,
    "spec.completionMode": _NO,
    "spec.completions": _YES,
    "spec.parallelism": _YES,
    "spec.podFailurePolicy.rules[].action": _YES,
    "spec.podFailurePolicy.rules[].onExitCodes": _YES,
    "spec.podFailurePolicy.rules[].onPodConditions": _NO,
    "spec.podReplacementPolicy": _YES,
    "spec.selector": _REFUSED,
    "spec.suspend": _YES,
    "spec.template.metadata": _YES,
    "spec.template.metadata.finalizers": _NO,
    "spec.ttlSecondsAfterFinished": _NO,
    f"{_POD}.affinity": _NO,
    f"{_POD}.automountServiceAccountToken": _NO,
    f"{_POD}.enableServiceLinks": _NO,
    f"{_POD}.hostIPC": _REFUSED,
    f"{_POD}.hostNetwork": _REFUSED,
    f"{_POD}.hostPID": _REFUSED,
    f"{_POD}.hostUsers": _NO,
    f"{_POD}.imagePullSecrets": _NO,
    f"{_POD}.initContainers": _REFUSED,
    f"{_POD}.nodeSelector": _NO,
    f"{_POD}.priorityClassName": _NO,
    f"{_POD}.restartPolicy": _YES,
    f"{_POD}.runtimeClassName": _NO,
    f"{_POD}.securityContext": _NO,
    f"{_POD}.serviceAccountName": _NO,
    f"{_POD}.terminationGracePeriodSeconds": _YES,
    f"{_POD}.tolerations": _NO,
    f"{_POD}.topologySpreadConstraints": _NO,
    f"{_CONTAINER}.args": _YES,
    f"{_CONTAINER}.command": _YES,
    f"{_CONTAINER}.env[].name": _YES,
    f"{_CONTAINER}.env[].value": _YES,
    f"{_CONTAINER}.env[].valueFrom": _REFUSED,
    f"{_CONTAINER}.envFrom": _REFUSED,
    f"{_CONTAINER}.image": _NO,
    f"{_CONTAINER}.imagePullPolicy": _NO,
    f"{_CONTAINER}.lifecycle": _REFUSED,
    f"{_CONTAINER}.livenessProbe": _NO,
    f"{_CONTAINER}.name": _YES,
    f"{_CONTAINER}.ports": _NO,
    f"{_CONTAINER}.readinessProbe": _NO,
    f"{_CONTAINER}.resources": _NO,
    f"{_CONTAINER}.securityContext": _NO,
    f"{_CONTAINER}.startupProbe": _NO,
    f"{_CONTAINER}.terminationMessagePath": _YES,
    f"{_CONTAINER}.terminationMessagePolicy": _YES,
    f"{_CONTAINER}.volumeMounts[].mountPath": _YES,
    f"{_CONTAINER}.volumeMounts[].name": _YES,
    f"{_CONTAINER}.volumeMounts[].readOnly": _NO,
    f"{_CONTAINER}.volumeMounts[].subPath": _REFUSED,
    f"{_CONTAINER}.workingDir": _REFUSED,
    f"{_VOLUME}.configMap.defaultMode": _NO,
    f"{_VOLUME}.configMap.name": _YES,
    f"{_VOLUME}.configMap.optional": _YES,
    f"{_VOLUME}.emptyDir": _YES,
    f"{_VOLUME}.emptyDir.medium": _NO,
    f"{_VOLUME}.emptyDir.sizeLimit": _NO,
    f"{_VOLUME}.hostPath": _REFUSED,
    f"{_VOLUME}.name": _YES,
    f"{_VOLUME}.persistentVolumeClaim.claimName": _YES,
    f"{_VOLUME}.persistentVolumeClaim.readOnly": _NO,
    f"{_VOLUME}.secret.defaultMode": _NO,
    f"{_VOLUME}.secret.optional": _YES,
    f"{_VOLUME}.secret.secretName": _YES,
}
_SERVICE: Mapping[str, Treatment] = {
    "spec.clusterIP": _NO,
    "spec.externalName": _REFUSED,
    "spec.ports[].appProtocol": _NO,
    "spec.ports[].name": _YES,
    "spec.ports[].nodePort": _REFUSED,
    "spec.ports[].port": _YES,
    "spec.ports[].protocol": _YES,
    "spec.ports[].targetPort": _NO,
    "spec.publishNotReadyAddresses": _NO,
    "spec.selector": _YES,
    "spec.type": _YES,
}
_CONTENT: Mapping[str, Treatment] = {
    "binaryData": _YES,
    "data": _YES,
    "immutable": _NO,
    "type": _YES,
}
_CLAIM: Mapping[str, Treatment] = {
    "spec.accessModes": _NO,
    "spec.dataSource": _REFUSED,
    "spec.dataSourceRef": _REFUSED,
    "spec.resources": _NO,
    "spec.selector": _REFUSED,
    "spec.storageClassName": _NO,
    "spec.volumeMode": _NO,
    "spec.volumeName": _REFUSED,
}
# Kept, and shown; what they are for needs users, a network and nodes of their own.
_ACCOUNT: Mapping[str, Treatment] = {"automountServiceAccountToken": _NO}
_RULES: Mapping[str, Treatment] = {"spec": _NO}
TREATMENTS: Mapping[tuple[str, str], Mapping[str, Treatment]] = {
    ("batch/v1", "Job"): {**_METADATA, **_JOB},
    ("v1", "Service"): {**_METADATA, **_SERVICE},
    ("v1", "Secret"): {**_METADATA, **_CONTENT},
    ("v1", "ConfigMap"): {**_METADATA, **_CONTENT},
    ("v1", "PersistentVolumeClaim"): {**_METADATA, **_CLAIM},
    ("v1", "ServiceAccount"): {**_METADATA, **_ACCOUNT},
    ("networking.k8s.io/v1", "NetworkPolicy"): {**_METADATA, **_RULES},
    ("policy/v1", "PodDisruptionBudget"): {**_METADATA, **_RULES},
}

# Fields with one value that the engine can honour: what a Job of one process on one machine is.
_FIXED: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "Job": {
        "spec.parallelism": (1,),
        "spec.completions": (1,),
        f"{_POD}.restartPolicy": ("Never",),
        f"{_CONTAINER}.terminationMessagePolicy": ("File",),
    },
    "Service": {"spec.type": ("ClusterIP",), "spec.ports[].protocol": ("TCP",)},
}


def limitations() -> tuple[str, ...]:
    """Return what a user of the embedded engine must know, one sentence or list a line."""
    lines = [ISOLATION]
    for (_, kind), table in TREATMENTS.items():
        paths = sorted(path for path, treatment in table.items() if treatment is Treatment.NOT_ENFORCED)
        if paths:
            lines.append(f"{kind}, not enforced here: {', '.join(paths)}.")
    return tuple(lines)


def classify(manifest: Manifest, path: str) -> Treatment | None:
    """Return the treatment of one field path of a manifest; None when no line classes it."""
    table = TREATMENTS[manifest["apiVersion"], manifest["kind"]]
    line = path
    while line:
        if line in table:
            return table[line]
        line = line.removesuffix("[]") if line.endswith("[]") else line.rpartition(".")[0]
    # What lies above classed fields and is a leaf all the same is an empty list or mapping: it says nothing.
    return _YES if any(known.startswith((f"{path}.", f"{path}[]")) for known in table) else None


def field_paths(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of `value` with its path; list items share one path, an empty container is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            # A dot inside a key (a label's) is no step of the path.
            yield from field_paths(item, f"{path}.{str(key).replace('.', '/')}".lstrip("."))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        for item in value:
            yield from field_paths(item, f"{path}[]")
    else:
        yield path, value


def check_supported(manifest: Manifest) -> None:
    """Raise InvalidInput naming the first thing in the manifest that the embedded engine cannot honour."""
    where = str(key_of(manifest))
    kind = (manifest["apiVersion"], manifest["kind"])
    if not manifest["metadata"].get("namespace"):
        raise InvalidInput("has no namespace", where=where, cure="set metadata.namespace")
    if manifest["apiVersion"].partition("/")[0] == API_GROUP:
        return
    if kind not in TREATMENTS:
        raise InvalidInput("the embedded engine has no such kind", where=where, cure="use a Kubernetes cluster for it")
    for path, value in field_paths(manifest):
        if path.partition(".")[0] != "status":
            _check_field(manifest, path, value, where)
    _check_keys(manifest, where)
    if manifest["kind"] == "Job":
        _check_pod(manifest["spec"]["template"]["spec"], where)


def _check_keys(manifest: Manifest, where: str) -> None:
    for key in (*manifest.get("data", ()), *manifest.get("binaryData", ())):
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) or key.startswith(".."):
            cure = "use letters, digits, `-`, `_` and `.`"
            raise InvalidInput(f"data has the key {key!r}, which cannot be a file name", where=where, cure=cure)


def _check_field(manifest: Manifest, path: str, value: object, where: str) -> None:
    treatment = classify(manifest, path)
    if treatment is None or treatment is Treatment.REFUSED:
        raise InvalidInput(f"the embedded engine does not support {path}", where=where, cure="remove it")
    allowed = _FIXED.get(manifest["kind"], {}).get(path)
    if allowed is not None and value not in allowed:
        raise InvalidInput(f"{path} can only be {allowed[0]} here", where=where, cure=f"set it to {allowed[0]}")


def _check_pod(pod: Mapping[str, Any], where: str) -> None:
    if pod.get("restartPolicy") != "Never":
        cure = "set it to Never"
        raise InvalidInput("spec.template.spec.restartPolicy can only be Never here", where=where, cure=cure)
    containers = pod["containers"]
    if len(containers) != 1:
        cure = "use one container"
        raise InvalidInput(f"the pod has {len(containers)} containers", where=where, cure=cure)
    command = containers[0].get("command", ())
    if not command or command[0] not in {"python", "python3"}:
        cure = "there is no image here: start the command with python"
        raise InvalidInput("the container's command is not python", where=where, cure=cure)
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    mounts = containers[0].get("volumeMounts", ())
    _check_mounts([mount["mountPath"] for mount in mounts], where)
    for mount in mounts:
        if mount["name"] not in volumes:
            raise InvalidInput(f"no volume {mount['name']}", where=where, cure="name one of spec.template.spec.volumes")


def _check_mounts(paths: Sequence[str], where: str) -> None:
    """Refuse mounts that are not absolute, climb, or lie inside one another: they are links in one tree."""
    for path in paths:
        parts = path.rstrip("/").split("/")
        if parts[0] or len(parts) < 2 or {"", ".", ".."} & set(parts[1:]):
            raise InvalidInput(f"mountPath {path} is not an absolute clean path", where=where, cure="write it plainly")
    ordered = sorted(f"{path.rstrip('/')}/" for path in paths)
    for outer, inner in itertools.pairwise(ordered):
        if inner.startswith(outer):
            raise InvalidInput(f"mount {inner} lies inside mount {outer}", where=where, cure="mount side by side")
