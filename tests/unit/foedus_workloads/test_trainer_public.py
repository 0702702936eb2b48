"""The public records must be public: a silo's own file is refused before anything is evaluated on it."""

import pytest

from foedus_contract.errors import InvalidInput
from foedus_workloads.training.trainer import check_public, in_tenths
from support.training_plans import tiny_plan

PLAN = tiny_plan("sha256:" + "0" * 64)


def test_a_silos_own_records_are_no_public_records():
    with pytest.raises(InvalidInput) as refusal:
        check_public(PLAN.silos[1].data_digest, PLAN)
    assert "the records of silo-2, not public ones" in str(refusal.value)
    assert refusal.value.where == "spec.evaluation.data"


def test_other_records_pass():
    check_public("sha256:" + "e" * 64, PLAN)


def test_a_long_encoding_is_told_a_tenth_at_a_time():
    told = []
    report = in_tenths(lambda done, total: told.append((done, total)))
    for done in [*range(8, 426, 8), 426]:
        report(done, 426)
    assert told == [(done, 426) for done in (48, 88, 128, 176, 216, 256, 304, 344, 384, 426)]
