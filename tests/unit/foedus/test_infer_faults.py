"""What befalls the processes of a private inference, under each protocol: one line that names who, and nothing left.

Every member is a real process; what is done to one is done from outside, by signals, or to its files and connections.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509

from bad_input.processes import foedus
from foedus.inference import local, parties
from foedus.inference.parties import LocalParties
from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import DEALER, member_name
from foedus_contract.run_spec import Patience
from foedus_workloads.inference.shares import write_shares
from foedus_workloads.transport.caller import CallerPatience
from foedus_workloads.transport.tls import caller_uri, party_contexts
from support.certificates import Authority
from support.local_calls import NAMES, PARTIES, TEXTS, Watched, call, left, process_of, processes
from support.tiny_classifier import LABELS, write_classifier

nightly = pytest.mark.nightly
KILLED = "{}: its process was ended by signal 9"
# A call takes the time of half a dozen starts of Python and torch, so most of the table is for the night.
CI = {("CrypTen", "dealer", 0.0), ("Replicated3PC", "party 1", "connecting"), ("Replicated3PC", "party 1", "starting")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model"), "bert")[0]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    assert (processes(tmp_path), left(tmp_path / "state")) == ([], [])


def table() -> Iterator[object]:
    """Every member of every protocol, at every step: starting, agreeing, sending the input, early and late rounds."""
    for protocol, names in NAMES.items():
        for name in names:
            for when in ("starting", "connecting", "computing", 0.0, 0.5):
                marks = () if (protocol, name, when) in CI else nightly
                yield pytest.param(protocol, name, when, marks=marks)


@pytest.mark.parametrize(("protocol", "name", "when"), list(table()))
def test_a_member_that_is_killed_ends_the_call_with_one_line(
    model: Path, state: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, name: str, when: str | float
) -> None:
    def kill() -> None:
        os.kill(process_of(state, name), signal.SIGKILL)

    if when == "starting":
        original = LocalParties.listening

        async def listening(self: LocalParties) -> None:
            kill()
            await original(self)

        monkeypatch.setattr(LocalParties, "listening", listening)
        show = None
    else:
        show = Watched(when, kill)
    with pytest.raises(FoedusError) as caught:
        # A late report may be a text's last one: then the next text finds the member dead.
        call(model, state, show=show, texts=TEXTS * 3, protocol=protocol)
    assert (str(caught.value), caught.value.code) == (KILLED.format(name), ExitCode.QUORUM_LOST)


@nightly
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("protocol", PARTIES)
def test_a_member_may_be_killed_at_any_moment(model: Path, state: Path, protocol: str, seed: int) -> None:
    draw = random.Random(f"{protocol} {seed}")
    name, after = draw.choice(NAMES[protocol]), draw.uniform(0.0, 4.0)
    timers: list[threading.Timer] = []

    def begin() -> None:
        timers.append(threading.Timer(after, os.kill, (process_of(state, name), signal.SIGKILL)))
        timers[0].start()

    def end() -> str | int:
        try:
            return len(
                call(model, state, show=Watched("connecting", begin), texts=TEXTS * 20, protocol=protocol).answers
            )
        except FoedusError as error:
            return str(error)
        finally:
            timers[0].cancel()

    assert end() in {KILLED.format(name), len(TEXTS * 20)}  # unless the call was quicker


@nightly
@pytest.mark.parametrize(("protocol", "name"), [(each, name) for each, names in NAMES.items() for name in names])
def test_a_member_that_stands_still_is_named_by_a_deadline(
    model: Path, state: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, name: str
) -> None:
    """Its connections stay open, half of them with something unread: nobody is told that it says nothing any more."""
    build, short = local.build_spec, Patience(round_seconds=20, connect_seconds=20)
    monkeypatch.setattr(local, "build_spec", lambda *a: build(*a).model_copy(update={"patience": short}))
    monkeypatch.setattr(local, "CallerPatience", lambda: CallerPatience(silence_seconds=60))
    monkeypatch.setattr(parties, "GRACE_SECONDS", 0.5)  # who stands still does not end by itself
    stop = Watched(0.0, lambda: os.kill(process_of(state, name), signal.SIGSTOP))
    with pytest.raises(FoedusError) as caught:
        call(model, state, show=stop, texts=TEXTS * 3, protocol=protocol)
    assert caught.value.code in {ExitCode.DEADLINE_EXCEEDED, ExitCode.UNAVAILABLE, ExitCode.QUORUM_LOST}
    # A party's silence is noticed by its neighbours first. A dealer's may be noticed when all is dealt: by the client.
    assert str(caught.value).startswith(f"{name}: ")


def swapped(member: int, **changes: object):
    """Write shares as they are, and one member's with another label."""

    def write(path, shares, label):
        write_shares(path, shares, label.model_copy(update=changes if label.party == member else {}))

    return write


