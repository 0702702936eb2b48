"""The operations of `Replicated3PC`, against parties that follow the protocol."""

from __future__ import annotations

from foedus_workloads.mpc import arithmetic, comparison, conversion, truncation
from foedus_workloads.mpc.party import Party
from foedus_workloads.mpc.primitives import Primitives
from foedus_workloads.mpc.rounds import Operation


def _nothing(_party: Party) -> Operation[None]:
    yield from ()


SEMI_HONEST = Primitives(
    product=arithmetic.product,
    square=arithmetic.square,
    square_sum=arithmetic.square_sum,
    prepare=arithmetic.prepare,
    matrix_product=arithmetic.matrix_product,
    reshare=arithmetic.reshare,
    truncate=truncation.truncate,
    multiply=arithmetic.multiply,
    carry_words=comparison.first_words,
    bit_to_arithmetic=conversion.bit_to_arithmetic,
    inject=conversion.inject,
    pause=_nothing,
)
