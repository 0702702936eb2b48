"""Who owns which field of an object, and what an apply makes of it: server-side apply as pure functions.

A field is a path of keys to a leaf: a scalar, a list or an empty mapping. Lists are owned as a whole, which is
stricter than the API server's merge keys and the same for objects that one manager writes. Ownership is stored in
`metadata.managedFields` in the API's own form.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from foedus_engine.cluster.protocol import Conflict

Path = tuple[str, ...]
Owners = dict[tuple[str, str], frozenset[Path]]  # (manager, operation) -> fields

# Set by the server or part of the object's name: nobody owns these.
SERVER_METADATA = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"}
)


def leaves(value: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each leaf of `value` with its path."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from leaves(item, (*prefix, key))
        else:
            yield (*prefix, key), item


def ownable(obj: Mapping[str, Any]) -> dict[Path, Any]:
    """Return the fields of `obj` that a manager can own: all but identity, server's metadata and status."""
    return {path: value for path, value in leaves(obj) if not _is_servers(path)}


def owners_of(obj: Mapping[str, Any]) -> Owners:
    """Read `metadata.managedFields`."""
    entries = obj["metadata"].get("managedFields", ())
    return {(entry["manager"], entry["operation"]): frozenset(_parse_fields(entry["fieldsV1"])) for entry in entries}


def with_owners(obj: Mapping[str, Any], owners: Owners) -> dict[str, Any]:
    """Return `obj` with `metadata.managedFields` saying `owners`."""
    entries = [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": obj["apiVersion"],
            "fieldsType": "FieldsV1",
            "fieldsV1": _build_fields(fields),
        }
        for (manager, operation), fields in sorted(owners.items())
        if fields
    ]
    return {**obj, "metadata": {**obj["metadata"], "managedFields": entries}}


def merge_apply(live: Mapping[str, Any], manifest: Mapping[str, Any], *, manager: str, force: bool) -> dict[str, Any]:
    """Return `live` with the fields of `manifest`, less those the manager had applied and now leaves out.

    Raises Conflict naming the fields that others own and that would change, unless `force` takes them over.
    """
    mine = (manager, "Apply")
    wanted, present, owners = ownable(manifest), ownable(live), owners_of(live)
    others = {who: fields for who, fields in owners.items() if who != mine}
    changed = {path for path, value in wanted.items() if _differs(present, path, value)}
    contested = {who: {field for field in fields if _clashes(field, changed)} for who, fields in others.items()}
    if not force and any(contested.values()):
        raise _conflict(contested)
    kept = {who: fields - contested[who] for who, fields in others.items()}
    merged = copy.deepcopy(dict(live))
    for path in owners.get(mine, frozenset()) - wanted.keys():
        # An empty mapping that others have filled meanwhile is no leaf any more, and theirs.
        if path in present and not any(path in fields for fields in kept.values()):
            _remove(merged, path)
    for path in sorted(changed):
        _put(merged, path, copy.deepcopy(wanted[path]))
    return with_owners(merged, {**kept, mine: frozenset(wanted)})


def hand_over(live: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
    """Return `live` with what `manager` owns by creating or updating it as if it had applied it.

    Else a field that it leaves out later would stay for ever: it would still own it by the other way.
    """
    owners = owners_of(live)
    updated = owners.pop((manager, "Update"), frozenset())
    owners[manager, "Apply"] = owners.get((manager, "Apply"), frozenset()) | updated
    return with_owners(live, owners)


def merge_update(live: Mapping[str, Any], replacement: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
    """Return `replacement` with the server's metadata and status of `live`; the manager owns what it changed."""
    mine = (manager, "Update")
    before, after = ownable(live), ownable(replacement)
    changed = frozenset(path for path, value in after.items() if path not in before or before[path] != value)
    owners = {who: (fields & after.keys()) - changed for who, fields in owners_of(live).items()}
    owners[mine] = owners.get(mine, frozenset()) | changed
    servers = {key: value for key, value in live["metadata"].items() if key in SERVER_METADATA}
    merged = {key: copy.deepcopy(value) for key, value in replacement.items() if key != "status"}
    merged["metadata"] = {**merged["metadata"], **copy.deepcopy(servers)}
    if "status" in live:
        merged["status"] = copy.deepcopy(live["status"])
    return with_owners(merged, owners)


def _is_servers(path: Path) -> bool:
    if path[0] in {"apiVersion", "kind", "status"}:
        return True
    return path[0] == "metadata" and len(path) > 1 and path[1] in SERVER_METADATA


def _differs(present: Mapping[Path, Any], path: Path, value: object) -> bool:
    if value == {} and any(other[: len(path)] == path for other in present):
        return False  # an empty mapping asks for the mapping, not for nothing in it
    return path not in present or present[path] != value


def _clashes(field: Path, changed: set[Path]) -> bool:
    """Say whether an owned field, something above it or something below it is to change."""
    return any(field[: len(path)] == path or path[: len(field)] == field for path in changed)


def _conflict(contested: Mapping[tuple[str, str], set[Path]]) -> Conflict:
    said = [
        f"{'.'.join(field)} is owned by {manager}"
        for (manager, _), fields in sorted(contested.items())
        for field in sorted(fields)
    ]
    return Conflict("; ".join(said), where="apply", cure="force it, or leave the field to its owner")


def _put(obj: dict[str, Any], path: Path, value: object) -> None:
    for key in path[:-1]:
        if not isinstance(obj.get(key), dict):
            obj[key] = {}
        obj = obj[key]
    obj[path[-1]] = value


def _remove(obj: dict[str, Any], path: Path) -> None:
    """Remove the field and the mappings that become empty with it."""
    head, rest = path[0], path[1:]
    if head not in obj:
        return
    if not rest:
        del obj[head]
    elif isinstance(obj[head], dict):
        _remove(obj[head], rest)
        if not obj[head]:
            del obj[head]


def _build_fields(fields: frozenset[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for key in path:
            node = node.setdefault(f"f:{key}", {})
        node["."] = {}
    return tree


def _parse_fields(tree: Mapping[str, Any], prefix: Path = ()) -> Iterator[Path]:
    for key, below in tree.items():
        if key == ".":
            yield prefix
        else:
            yield from _parse_fields(below, (*prefix, key.removeprefix("f:")))
