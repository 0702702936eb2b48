"""What one installation sets for the ledger service, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foedus_contract.errors import InvalidInput
from foedus_operator.serving import ServerFiles

PREFIX = "FOEDUS_LEDGER_"


@dataclass(frozen=True)
class Config:
    """How this process is to run. `kubeconfig` None: as a pod, by its ServiceAccount."""

    files: ServerFiles
    port: int = 8443
    kubeconfig: Path | None = None


def read_config(environ: Mapping[str, str]) -> Config:
    """Return the configuration; raises InvalidInput naming the variable that is wrong."""
    kubeconfig = environ.get("KUBECONFIG", "")
    return Config(
        files=ServerFiles(_file(environ, "CERTIFICATE"), _file(environ, "KEY")),
        port=_port(environ, "PORT", Config.port),
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
    )


def _file(environ: Mapping[str, str], name: str) -> Path:
    path = Path(environ.get(PREFIX + name) or "/nothing")
    if not path.is_file():
        cure = "mount the Secret with the service's certificate, and name its files, as the chart does"
        raise InvalidInput("names no file", where=PREFIX + name, cure=cure)
    return path


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(PREFIX + name, str(default))
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise InvalidInput("must be a port number", where=PREFIX + name, cure="use 1 to 65535")
    return int(text)
