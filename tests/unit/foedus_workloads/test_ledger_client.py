"""A pod's requests to the ledger service: what each answer, and none, means for the one who asked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import MAX_ANSWER_BYTES, Fault
from foedus_contract.run_spec import LedgerService
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_workloads.transport.ledger_client import ClientSettings, LedgerClient, NotSent
from support.certificates import Authority

RECORD = BudgetRecord(spec=BudgetSpec(digest="sha256:" + "a" * 64, records=5, epsilon=1.0, delta=1e-5))
SETTINGS = ClientSettings(patience_seconds=30.0, request_seconds=5.0, pause_seconds=0.01)
BEHIND = Fault(code=ExitCode.LEDGER_BEHIND, what="old", where="PrivacyBudget a/b", cure="reconcile")
LATE = Fault(code=ExitCode.UNAVAILABLE, what="no answer")

Answer = Callable[[], web.Response]


@dataclass
class Desk:
    """A server that gives the answers of a list, the last one for ever, and remembers what it was asked."""

    client: LedgerClient
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)


def ok(content: bytes = RECORD.to_json()) -> Answer:
    return lambda: web.Response(body=content)


def fault(status: int, said: Fault | bytes) -> Answer:
    return lambda: web.Response(status=status, body=said if isinstance(said, bytes) else said.to_json())


def dropped() -> web.Response:
    raise ConnectionResetError


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    files = Authority.create().issue(tmp_path, x509.DNSName("localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    token = tmp_path / "token"
    token.write_text("a.b.c\n", "ascii")

    async def handle(request: web.Request) -> web.Response:
        made.asked.append((request.path, request.headers["Authorization"], await request.read()))
        answer = made.answers[0] if len(made.answers) == 1 else made.answers.pop(0)
        if answer is dropped:
            assert request.transport is not None
            request.transport.abort()
        return answer() if answer is not dropped else web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    service = LedgerService(host="localhost", port=port, ca=files.ca.read_text("ascii"), token="unused")
    made = Desk(LedgerClient(service, token, SETTINGS))
    yield made
    await runner.cleanup()
    await asyncio.sleep(0.05)


async def test_a_charge_is_one_request_with_the_pods_token(desk: Desk) -> None:
    desk.answers = [ok()]
    assert await desk.client.charge(3, 20.5) == RECORD
    assert desk.asked == [("/v1/charges", "Bearer a.b.c", b'{"attempt":3,"noiseMultiplier":20.5}')]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (fault(409, BEHIND), Refused, ExitCode.LEDGER_BEHIND),
        (fault(403, Fault(code=ExitCode.IDENTITY_REFUSED, what="no")), Refused, ExitCode.IDENTITY_REFUSED),
        (fault(400, Fault(code=ExitCode.INVALID_SPEC, what="no")), InvalidInput, ExitCode.INVALID_SPEC),
        (fault(503, LATE), Unavailable, ExitCode.UNAVAILABLE),
        (fault(500, Fault(code=ExitCode.INTERNAL, what="defect")), Unavailable, ExitCode.INTERNAL),
        (fault(502, b"<html>bad gateway</html>"), Unavailable, ExitCode.UNAVAILABLE),
        (fault(302, b""), Unavailable, ExitCode.UNAVAILABLE),
        (ok(b"{}"), InvalidInput, ExitCode.INTERNAL),
        (ok(b" " * (MAX_ANSWER_BYTES + 1)), Unavailable, ExitCode.UNAVAILABLE),
        (dropped, Unavailable, ExitCode.UNAVAILABLE),
    ],
)
async def test_a_charge_that_was_sent_is_never_repeated(
    desk: Desk, answer: Answer, kind: type[FoedusError], code: ExitCode
) -> None:
    desk.answers = [answer]
    with pytest.raises(kind) as caught:
        await desk.client.charge(0, 20.0)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert len(desk.asked) == 1


async def test_what_changes_nothing_is_asked_again(desk: Desk) -> None:
    desk.answers = [fault(503, LATE), dropped, ok()]
    assert await desk.client.read() == RECORD
    desk.answers = [fault(503, LATE), ok(b'{"incarnation": 4}')]
    assert await desk.client.claim() == 4
    assert [path for path, *_ in desk.asked] == ["/v1/budget"] * 3 + ["/v1/incarnations"] * 2


async def test_a_fault_reads_as_it_was_raised(desk: Desk) -> None:
    desk.answers = [fault(409, BEHIND)]
    with pytest.raises(Refused, match=r"^PrivacyBudget a/b: old; reconcile$"):
        await desk.client.read()


async def test_without_a_connection_nothing_was_sent(desk: Desk, tmp_path: Path) -> None:
    service = desk.client._service.model_copy(update={"port": 1})
    client = LedgerClient(service, tmp_path / "token", ClientSettings(patience_seconds=0.0, pause_seconds=0.0))
    with pytest.raises(NotSent, match="no answer"):
        await client.charge(0, 20.0)


@pytest.mark.parametrize(("ca", "kind"), [("other", Refused), ("no certificate", InvalidInput)])
async def test_only_the_pinned_authority_counts(desk: Desk, tmp_path: Path, ca: str, kind: type[FoedusError]) -> None:
    if ca == "other":
        ca = Authority.create().issue(tmp_path / "other", x509.DNSName("localhost")).ca.read_text("ascii")
    service = desk.client._service.model_copy(update={"ca": ca})
    desk.answers = [ok()]
    with pytest.raises(kind):
        await LedgerClient(service, tmp_path / "token", SETTINGS).charge(0, 20.0)
    assert desk.asked == []


async def test_a_token_that_is_not_there_is_said(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the pod's token cannot be read"):
        await LedgerClient(desk.client._service, tmp_path / "absent", SETTINGS).charge(0, 20.0)
