"""What an answer of the API server means, and what happens when there is none."""

import json
import socket
from pathlib import Path

import pytest
from kubernetes.aio import client as kubernetes

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine.cluster.execute import is_transient
from foedus_engine.cluster.protocol import AlreadyExists, Busy, Conflict, Forbidden, NotFound
from foedus_operator import api_server
from foedus_operator.api_server import connect, load_configuration


def status(reason: str = "", field: str = "") -> bytes:
    causes = [{"field": field}] if field else []
    return json.dumps({"kind": "Status", "reason": reason, "message": "m", "details": {"causes": causes}}).encode()


@pytest.mark.parametrize(
    ("code", "content", "want", "again"),
    [
        (400, status("BadRequest"), InvalidInput, False),
        (401, status("Unauthorized"), Forbidden, True),
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
