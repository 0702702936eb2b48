"""What one installation sets, read from the environment once."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foedus_contract import paths
from foedus_contract.errors import InvalidInput
from foedus_contract.run_spec import LedgerService
from foedus_engine import names
from foedus_engine.build.pods import Settings
from foedus_operator.serving import ServerFiles

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
PREFIX = "FOEDUS_OPERATOR_"
POLL_SECONDS = 5.0  # a job's status changes at most so often by progress; reading it takes a request a pod


@dataclass(frozen=True)
class Config:
    """How this process is to run. `kubeconfig` None: as a pod, by its ServiceAccount."""

    identity: str  # who holds the lease: the pod's name and UID
    namespace: str  # where the lease lies
    kubeconfig: Path | None = None
    lease: str = "foedus-operator"
    health_port: int = 8081
    files: ServerFiles | None = None  # of that port; None: it is opened for this machine alone, without TLS
    workload: Settings = field(default_factory=Settings)


def read_config(environ: Mapping[str, str]) -> Config:
    """Return the configuration; raises InvalidInput naming the variable that is wrong."""
    kubeconfig = environ.get("KUBECONFIG", "")
    image = environ.get(f"{PREFIX}WORKLOAD_IMAGE", "")
    return Config(
        identity=_name(environ, "IDENTITY"),
        namespace=_name(environ, "NAMESPACE"),
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
        lease=_name(environ, "LEASE", Config.lease),
        health_port=_port(environ, "HEALTH_PORT", Config.health_port),
        files=_files(environ),
        workload=Settings(
            image=image or Settings.image,
            ledger=_ledger(environ),
            image_pull_secrets=_names(environ, "IMAGE_PULL_SECRETS"),
            poll_seconds=POLL_SECONDS,
        ),
    )


def _name(environ: Mapping[str, str], name: str, default: str = "") -> str:
    value = environ.get(PREFIX + name, default)
    if not _NAME.fullmatch(value) or len(value) > 253:
        raise InvalidInput("must be a lower-case DNS name", where=PREFIX + name, cure="set it, as the chart does")
    return value


def _names(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list."""
    parts = filter(None, environ.get(PREFIX + name, "").split(","))
    return tuple(_name({PREFIX + name: part}, name) for part in parts)


def _ledger(environ: Mapping[str, str]) -> LedgerService | None:
    """Return where jobs find the ledger service, and the authorities that may have signed its certificate."""
    if not environ.get(f"{PREFIX}LEDGER_HOST"):
        return None
    host = _name(environ, "LEDGER_HOST")
    try:
        ca = Path(environ.get(f"{PREFIX}LEDGER_CA", "")).read_text("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ca)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        cure = "mount the authority's certificate, and name its file, as the chart does"
        raise InvalidInput("names no file with PEM certificates", where=f"{PREFIX}LEDGER_CA", cure=cure) from None
    token = names.mounted(paths.LEDGER_TOKEN_FOLDER, paths.LEDGER_TOKEN_FILE)
    return LedgerService(host=host, port=_port(environ, "LEDGER_PORT", 8443), ca=ca, token=token)


def _files(environ: Mapping[str, str]) -> ServerFiles | None:
    """Return where the certificate of the port lies; none is taken for what was to be one."""
    places = {name: environ.get(PREFIX + name, "") for name in ("CERTIFICATE", "KEY")}
    if not any(places.values()):
        return None
    for name, place in places.items():
        if not Path(place or "/nothing").is_file():
            cure = "mount the Secret with the certificate, and name its files, as the chart does"
            raise InvalidInput("names no file", where=PREFIX + name, cure=cure)
    return ServerFiles(Path(places["CERTIFICATE"]), Path(places["KEY"]))


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(PREFIX + name, str(default))
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise InvalidInput("must be a port number", where=PREFIX + name, cure="use 1 to 65535")
    return int(text)
