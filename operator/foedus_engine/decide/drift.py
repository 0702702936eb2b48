"""Which children are not as they should be: pure.

A child is applied when it is absent, when it was made from another manifest (an annotation has that one's digest), or
when somebody has changed one of its fields since. What others have added is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foedus_contract.canonical import digest
from foedus_engine import names
from foedus_engine.decide.observed import ChildView, Observed
from foedus_engine.decide.plan import Manifest

# What batch/v1 lets change in a Job that is there; a process keeps the template that it was started with.
JOB_FIELDS = ("suspend", "backoffLimit", "parallelism")


def drifted(manifests: Sequence[Manifest], observed: Observed) -> tuple[Manifest, ...]:
    """Return what is to be applied, each for the very object that was seen, so that a late write changes no other."""
    found = []
    for manifest in manifests:
        seen = observed.children.get((manifest["kind"], manifest["metadata"]["name"]))
        if seen is None:
            found.append(_marked(manifest))
        elif (wanted := _settled(manifest, seen)) is not None:
            found.append(for_the_seen(wanted, seen))
    return tuple(found)


def for_the_seen(manifest: Manifest, seen: ChildView) -> Manifest:
    """Return the manifest for the very version of the object that was seen."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": seen.uid, "resourceVersion": seen.version}}


def _settled(manifest: Manifest, seen: ChildView) -> Manifest | None:
    """Return the manifest for a child that is there; None when there is nothing to change."""
    if manifest["kind"] == "Job":
        return _settled_job(manifest, seen)
    marked = _marked(manifest)
    return None if _holds(marked, seen.content) else marked


def _settled_job(manifest: Manifest, seen: ChildView) -> Manifest | None:
    if seen.finished:
        return None
    live: Mapping[str, Any] = seen.content.get("spec", {})
    fields = {name: manifest["spec"][name] for name in JOB_FIELDS}
    if names.QUEUE_LABEL in manifest["metadata"]["labels"] and "suspend" in live:
        # The queue admits the Job by lifting its suspension; only a job that is suspended itself is held back.
        fields["suspend"] = fields["suspend"] or live["suspend"]
    spec = {**{name: live.get(name, value) for name, value in manifest["spec"].items()}, **fields}
    wanted = {**manifest, "spec": spec}
    return None if _holds(wanted, seen.content) else wanted


def _marked(manifest: Manifest) -> Manifest:
    if manifest["kind"] == "Job":
        return manifest  # what it was made from does not change it any more
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.DIGEST_ANNOTATION: digest("foedus/manifest", manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _holds(wanted: object, live: object) -> bool:
    """Say whether all of `wanted` stands in `live`; the server fills in more, in items of lists too."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(_holds(value, live.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        there = live if isinstance(live, list | tuple) else ()  # the server drops lists that are empty
        return len(wanted) == len(there) and all(map(_holds, wanted, there))
    return wanted == live
