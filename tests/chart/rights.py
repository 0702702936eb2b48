"""The rights of Foedus' identities: as docs/operator.md says them, and as roles grant them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chart.store_server import resource

PAGE = Path(__file__).parents[2] / "docs/operator.md"
_ROW = re.compile(
    r"\| (?P<identity>foedus-[a-z]+) \| (?P<where>cluster|release) \| (?P<what>[^|]+) \| (?P<verbs>[a-z, ]+) "
    r"\| (?P<why>[^|]+) \|"
)

# Identity, cluster or release, resource with the name that it is limited to, verb.
Grant = tuple[str, str, str, str]


def documented(page: Path = PAGE) -> dict[Grant, str]:
    """Return what the page's table grants, and what for."""
    grants: dict[Grant, str] = {}
    for line in page.read_text("utf-8").splitlines():
        if found := _ROW.fullmatch(line):
            what = found["what"].replace("`", "")
            grants |= {
                (found["identity"], found["where"], what, verb): found["why"] for verb in found["verbs"].split(", ")
            }
    return grants


def granted(documents: Iterable[Mapping[str, Any]]) -> Iterator[Grant]:
    """Yield what the documents' roles grant to the ServiceAccounts that they are bound to."""
    documents = list(documents)
    roles = {(each["kind"], each["metadata"]["name"]): each for each in documents if each["kind"].endswith("Role")}
    for binding in documents:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        where = "cluster" if binding["kind"] == "ClusterRoleBinding" else "release"
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            for rule in role["rules"]:
                yield from ((subject["name"], where, what, verb) for what in _of(rule) for verb in rule["verbs"])


def _of(rule: Mapping[str, Any]) -> Iterator[str]:
    yield from rule.get("nonResourceURLs", ())
    for group in rule.get("apiGroups", ()):
        for name in rule["resources"]:
            plural, _, subresource = name.partition("/")
            base = resource(group, plural, subresource)
            yield from (f"{base} {one}" for one in rule["resourceNames"]) if "resourceNames" in rule else (base,)
