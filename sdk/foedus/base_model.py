"""The base model as the engine plans with it: read here, because the engine itself knows no model format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import ModelSource as FolderSource
from foedus_engine.api.training_parts import ModelSource
from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.decide.observed import ModelView
from foedus_workloads.training.base import check_base, resolve
from foedus_workloads.training.inspection import describe

ClaimFolders = Callable[[str], Path | None]


def claim_folders(cluster: EmbeddedCluster, namespace: str) -> ClaimFolders:
    """Return the function that finds a claim's folder in one namespace; a worker thread calls it."""
    return lambda claim: cluster.present_folder(namespace, claim)


def read_model(source: ModelSource, folder_of: ClaimFolders) -> ModelView:
    """Return digest and sizes of the base model; what is wrong with it stands in `problem`."""
    try:
        return ModelView.of(describe(check_base(locate_model(source, folder_of))))
    except FoedusError as error:
        return ModelView(problem=str(error))


def locate_model(source: ModelSource, folder_of: ClaimFolders) -> Path:
    """Return the base model's folder; raises InvalidInput when package or claim is not there."""
    if source.package is not None:
        return resolve(FolderSource(package=source.package.name, package_path=source.package.path or ""), None)
    claim = source.persistent_volume_claim
    assert claim is not None
    folder = folder_of(claim.claim_name)
    if folder is None:
        raise InvalidInput(
            f"no volume {claim.claim_name}",
            where="spec.model.source.persistentVolumeClaim",
            cure="make a folder of that name below --volumes",
            code=ExitCode.INVALID_MODEL,
        )
    return folder / (claim.path or "")
