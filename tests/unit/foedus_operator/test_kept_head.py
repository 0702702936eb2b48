"""The end of a silo's log that a budget's object keeps, as somebody else may have written it."""

from typing import Any

import pytest

from contract.test_crds import budget, changed, head
from foedus_contract.errors import Refused
from foedus_ledger.charges import LedgerBehind
from foedus_operator.ledgers import check_kept_head, read_record


@pytest.mark.parametrize(
    ("kept", "refusal"),
    [
        (None, None),
        ({**head(3), "signature": "x"}, "status.head cannot be read"),
        ({"count": "many"}, "status.head cannot be read"),
    ],
)
def test_one_that_cannot_be_read_is_refused_with_its_cure(kept: Any, refusal: str | None) -> None:
    stored = changed(budget(), "status.head", kept) if kept else budget()
    stored["metadata"] = {**stored["metadata"], "namespace": "team-a", "uid": "u", "generation": 1}
    record = read_record(stored)
    if refusal is None:
        check_kept_head(stored, record)
        return
    with pytest.raises(Refused, match=refusal) as error:
        check_kept_head(stored, record)
    assert not isinstance(error.value, LedgerBehind)
    assert "team-a/" in str(error.value)
