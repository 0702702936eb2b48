"""Where things are mounted in a pod, and how a process of the embedded engine finds the same places.

In a pod the paths are absolute. The embedded engine starts processes without a mount namespace: it sets
FOEDUS_ROOT to a folder in which the same tree is laid out with links, and `locate` puts it in front.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT_VARIABLE = "FOEDUS_ROOT"
ENDPOINTS_VARIABLE = "FOEDUS_ENDPOINTS"  # a JSON file: {"service.namespace:port": "127.0.0.1:4711"}
ENGINE_PIPE_VARIABLE = "FOEDUS_ENGINE_PIPE"  # a file descriptor that reads end-of-file once the engine is gone
RUN_SPEC_KEY = "run-spec.json"  # key in the role's ConfigMap
SPEC_FOLDER = "/foedus/spec"
TLS_FOLDER = "/foedus/tls"
POLICY_FOLDER = "/foedus/policy"
DATA_FOLDER = "/foedus/data"
STATE_FOLDER = "/foedus/state"
LEDGER_FOLDER = "/foedus/ledger"
LEDGER_TOKEN_FOLDER = "/foedus/ledger-token"  # noqa: S105 - a place, no secret
LEDGER_TOKEN_FILE = "token"  # noqa: S105 - a name
MODEL_FOLDER = "/foedus/model"
WEIGHTS_FOLDER = "/foedus/weights"
OUTPUT_FOLDER = "/foedus/output"
ADAPTER_FOLDER = "adapter"  # below it: what the job delivers
PROGRESS_FILE = "/foedus/run/progress.jsonl"
TERMINATION_FILE = "/foedus/run/termination-log"


def locate(path: str, *, root: Path | None) -> Path:
    """Return where `path` of a run spec lies: itself in a pod, below `root` in the embedded engine."""
    return Path(path) if root is None else root / path.lstrip("/")


def resolve_endpoint(service: str, port: int, endpoints: Path | None) -> tuple[str, int]:
    """Return (host, port) to dial for a Service: its own name in a cluster, else what the endpoints file says.

    Raises KeyError when the file does not know the service.
    """
    if endpoints is None:
        return service, port
    host, _, number = json.loads(endpoints.read_text("utf-8"))[f"{service}:{port}"].rpartition(":")
    return host, int(number)
