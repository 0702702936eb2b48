"""A pod as a folder: the mount tree laid out with links, Secrets and ConfigMaps as files, what the process left.

<pod>/root/foedus/spec -> <pod>/volumes/spec      FOEDUS_ROOT is <pod>/root
<pod>/volumes/spec/run-spec.json -> ..data/run-spec.json, and ..data -> ..1, swapped in one rename
<pod>/log      stdout and stderr
<pod>/lock     held by the process as long as it lives
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from foedus_contract import limits, paths
from foedus_contract.errors import Unavailable
from foedus_contract.progress import ProcessFailed, read_event
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.observed import Progress

MAX_PROGRESS_LINE = 64 * 1024  # 50 silo names in two lists are below 8 KiB
MAX_PROGRESS_BYTES = 64 * 1024 * 1024  # 10,000 attempts of such lines
MAX_SILO_PROGRESS_BYTES = 64 * 1024  # of a silo, its identity and its failure are all that is needed
PROGRESS_BLOCK = 1024 * 1024  # read at a time: one pod's flood holds up nobody
DATA_LINK = "..data"  # the kubelet's own name for the folder that is swapped

Content = Mapping[str, bytes]
Lookup = Callable[[str, str], Object | None]  # (kind, name) in the pod's namespace
ClaimFolder = Callable[[str], Path | None]


def lay_out(pod: Path, job: Object, *, lookup: Lookup, claim_folder: ClaimFolder, incarnation: int) -> None:
    """Make the pod's folder with everything that its spec mounts; raises Unavailable naming what is missing."""
    spec = job["spec"]["template"]["spec"]
    sources = {volume["name"]: volume for volume in spec.get("volumes", ())}
    pod.mkdir(parents=True, mode=0o700)
    root = pod / "root"
    root.mkdir()
    for mount in spec["containers"][0].get("volumeMounts", ()):
        target = _volume_folder(pod, sources[mount["name"]], claim_folder)
        link = paths.locate(mount["mountPath"].rstrip("/"), root=root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target, target_is_directory=True)
    refresh(pod, job, lookup=lookup, incarnation=incarnation)
    for path in (termination_file(pod, job), progress_file(pod)):
        path.parent.mkdir(parents=True, exist_ok=True)


def refresh(pod: Path, job: Object, *, lookup: Lookup, incarnation: int) -> None:
    """Bring the pod's ConfigMaps and Secrets up to date; a change appears to the process all at once."""
    for volume in job["spec"]["template"]["spec"].get("volumes", ()):
        folder = pod / "volumes" / str(volume["name"])
        content = _content(volume, lookup)
        if content is not None and folder.is_dir():
            swap_content(folder, _with_incarnation(content, incarnation))


