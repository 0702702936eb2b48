"""What is known of the base model, by whom it was looked at, and when it is looked at again: pure.

The operator has neither the volumes nor the packages of the pods, so a short Job looks at the model and leaves what
planning needs. It is then kept in the job's status. The embedded engine sees the volumes itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from foedus_contract.inspection import Inspection
from foedus_engine import names
from foedus_engine.decide.observed import ChildView, ModelView, Observed, PodsView
from foedus_engine.decide.plan import ObjectKey

AGAIN_SECONDS = 120.0  # after a failure somebody has to mend the volume or the image


def model_in_status(status: Mapping[str, Any]) -> ModelView | None:
    """Return the model that an earlier pass has put into the status; None when there is none."""
    stored = status.get("model")
    if stored is None:
        return None
    modules = {module["name"]: (module["inputs"], module["outputs"]) for module in stored["modules"]}
    return ModelView(stored["digest"], stored["hiddenSize"], stored["layers"], stored["positions"], modules)


def model_fields(model: ModelView | None) -> dict[str, Any] | None:
    """Return the model as the status shows it; None while it is not known or cannot be used."""
    if model is None or model.problem:
        return None
    return {
        "digest": model.digest,
        "hiddenSize": model.hidden_size,
        "layers": model.layers,
        "positions": model.positions,
        "modules": [
            {"name": name, "inputs": inputs, "outputs": outputs} for name, (inputs, outputs) in model.modules.items()
        ],
    }


def inspected_model(child: ChildView | None, pods: PodsView) -> ModelView | None:
    """Return what the inspecting Job has found; None while it is not over."""
    if child is None:
        return None
    try:
        found = Inspection.model_validate_json(pods.result, extra="ignore") if pods.result else None
    except ValidationError:
        found = None
    if found is not None:
        return ModelView(problem=found.problem) if found.model is None else ModelView.of(found.model)
    if not child.finished:
        return None
    detail = f": {child.message}" if child.message else ""
    return ModelView(problem=f"spec.model.source: the process that looks at the base model failed{detail}")


def superfluous_inspector(observed: Observed, now: datetime) -> tuple[ObjectKey, ...]:
    """Return the inspecting Job and its ConfigMap once the status has the model, or when they are to be made again."""
    name = names.inspector(observed.meta.name)
    job = observed.children.get(("Job", name))
    failed_at = job.ended if job is not None and observed.model is not None and observed.model.problem else None
    again = failed_at is not None and now >= failed_at + timedelta(seconds=AGAIN_SECONDS)
    return inspector_children(observed) if again or "model" in observed.meta.status else ()


def inspector_children(observed: Observed) -> tuple[ObjectKey, ...]:
    """Return what is there of the inspecting Job."""
    name = names.inspector(observed.meta.name)
    return tuple(
        ObjectKey(names.CHILD_API_VERSIONS[kind], kind, observed.meta.namespace, name, child.uid)
        for kind in ("Job", "ConfigMap")
        if (child := observed.children.get((kind, name))) is not None
    )
