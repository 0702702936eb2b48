"""What a disk may hold after a power cut, from a real process's own changes: a model of files, names and syncs.

A file's changes since its last sync may each have reached the disk or not, the last of them in part; so may a folder's
names since the folder's last sync, in their order. That is what POSIX promises, and less than most file systems keep.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SHIM = Path(__file__).with_name("disk_trace.c")
MAX_SUBSETS = 6  # changes of a file of which all subsets are tried; of more, each first part


@dataclass(frozen=True)
class Change:
    """One change: of a file's content, of a name, or a sync; as the process made it."""

    kind: str
    inode: int
    offset: int
    size: int
    name: str
    other: str
    data: bytes = b""


@dataclass
class _File:
    synced: bytes = b""
    pending: list[Change] = field(default_factory=list)


Names = dict[str, _File]
Disk = dict[str, bytes]  # what lies in the folder: content by name


def build_shim(folder: Path) -> Path:
    """Compile the library that writes a process's changes down."""
    library = folder / "disk_trace.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True, timeout=60)
    return library


def trace(module: str, traced: Path, library: Path) -> tuple[Change, ...]:
    """Run a module with the folder's path as its argument; return its changes in the folder, in their order."""
    record = library.with_name("trace")
    environment = os.environ | {"LD_PRELOAD": str(library), "FOEDUS_TRACED": str(traced), "FOEDUS_TRACE": str(record)}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", module, str(traced)], check=True, timeout=120, env=environment)
    return tuple(_parse(record.read_bytes()))


def _parse(record: bytes) -> Iterator[Change]:
    at = 0
    while at < len(record):
        end = record.index(b"\n", at)
        kind, inode, offset, size, name, other = record[at:end].decode().split(" ")
        change = Change(kind, int(inode), int(offset), int(size), name, other)
        at = end + 1
        if kind == "write":
            change = replace(change, data=record[at : at + change.size])
            at += change.size
        yield change


def cuts(changes: Sequence[Change], told: str) -> Iterator[tuple[tuple[str, ...], Disk]]:
    """Give all that the folder may hold when the power fails after a change, with what was told by then, once each.

    `told` names the file whose lines say what others were told: no disk loses that.
    """
    disk, lines = _Disk(), b""
    seen: set[tuple[bytes, frozenset[tuple[str, bytes]]]] = set()
    for change in changes:
        if change.name == told:
            lines += change.data
        else:
            disk.apply(change)
        for state in disk.states():
            key = lines, frozenset(state.items())
            if key not in seen:
                seen.add(key)
                yield tuple(lines.decode().splitlines()), state


class _Disk:
    def __init__(self) -> None:
        self._by_inode: dict[int, _File] = {}
        self._names: list[Names] = [{}]  # as last synced, then after each change of a name since

    def apply(self, change: Change) -> None:
        match change.kind:
            case "write" | "cut":
                self._by_inode[change.inode].pending.append(change)
            case "sync" if change.name == ".":
                self._names = self._names[-1:]
            case "sync":
                file = self._by_inode[change.inode]
                file.synced, file.pending = _content(file.synced, file.pending), []
            case _:
                self._names.append(self._renamed(self._names[-1], change))

    def _renamed(self, before: Names, change: Change) -> Names:
        match change.kind:
            case "create":
                self._by_inode[change.inode] = _File()
                return before | {change.name: self._by_inode[change.inode]}
            case "link":
                return before | {change.other: before[change.name]}
            case "rename":
                return _without(before, change.name) | {change.other: before[change.name]}
            case "unlink":
                return _without(before, change.name)
            case unknown:
                raise AssertionError(unknown)

    def states(self) -> Iterator[Disk]:
        for names in self._names:
            files = list({id(file): file for file in names.values()}.values())  # two names may be one file's
            for contents in itertools.product(*map(_contents, files)):
                of = {id(file): content for file, content in zip(files, contents, strict=True)}
                yield {name: of[id(file)] for name, file in names.items()}


def _without(names: Names, name: str) -> Names:
    return {other: file for other, file in names.items() if other != name}


def _contents(file: _File) -> list[bytes]:
    pending = file.pending
    if len(pending) <= MAX_SUBSETS:
        subsets = [chosen for n in range(len(pending) + 1) for chosen in itertools.combinations(pending, n)]
    else:
        subsets = [tuple(pending[:n]) for n in range(len(pending) + 1)]
    if pending and pending[-1].kind == "write":
        last = pending[-1]
        subsets.append((*pending[:-1], replace(last, data=last.data[: len(last.data) // 2])))
    return list(dict.fromkeys(_content(file.synced, chosen) for chosen in subsets))


def _content(before: bytes, changes: Sequence[Change]) -> bytes:
    content = bytearray(before)
    for change in changes:
        if change.kind == "cut":
            content = content[: change.size].ljust(change.size, b"\0")
        else:
            content = content.ljust(change.offset, b"\0")
            content[change.offset : change.offset + len(change.data)] = change.data
    return bytes(content)