@pytest.mark.parametrize(
    ("protocol", "member"),
    [
        ("Replicated3PC", 1),
        pytest.param("Replicated3PCMalicious", 2, marks=nightly),
        pytest.param("CrypTen", 1, marks=nightly),
        pytest.param("CrypTen", DEALER, marks=nightly),
    ],
)
def test_a_member_with_shares_of_another_model_does_not_begin(
    model: Path, state: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, member: int
) -> None:
    monkeypatch.setattr(local, "write_shares", swapped(member, model_digest="sha256:" + "b" * 64))
    with pytest.raises(FoedusError) as caught:
        call(model, state, protocol=protocol)
    assert caught.value.code is ExitCode.INVALID_MODEL
    line = str(caught.value)
    assert line.startswith(f"{member_name(member)}: ")
    assert "these are shares of the model sha256:bbbb" in line


@pytest.mark.parametrize(
    "protocol", ["CrypTen", *(pytest.param(each, marks=nightly) for each in PARTIES if each != "CrypTen")]
)
def test_half_open_connections_and_strangers_do_not_keep_the_members_from_answering(
    model: Path, state: Path, tmp_path: Path, protocol: str
) -> None:
    refused: list[str] = []
    with ExitStack() as stack:

        def intrude() -> None:
            own = Authority.create()
            name = x509.UniformResourceIdentifier(caller_uri("local", "infer", "owner"))
            (theirs,) = state.rglob("caller/ca.crt")
            files = own.issue(tmp_path / "stranger", name)
            context = party_contexts(files)[1]
            context.load_verify_locations(theirs)  # it knows whom it dials; nobody knows it
            for port in listening(state):
                silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3)]
                silent[0].sendall(b"\x16\x03\x01\x02\x00")  # the head of a handshake, and no more
                for each in silent:
                    stack.enter_context(each)
                refused.append(turned_away(context, port))

        inference = call(model, state, show=Watched("connecting", intrude), texts=TEXTS[:1], protocol=protocol)
    assert inference.answers[0].label in LABELS
    assert refused == ["TLSV1_ALERT_UNKNOWN_CA"] * 3


def listening(state: Path) -> list[int]:
    """Return the ports of the members."""
    (endpoints,) = state.rglob("endpoints.json")
    return [int(address.rpartition(":")[2]) for address in json.loads(endpoints.read_text()).values()]


def turned_away(context: ssl.SSLContext, port: int) -> str:
    """Return the alert with which a certificate is refused, which comes after the client's half of the handshake."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    try:
        with context.wrap_socket(raw) as connection:
            return repr(connection.recv(1))
    except ssl.SSLError as error:
        return str(error.reason)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that the shares of the model do not fit on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("protocol", PARTIES)
def test_a_disk_that_is_full_when_weights_are_shared_is_said_in_one_line(
    model: Path, small_disk: Path, protocol: str
) -> None:
    arguments = ["infer", "--local", "--output", "json", "--model", str(model), "--protocol", protocol]
    ended = foedus([*arguments, "--state", str(small_disk / "state"), TEXTS[0]]).wait()
    assert ended.code == ExitCode.UNAVAILABLE
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert "weights.safetensors: cannot be written (No space left on device)" in line
    assert line.endswith("free space on the volume, or mend it")
    assert left(small_disk / "state") == []
