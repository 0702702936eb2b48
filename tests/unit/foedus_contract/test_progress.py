"""What is read of a process that may be of another version."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from foedus_contract.progress import Preparing, read_event


def test_fields_of_a_later_version_are_ignored() -> None:
    line = b'{"event":"Preparing","at":1.5,"what":"joining","done":2,"total":4,"pace":"fast","more":{"a":[1]}}'
    assert read_event(line) == Preparing(at=1.5, what="joining", done=2, total=4)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"event":"Unheard"}', b'{"event":"Preparing"}', b'{"event":"Preparing","what":1}'],
)
def test_what_is_no_event_is_none(line: bytes) -> None:
    with pytest.raises(ValidationError):
        read_event(line)
