"""The API server's paths over the embedded engine's store, and which right each request takes.

What it answers need not be all that a real API server says: it lets the operator's own code make its requests without
one. The same life is lived on a real API server in `contract/test_chart_install.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from foedus_contract.ledger_wire import AUDIENCE
from foedus_engine.cluster.protocol import NotFound
from foedus_engine.cluster.store import ObjectStore
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.api_server import Answer, ApiServer
from foedus_operator.kube import RESOURCES
from foedus_operator.ledger_service.identity import ACCOUNT, POD_NAME, POD_UID
from foedus_operator.serving import ACCESS_REVIEWS, TOKEN_REVIEWS

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>status|log))?)?"
)
_KINDS = {(version, each.plural): kind for (version, kind), each in RESOURCES.items()}

Right = tuple[str, str]  # resource.group, verb


class StoreServer(ApiServer):
    """Answers requests from the store; `used` holds the rights that they took."""

    def __init__(self, store: ObjectStore) -> None:
        self.used: set[Right] = set()
        self._store = store

    async def text(self, verb: str, path: str, **_: Any) -> bytes:
        """Return the log of a pod, an empty one, or what the API server says of itself."""
        if path == "/readyz":
            self.used.add((path, "get"))
        else:
            self._note(_parts(path), "get")
        return b""

    async def request(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "",
    ) -> Answer:
        """Return what the store says."""
        if path == TOKEN_REVIEWS:
            self.used.add((resource("authentication.k8s.io", "tokenreviews"), "create"))
            return self._review((body or {})["spec"]["token"])
        if path == ACCESS_REVIEWS:
            self.used.add((resource("authorization.k8s.io", "subjectaccessreviews"), "create"))
            return {"status": {"allowed": True}}
        parts = _parts(path)
        version = "/".join(filter(None, (parts["group"], parts["version"])))
        kind = _KINDS[version, parts["plural"]]
        key = ObjectKey(version, kind, parts["namespace"] or "", parts["name"] or "")
        if verb == "GET" and not key.name:
            self._note(parts, "list")
            return {"items": self._list(key, parts["namespace"], query or {}), "metadata": {"resourceVersion": "1"}}
        if verb == "GET":
            self._note(parts, "get")
            return self._store.get(key)
        return self._write(verb, parts, key, body or {})

    def _review(self, token: str) -> Answer:
        """Take a token for that of the pod that it spells: `namespace/name`."""
        namespace, _, name = token.partition("/")
        pod = self._store.get(ObjectKey("v1", "Pod", namespace, name))
        extra = {POD_NAME: [name], POD_UID: [pod["metadata"]["uid"]]}
        user = {"username": f"{ACCOUNT}{namespace}:default", "extra": extra}
        return {"status": {"authenticated": True, "audiences": [AUDIENCE], "user": user}}

    def _list(self, kind: ObjectKey, namespace: str | None, query: Mapping[str, str]) -> list[Answer]:
        """Return what bears all labels of `a=b,c=d`, or one of `a in (b,c)`; of events, those about one uid."""
        selector, about = query.get("labelSelector", ""), query.get("fieldSelector", "")
        among = re.fullmatch(r"(\S+) in \((.*)\)", selector)
        labels = {} if among else dict(each.split("=") for each in selector.split(",") if each)
        found = [dict(each) for each in self._store.list(kind.api_version, kind.kind, namespace, labels)]
        if among:
            wanted = among[2].split(",")
            found = [each for each in found if each["metadata"].get("labels", {}).get(among[1]) in wanted]
        return [each for each in found if not about or f"uid={each['involvedObject']['uid']}," in about]

    def _write(self, verb: str, parts: Mapping[str, Any], key: ObjectKey, body: Mapping[str, Any]) -> Answer:
        self._note(parts, {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[verb])
        if verb == "POST":
            return dict(self._store.create(body, manager="test"))
        if verb == "PUT":
            write = self._store.update_status if parts["sub"] else lambda obj: self._store.update(obj, manager="test")
            return dict(write(body))
        if verb == "PATCH":
            if not self._is_there(key):
                self._note(parts, "create")  # the API server asks for it, too
            return dict(self._store.apply(body, manager="test", force=True))
        self._store.delete(key, cascade=True)
        return {}

    def _is_there(self, key: ObjectKey) -> bool:
        try:
            self._store.get(key)
        except NotFound:
            return False
        return True

    def _note(self, parts: Mapping[str, Any], verb: str) -> None:
        self.used.add((resource(parts["group"] or "", parts["plural"], parts["sub"] or ""), verb))


def resource(group: str, plural: str, subresource: str = "") -> str:
    """Return how rights name a resource here: `jobs.batch`, `pods/log`."""
    name = f"{plural}/{subresource}" if subresource else plural
    return f"{name}.{group}" if group else name


def _parts(path: str) -> dict[str, Any]:
    found = _PATH.fullmatch(path)
    assert found, path
    return found.groupdict()
