"""Folders of the members of one call on this machine: made for it, gone with it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from foedus.inference.places import Addresses
from foedus_contract import paths
from foedus_contract.durable import in_use, open_locked, unwritable
from foedus_contract.mpc_wire import DEALER, member_name
from foedus_contract.run_spec import PartyAddress, PartyRunSpec, TlsFiles
from foedus_engine.cluster.embedded import make_private
from foedus_engine.cluster.processes import try_lock
from foedus_engine.decide.plan import ContentRequest
from foedus_engine.names import CA_CERTIFICATE_KEY, CERTIFICATE_KEY, PRIVATE_KEY_KEY
from foedus_engine.pki import Entropy, make_authority, make_leaf
from foedus_workloads.inference.shares import WEIGHTS_FILE
from foedus_workloads.transport.caller import CallerPlace
from foedus_workloads.transport.tls import TlsPaths, caller_uri, party_uri

FOLDER = "infer"  # below the state folder
NAMESPACE, CLUSTER, CALLER = "local", "infer", "owner"
PORT = 8443  # of each member's Service; the endpoints file says which address stands for it
TLS = paths.TLS_FOLDER
TLS_FILES = TlsFiles(
    certificate=f"{TLS}/{CERTIFICATE_KEY}", key=f"{TLS}/{PRIVATE_KEY_KEY}", ca=f"{TLS}/{CA_CERTIFICATE_KEY}"
)
LOCK = "lock"
VALID_SECONDS = 7 * 24 * 3600  # ten thousand texts of a minute each


@contextmanager
def call_folder(state: Path) -> Iterator[Path]:
    """Give a fresh folder for one call and remove it at the end; folders of calls that were killed go first."""
    if not os.path.isdir(state):
        make_private(state)  # one that is there may be others' too, such as /tmp, and keeps its mode
    above = state.absolute() / FOLDER  # processes with other working folders look below it
    make_private(above)
    with open_locked(above / LOCK, busy=in_use(above / LOCK, "call"), wait_seconds=10.0):
        _sweep(above)
        try:
            folder = Path(tempfile.mkdtemp(prefix="call-", dir=above))
            lock = try_lock(folder / LOCK)
        except OSError as error:
            raise unwritable(above, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sweep(above: Path) -> None:
    """Remove the folders that no living call holds: they may have shares of weights in them."""
    for folder in above.glob("call-*"):
        with suppress(OSError):
            lock = try_lock(folder / LOCK)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def pod_folder(folder: Path, party: int) -> Path:
    """Return the folder of one member's process."""
    return folder / service(party).service


def service(party: int) -> PartyAddress:
    """Return where a member is found: the endpoints file says which address stands for it."""
    return PartyAddress(service=member_name(party).replace(" ", "-"), port=PORT)


def inside(folder: Path, party: int, path: str) -> Path:
    """Return where a path of a party's run spec lies."""
    return paths.locate(path, root=pod_folder(folder, party) / "root")


def shares_path(folder: Path, party: int) -> Path:
    """Return where a party's shares lie; makes the folder, in one that is this user's alone."""
    below = inside(folder, party, paths.WEIGHTS_FOLDER)
    try:
        below.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(below, error) from None
    return below / WEIGHTS_FILE


def lay_out(folder: Path, addresses: Addresses, spec: PartyRunSpec, *, now: datetime, entropy: Entropy) -> CallerPlace:
    """Write run specs, endpoints and certificates of all members, and the client's; return the client's place.

    `spec` is party 0's. The authority's key is never written: no other certificate can be made for this call.
    """
    authority = make_authority(
        ContentRequest("Authority", "foedus inference", valid_seconds=VALID_SECONDS), None, now=now, entropy=entropy
    )

    def leaf(kind: Literal["PeerLeaf", "ClientLeaf"], name: str, uri: str, into: Path) -> TlsPaths:
        request = ContentRequest(kind, name, uris=(uri,), valid_seconds=VALID_SECONDS)
        return _write_tls(into, make_leaf(request, authority, now=now, entropy=entropy))

    try:
        for party in addresses:
            leaf("PeerLeaf", service(party).service, party_uri(NAMESPACE, CLUSTER, party), inside(folder, party, TLS))
            text = spec.model_copy(update={"party": party}).to_json()
            _write(inside(folder, party, f"{paths.SPEC_FOLDER}/{paths.RUN_SPEC_KEY}"), text)
        services = {f"{service(party).service}:{PORT}": f"{host}:{port}" for party, (host, port) in addresses.items()}
        _write(endpoints_path(folder), json.dumps(services).encode("utf-8"))
        files = leaf("ClientLeaf", CALLER, caller_uri(NAMESPACE, CLUSTER, CALLER), folder / "caller")
    except OSError as error:
        raise unwritable(folder, error) from None
    return CallerPlace(NAMESPACE, CLUSTER, addresses, files)


def build_spec(model_digest: str, threads: int, members: Collection[int]) -> PartyRunSpec:
    """Return the run spec of party 0; the others differ by their number alone."""
    return PartyRunSpec(
        party=0,
        namespace=NAMESPACE,
        cluster=CLUSTER,
        parties=tuple(service(party) for party in members if party != DEALER),
        dealer=service(DEALER) if DEALER in members else None,
        tls=TLS_FILES,
        model_digest=model_digest,
        weights=f"{paths.WEIGHTS_FOLDER}/{WEIGHTS_FILE}",
        state=paths.STATE_FOLDER,
        progress=paths.PROGRESS_FILE,
        threads=threads,
    )


def endpoints_path(folder: Path) -> Path:
    """Return the endpoints file."""
    return folder / "endpoints.json"


def _write_tls(folder: Path, content: Mapping[str, bytes]) -> TlsPaths:
    for name, value in content.items():
        _write(folder / name, value)
    return TlsPaths(folder / CERTIFICATE_KEY, folder / PRIVATE_KEY_KEY, folder / CA_CERTIFICATE_KEY)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
