"""The native passes against what is written in torch beside them: with the same keys, the same shares and messages."""

from __future__ import annotations

import pytest
import torch

from foedus_ring.passes import fastest
from foedus_workloads.mpc import ring
from foedus_workloads.mpc.activations import gelu, softmax, tanh
from foedus_workloads.mpc.truncation import truncate
from support.three_parties import encoded, parties, run, shared


@pytest.mark.skipif(fastest() is None, reason="no kernels")
@pytest.mark.parametrize("function", [gelu, tanh, softmax, lambda p, x: truncate(p, x, 26)])
def test_native_passes_change_no_bit(function, monkeypatch):
    secret = encoded(torch.linspace(-9, 9, 4 * 33, dtype=torch.float64).reshape(4, 33))
    shares = shared(secret)
    native, used = run(parties(), lambda p: function(p, shares[p.index])), []
    monkeypatch.setattr(ring, "fastest", lambda: used.append(1))
    plain = run(parties(), lambda p: function(p, shares[p.index]))
    assert used
    for one, other in zip(native.results, plain.results, strict=True):
        assert torch.equal(one.own, other.own)
        assert torch.equal(one.next, other.next)
    for one, other in zip(native.seen, plain.seen, strict=True):
        assert all(map(torch.equal, one, other))
