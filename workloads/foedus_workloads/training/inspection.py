"""Looks at a base model for whoever plans with it and has neither its volume nor its package."""

from __future__ import annotations

from foedus_contract.inspection import InspectedModel, Inspection
from foedus_contract.run_spec import InspectorRunSpec
from foedus_workloads.training.base import BaseModel, check_base, resolve
from foedus_workloads.training.surroundings import Surroundings


def run_inspector(spec: InspectorRunSpec, around: Surroundings) -> Inspection:
    """Return the model that the spec names; raises InvalidInput saying what is wrong with it."""
    return Inspection(model=describe(check_base(resolve(spec.model, around.root))))


def describe(base: BaseModel) -> InspectedModel:
    """Return a checked base model as planning needs to know it."""
    return InspectedModel(
        digest=base.digest,
        hidden_size=base.hidden,
        layers=base.layers,
        positions=base.positions,
        modules=base.modules,
    )
