"""`Replicated3PCMalicious`: what may be used once, what comes before what, and that others' words are not one's own."""

from __future__ import annotations

import os

import pytest
import torch

from foedus_contract.errors import JobFailed
from foedus_workloads.mpc.malicious.bits import Numbers, make_bits
from foedus_workloads.mpc.malicious.claims import MatrixClaim, ProductClaim
from foedus_workloads.mpc.malicious.coins import NONCE_BYTES, toss
from foedus_workloads.mpc.malicious.matrices import check_matrices
from foedus_workloads.mpc.malicious.products import PRODUCTS, check_products, make_products
from foedus_workloads.mpc.malicious.record import Stock
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Shared
from support.three_cheaters import SESSION, Rushed, echoed, is_right, play, small_program
from support.three_parties import parties, shared

X = shared(torch.arange(4).reshape(2, 2))


def tossed(party):
    return toss(party, SESSION, os.urandom)


def test_a_random_bit_converts_one_bit_and_no_more():
    """Of two bits under one random bit the parties would see the sum."""
    bits = Shared(torch.arange(5), torch.arange(10, 15))
    stock = Stock(Numbers(bits, bits), reserved=5)
    taken = [stock.take(count).bit for count in (2, 1, 2)]
    assert [each.own.tolist() for each in taken] == [[0, 1], [2], [3, 4]]
    assert [each.next.tolist() for each in taken] == [[10, 11], [12], [13, 14]]
    assert (stock.count, stock.reserved, stock.taken) == (0, 0, 5)


def test_each_comparison_has_keys_of_its_own_that_neighbours_have_in_common():
    world = parties()
    first, second = ([Transcripts(party).tags() for party in world] for _ in range(2))
    for made in (first, second):
        assert [made[i][0] == made[(i + 1) % 3][1] for i in range(3)] == [True] * 3
    assert len({tag for made in (first, second) for tags in made for tag in tags}) == 6


def matrices(party):
    mine = X[party.index]
    return check_matrices(party, [MatrixClaim(mine, mine, mine)], lambda: tossed(party), Transcripts(party))


def products(party):
    transcripts, flat = Transcripts(party), X[party.index].map(torch.flatten)
    random = yield from make_products(party, PRODUCTS, 4, tossed(party), transcripts)
    yield from check_products(party, PRODUCTS, [ProductClaim(flat, flat, flat)], random, tossed(party), transcripts)


def bits(party):
    return make_bits(party, 64, 4, tossed(party), Transcripts(party))


COINS = ["commits", "reveals"]
# What party 1 does, round by round: coins come when it has sent all that they decide on, and before what they decide.
ORDER = {
    "matrices": (matrices, [*COINS, "sends", *COINS, "sends"]),
    "products": (products, ["sends", *COINS, "sends", *COINS, "sends"]),
    "bits": (bits, ["waits", "sends", *COINS, "sends"]),
}


def doing(exchange):
    if exchange.to_previous and exchange.to_next:
        return {NONCE_BYTES: "commits", 2 * NONCE_BYTES: "reveals"}[exchange.to_next[0].numel()]
    return "sends" if exchange.to_previous or exchange.to_next else "waits"


@pytest.mark.parametrize("check", ORDER)
def test_coins_are_tossed_when_all_that_they_decide_on_has_come(check):
    operation, wanted = ORDER[check]

    def then_x(party):
        yield from operation(party)
        return X[party.index]

    assert list(map(doing, play(then_x, 1).sent)) == wanted


@pytest.mark.parametrize("cheater", range(3))
@pytest.mark.parametrize("to_next", [False, True])
def test_another_partys_commitment_cannot_be_given_as_ones_own(cheater, to_next):
    """The cheater waits for the commitment and then for the bytes of the same neighbour, and says both again."""

    def operation(party):
        yield from tossed(party)
        return X[party.index]

    def copied(own, seen):
        (came,) = seen.from_next if to_next else seen.from_previous
        return torch.cat([came[:NONCE_BYTES], own[NONCE_BYTES:]])

    attack = [Rushed(number, direction, 0, copied) for number in (0, 1) for direction in (False, True)]
    assert "reveals other coins" in str(play(operation, cheater, attack).error)


HONEST = [play(small_program, cheater) for cheater in range(3)]


@pytest.mark.parametrize("cheater", [0, *(pytest.param(each, marks=pytest.mark.nightly) for each in (1, 2))])
def test_what_others_have_just_sent_is_no_message_of_ones_own(cheater):
    """Each message in turn is one that the cheater has received in the same round, where one has its form."""
    for number, exchange in enumerate(HONEST[cheater].sent):
        for to_next, payload in ((False, exchange.to_previous), (True, exchange.to_next)):
            if payload and payload[0].numel() > 1:  # a word of one byte is the same from everybody
                played = play(small_program, cheater, [Rushed(number, to_next, 0, echoed)])
                assert isinstance(played.error, JobFailed) or is_right(played.values), (number, to_next)