def swap_content(folder: Path, content: Content) -> None:
    """Make `folder` show exactly `content`, each file private to its user, with one rename."""
    link = folder / DATA_LINK
    old = folder / os.readlink(link) if link.is_symlink() else None
    if old is not None and _read_all(old) == dict(content):
        return
    number = 1 if old is None else int(old.name.removeprefix("..")) + 1
    fresh = folder / f"..{number}"
    shutil.rmtree(fresh, ignore_errors=True)  # what a crash between writing and renaming left
    fresh.mkdir(mode=0o700)
    for key, value in content.items():
        descriptor = os.open(fresh / key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
    fresh_link = folder / f"{DATA_LINK}_next"
    fresh_link.unlink(missing_ok=True)
    fresh_link.symlink_to(fresh.name)
    fresh_link.replace(link)
    _link_keys(folder, content)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def drop_secrets(pod: Path, job: Object) -> None:
    """Remove a finished pod's copies of Secrets; logs and reports stay."""
    for volume in job["spec"]["template"]["spec"].get("volumes", ()):
        if "secret" in volume:
            shutil.rmtree(pod / "volumes" / volume["name"], ignore_errors=True)


def missing(job: Object, *, lookup: Lookup, claim_folder: ClaimFolder) -> str:
    """Name the first volume of the Job's pod that cannot be mounted yet; empty when all can."""
    for volume in job["spec"]["template"]["spec"].get("volumes", ()):
        claim = volume.get("persistentVolumeClaim")
        if claim is not None and claim_folder(claim["claimName"]) is None:
            return f"PersistentVolumeClaim {claim['claimName']}"
        try:
            _content(volume, lookup)
        except Unavailable as error:
            return error.where
    return ""


def progress_file(pod: Path) -> Path:
    """Return where the pod's process reports its progress."""
    return paths.locate(paths.PROGRESS_FILE, root=pod / "root")


def termination_file(pod: Path, job: Object) -> Path:
    """Return where the pod's process leaves its result."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    path: str = container.get("terminationMessagePath", paths.TERMINATION_FILE)
    return paths.locate(path, root=pod / "root")


def open_regular(path: Path) -> BinaryIO:
    """Open a file that a pod could have replaced by a link, a pipe or a device; raises OSError unless it is a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


def read_progress(path: Path, offset: int, *, limit: int = MAX_PROGRESS_BYTES) -> tuple[tuple[Progress, ...], int]:
    """Return the events of whole lines after `offset`, and the offset behind them; bad lines are skipped.

    Reads one block; what lies behind `limit` is never read.
    """
    try:
        with open_regular(path) as file:
            file.seek(offset)
            block = file.read(max(0, min(PROGRESS_BLOCK, limit - offset)))
    except OSError:
        return (), offset
    whole = block[: block.rfind(b"\n") + 1]
    if not whole and len(block) > MAX_PROGRESS_LINE:
        return (), offset + len(block)  # part of a line that is too long: step over it
    events: list[Progress] = []
    for line in whole.splitlines():
        if len(line) <= MAX_PROGRESS_LINE:
            with suppress(ValidationError):
                events.append(read_event(line))
    return tuple(events), offset + len(whole)


def read_result(path: Path) -> bytes:
    """Return what stands in a termination log; nothing when there is none or it is too long."""
    try:
        with open_regular(path) as file:
            text = file.read(limits.MAX_RESULT_BYTES + 1)
    except OSError:
        return b""
    return text if len(text) <= limits.MAX_RESULT_BYTES else b""


def last_words(path: Path) -> str:
    """Return what a process last reported if that is its failure, without control characters; else nothing.

    Its log is not looked at: a silo's may speak of single records, and a Job's status is read by the job's author.
    """
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_PROGRESS_LINE))
            lines = file.read(MAX_PROGRESS_LINE).splitlines()
        event = read_event(lines[-1]) if lines else None
    except (OSError, ValidationError):
        return ""
    said = event.message if isinstance(event, ProcessFailed) else ""
    return "".join(letter for letter in said if letter.isprintable())


def _volume_folder(pod: Path, volume: Mapping[str, Any], claim_folder: ClaimFolder) -> Path:
    claim = volume.get("persistentVolumeClaim")
    if claim is not None:
        folder = claim_folder(claim["claimName"])
        if folder is None:
            raise Unavailable("not there", where=f"PersistentVolumeClaim {claim['claimName']}")
        return folder.resolve()
    folder = pod / "volumes" / str(volume["name"])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.resolve()


def _content(volume: Mapping[str, Any], lookup: Lookup) -> Content | None:
    """Return a ConfigMap's or Secret's files; None for another volume or an optional one that is not there."""
    kind = {"secret": "Secret", "configMap": "ConfigMap"}.get(next(key for key in volume if key != "name"))
    if kind is None:
        return None
    source = volume["secret"] if kind == "Secret" else volume["configMap"]
    name = source["secretName"] if kind == "Secret" else source["name"]
    obj = lookup(kind, name)
    if obj is None:
        if source.get("optional", False):
            return None
        raise Unavailable("not there", where=f"{kind} {name}")
    return decode_content(obj)


def decode_content(obj: Object) -> dict[str, bytes]:
    """Return the files of a Secret or ConfigMap."""
    data: Mapping[str, str] = obj.get("data", {})
    if obj["kind"] == "Secret":
        return {key: base64.b64decode(value, validate=True) for key, value in data.items()}
    binary = {key: base64.b64decode(value, validate=True) for key, value in obj.get("binaryData", {}).items()}
    return binary | {key: value.encode("utf-8") for key, value in data.items()}


def _with_incarnation(content: Content, incarnation: int) -> Content:
    """Write the claimed incarnation into the run spec, so that peers can refuse an older start of the process."""
    if paths.RUN_SPEC_KEY not in content:
        return content
    spec = {**json.loads(content[paths.RUN_SPEC_KEY]), "incarnation": incarnation}
    return {**content, paths.RUN_SPEC_KEY: json.dumps(spec).encode("utf-8")}


def _link_keys(folder: Path, content: Content) -> None:
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in content:
            entry.unlink()
    for key in content:
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(f"{DATA_LINK}/{key}")


def _read_all(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}
