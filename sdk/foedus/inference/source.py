"""Where a model lies that a user names: a folder, or an installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path, PurePosixPath

from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import ModelSource
from foedus_workloads.model_folder import CONFIG_FILE
from foedus_workloads.training.base import resolve

WEIGHTS_SUFFIX = ".safetensors"


def require_torch() -> None:
    """Raise Unavailable where torch, without which no model is read, is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("torch is not installed", cure="install the project's extra `training`")


def find_model(name: str) -> Path:
    """Return the folder of a model: `name` itself, or the one inside the package of that name, executing nothing.

    `PACKAGE:FOLDER` says which, where a package holds several. Raises InvalidInput when there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    package, _, inside = name.partition(":")
    try:
        files = importlib.metadata.distribution(package).files or ()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise _refused(name, "there is neither such a folder nor such an installed package") from None
    if not inside:
        inside = _only_folder(name, [PurePosixPath(file) for file in files])
    return resolve(ModelSource(package=package, package_path=inside), None)


def _only_folder(name: str, files: list[PurePosixPath]) -> str:
    # Parts of a model, such as a pooling, have a configuration too, and no weights.
    weighty = {file.parent for file in files if file.suffix == WEIGHTS_SUFFIX}
    found = sorted(str(file.parent) for file in files if file.name == CONFIG_FILE and file.parent in weighty)
    if len(found) == 1:
        return found[0]
    if not found:
        raise _refused(name, "the package holds no model")
    raise _refused(name, f"the package holds several models: {', '.join(found)}")


def _refused(name: str, what: str) -> InvalidInput:
    cure = "give a folder with config.json, or PACKAGE:FOLDER"
    return InvalidInput(what, where=f"model {name}", cure=cure, code=ExitCode.INVALID_MODEL)
