"""Each known defect of CrypTen 0.4.1: what it does as it comes, in a process of its own, and what is done here."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import support.stock_crypten
from foedus_contract.errors import JobFailed, Unavailable
from foedus_contract.mpc_wire import DEALER
from foedus_workloads.mpc.crypten import shims
from foedus_workloads.mpc.crypten.beaver import multiply, square
from foedus_workloads.mpc.crypten.deals import Streams, square_pair
from foedus_workloads.mpc.crypten.functions import inverse_root, reciprocal
from foedus_workloads.mpc.crypten.truncation import truncate
from foedus_workloads.mpc.normalisation import Powers
from support.crypten_parties import decoded, encoded, run, split, world
from support.crypten_sessions import PLAN, dealer_session

F = 2**16


@pytest.fixture(scope="module")
def stock():
    """What CrypTen does as it comes."""
    script = Path(support.stock_crypten.__file__)
    done = subprocess.run([sys.executable, script], capture_output=True, check=True, text=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_imported_on_this_torch(stock):
    assert stock["import"] == "ModuleNotFoundError"
    assert shims.PROTOCOLS.multiply.__module__ == "crypten.mpc.primitives.beaver"


@pytest.mark.parametrize("parties", [2, 3])
def test_truncation_never_errs_by_much(stock, parties):
    assert max(stock["truncation"][str(parties)]) > 2**47  # once in 2^64 / |x|: here of 2,000 results at 2^60 some
    secret = torch.full((2000,), 2**60)
    shares = split(secret, parties)
    result = run(world(parties), lambda party: truncate(party, shares[party.index], 16))
    assert {abs(each) for each in (result.total - 2**44).tolist()} <= {0, 1}


def test_a_reciprocal_of_a_large_number_is_right(stock):
    assert stock["functions"]["reciprocal"][0] < -1e9  # of 1000
    shares = split(encoded(torch.tensor([1000.0])), 2)
    found = run(world(2), lambda p: reciprocal(p, shares[p.index], Powers(0, 11), bits=26)).total
    assert decoded(found, 26).item() == pytest.approx(0.001, rel=1e-4)


def test_inverse_roots_of_small_and_large_numbers_are_right(stock):
    right = [10.0, 200**-0.5]
    assert stock["functions"]["inverse root"] != pytest.approx(right, rel=0.3)
    assert stock["functions"]["inverse root"][1] != pytest.approx(right[1], rel=0.3)
    shares = split(encoded(torch.tensor([0.01, 200.0])), 2)
    found = run(world(2), lambda p: inverse_root(p, shares[p.index], Powers(-8, 9))).total
    assert decoded(found).tolist() == pytest.approx(right, rel=2e-3)


def test_what_is_sent_of_a_product_differs_each_time(stock):
    assert stock["squares"][0] == stock["squares"][1]  # unmasked: the next message shows it to a party that knows x1
    shares = split(torch.tensor([66]), 3)
    again = [run(world(3, seed=seed), lambda p: square(p, shares[p.index])) for seed in (1, 2)]
    assert [each.total.item() for each in again] == [4356, 4356]
    assert not any(torch.equal(*pair) for pair in zip(again[0].shares, again[1].shares, strict=True))
    assert not torch.equal(again[0].opened[0], again[1].opened[0])


@pytest.mark.parametrize(
    "module",
    [
        "crypten.common.serial",  # pickle
        "crypten.communicator.distributed_communicator",  # gloo, in the clear
        "crypten.communicator.in_process_communicator",
        "crypten.mpc.primitives.converters",
        "crypten.mpc.primitives.ot.baseOT",
        "crypten.mpc.provider",  # a party that deals, a dealer that calls what it is told to
        "crypten.mpc.provider.tfp_provider",
        "crypten.mpc.provider.ttp_provider",
        "crypten.nn",
        "crypten.mpc.mpc",
    ],
)
def test_what_is_not_safe_cannot_be_imported(module):
    with pytest.raises(ImportError):
        importlib.import_module(module)


def test_no_setting_reaches_the_replicated_protocol_or_another_provider(stock):
    assert stock["provider"] == "TFP"
    settings = importlib.import_module("crypten.config").cfg
    for holder, name in ((settings.mpc, "protocol"), (settings, "mpc"), (settings.mpc, "provider")):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(holder, name, "replicated")
    replicated = importlib.import_module("crypten.mpc.primitives.replicated")
    assert not any(hasattr(replicated, name) for name in ("mul", "matmul", "square", "AND", "truncate"))
    assert settings.mpc.active_security is False  # it says that it protects, and does not


def test_nothing_of_it_opens_or_draws_by_itself():
    x = shims.arithmetic(torch.tensor([1]))
    for attempt in (x.reveal, lambda: x.mul(x), lambda: x.PRZS((1,)), lambda: x.PRSS((1,)), x.get_plain_text):
        with pytest.raises((RuntimeError, ImportError)):
            attempt()


def test_masks_are_a_block_ciphers_and_reach_every_integer(stock):
    assert stock["beyond"] == 2**63 - 1
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(80))
    drawn, _ = Streams(key).draw(square_pair((10,)).parts)
    assert drawn.numpy().tobytes() == stream
    # One of 2^63 - 1, in a stream that is searched for it by its bytes: none is left out, as none of AES's is.
    assert torch.frombuffer(bytearray(b"\xff" * 7 + b"\x7f"), dtype=torch.int64).item() == 2**63 - 1


def test_a_dealer_takes_a_greeting_and_nothing_else(stock):
    assert stock["dealer calls by name"] is True
    assert stock["messages"] == "pickle"
    dealer = dealer_session(parties=2)
    for header in (b'{"kind":"Call","function":"getattr"}', b"\x80\x04]q\x00.", b"{}"):
        fresh = dealer_session(parties=2)
        with pytest.raises(JobFailed, match="party 0: sent something malformed"):
            fresh.announce(0, header)
    assert [send.party for send in dealer.start()] == [0, 1]
    assert PLAN(2).rounds > 0
    assert DEALER not in {send.party for send in dealer.start()}


def test_of_a_product_no_party_but_one_is_sent_more_than_uniform_numbers():
    """The first party of CrypTen's own provider knows every mask; here a mask is the sum of all parties' draws."""
    parties = world(2)
    x, y = split(torch.tensor([5]), 2), split(torch.tensor([7]), 2)
    result = run(parties, lambda party: multiply(party, x[party.index], y[party.index]))
    assert result.total.item() == 35
    own = Streams(bytes([0, 0]) * 16).draw(square_pair((1,)).uniform)[0]
    assert 5 - result.opened[0].item() != own.item()  # the mask of x is not what party 0 drew


def test_its_absence_is_a_typed_error(monkeypatch):
    monkeypatch.setattr(shims.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"needs crypten 0\.4\.1; installed is none; pip install --no-deps"):
        shims._install()
