"""What an answer of the API server means, and what happens when there is none."""

import json
import socket
from pathlib import Path

import pytest
import yaml
from kubernetes.aio import client as kubernetes

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine.cluster.execute import is_transient
from foedus_engine.cluster.protocol import AlreadyExists, Busy, Conflict, Forbidden, NotFound, Unauthenticated
from foedus_operator import api_server
from foedus_operator.api_server import connect, load_configuration, load_user_configuration


def status(reason: str = "", field: str = "") -> bytes:
    causes = [{"field": field}] if field else []
    return json.dumps({"kind": "Status", "reason": reason, "message": "m", "details": {"causes": causes}}).encode()


@pytest.mark.parametrize(
    ("code", "content", "want", "again"),
    [
        (400, status("BadRequest"), InvalidInput, False),
        (401, status("Unauthorized"), Unauthenticated, True),
        (403, b'{"message": "pods is forbidden: User \\"system:anonymous\\" cannot"}', Unauthenticated, True),
        (403, status("Forbidden"), Forbidden, True),
        (404, status("NotFound"), NotFound, True),
        (409, status("AlreadyExists"), AlreadyExists, True),
        (409, status("Conflict"), Conflict, True),
        (410, status("Expired"), Busy, True),
        (413, b"", InvalidInput, False),
        (422, status("Invalid", "spec.rounds"), InvalidInput, False),
        (422, status("Invalid", "metadata.uid"), Conflict, True),
        (429, status("TooManyRequests"), Busy, True),
        (500, status("InternalError"), Busy, True),
        (503, b"<html>no backend</html>", Busy, True),
        (504, status("Timeout"), Busy, True),
    ],
)
def test_a_fault_says_whether_to_try_again(code: int, content: bytes, want: type[FoedusError], again: bool) -> None:
    fault = api_server._fault(code, content, "/api/v1/x")
    assert type(fault) is want
    assert is_transient(fault) is again


async def test_a_server_that_does_not_answer_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "DEADLINE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never says a word
        host = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with connect(kubernetes.Configuration(host=host)) as server:
            with pytest.raises(Busy, match="does not answer"):
                await server.request("GET", "/api/v1/pods")


async def test_what_may_not_be_written_is_not_sent() -> None:
    def not_at_all() -> float:
        raise Busy("the lease is not ours")

    # Nothing listens there: a request would fail otherwise.
    async with connect(kubernetes.Configuration(host="https://127.0.0.1:1"), patience=not_at_all) as server:
        with pytest.raises(Busy, match="the lease is not ours"):
            await server.request("POST", "/api/v1/pods", body={})


async def test_a_missing_kubeconfig_is_said_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="set KUBECONFIG"):
        await load_configuration(tmp_path / "none")


def kubeconfig(path: Path, server: str = "https://there", **cluster: bool) -> str:
    contexts = [
        {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
        {"name": "two", "context": {"cluster": "c", "user": "u"}},
    ]
    document = {
        "current-context": "one",
        "contexts": contexts,
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
    }
    path.write_text(yaml.safe_dump(document), "utf-8")
    return str(path)


@pytest.mark.parametrize(("context", "want"), [(None, "team"), ("one", "team"), ("two", "default")])
async def test_a_context_names_server_and_namespace(tmp_path: Path, context: str | None, want: str) -> None:
    named = kubeconfig(tmp_path / "config")
    for option, environ in ((named, {"KUBECONFIG": "/none"}), ("", {"KUBECONFIG": f"/none:{named}"})):
        configuration, namespace = await load_user_configuration(option, context, environ=environ)
        assert (configuration.host, namespace) == ("https://there", want)
        assert await configuration.get_api_key_with_prefix("BearerToken") == "Bearer secret-token"


@pytest.mark.parametrize(
    ("text", "context", "match"),
    [
        (None, None, "there is no kubeconfig; name one with --kubeconfig or KUBECONFIG"),
        ("", "three", "Expected object with name three .*choose with --context"),
        ("http://there", None, "not verified, so anybody could answer"),
        ("insecure", None, "not verified, so anybody could answer"),
        ("[", None, "names no cluster that can be used"),
        ("{}", None, "names no cluster that can be used"),
        ("not a mapping", None, "names no cluster that can be used"),
    ],
)
async def test_a_kubeconfig_that_leads_nowhere_is_said_in_one_line(
    tmp_path: Path, text: str | None, context: str | None, match: str
) -> None:
    path = tmp_path / "config"
    if text in {"", "http://there"}:
        kubeconfig(path, text or "https://there")
    elif text == "insecure":
        kubeconfig(path, **{"insecure-skip-tls-verify": True})
    elif text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(InvalidInput, match=match) as caught:
        await load_user_configuration(str(path), context, environ={})
    assert "secret-token" not in str(caught.value)
    assert "\n" not in str(caught.value)
