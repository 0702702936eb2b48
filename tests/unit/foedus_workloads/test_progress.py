"""Progress of a process: every event in its file, the latest of each kind at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus_contract.errors import Unavailable
from foedus_contract.models import ContractModel
from foedus_contract.progress import Preparing, ProcessFailed, RoundFinished, read_event
from foedus_workloads.training.progress import ProgressWriter


def finished(number: int, *, applied: bool) -> RoundFinished:
    return RoundFinished(
        at=0.0,
        round=number,
        attempt=number,
        applied=applied,
        survivors=(),
        dropped=(),
        epsilon_spent=0.5,
        accuracy=None,
        seconds=1.0,
    )


LOADING, WAITING = Preparing(what="loading"), Preparing(what="waiting")
FIRST, FAILED, SECOND = finished(0, applied=True), finished(1, applied=False), finished(2, applied=True)
OVER = ProcessFailed(code=1, message="over")


@pytest.mark.parametrize(
    ("said", "latest"),
    [
        ([], []),
        ([LOADING], [LOADING]),
        ([LOADING, WAITING], [WAITING]),
        ([LOADING, FIRST, WAITING], [FIRST, WAITING]),  # in the order in which they were said
        ([FIRST, FAILED], [FIRST, FAILED]),  # the failed one says why, the other what the model is
        ([FIRST, FAILED, SECOND], [FAILED, SECOND]),
        ([LOADING, FIRST, SECOND, OVER], [LOADING, SECOND, OVER]),
    ],
)
def test_the_latest_event_of_each_kind_is_at_hand(
    tmp_path: Path, said: list[ContractModel], latest: list[ContractModel]
) -> None:
    writer = ProgressWriter(tmp_path / "run" / "progress.jsonl")
    for event in said:
        writer.write(event)
    file = tmp_path / "run" / "progress.jsonl"
    assert [read_event(line) for line in writer.latest.splitlines()] == latest
    assert [read_event(line) for line in (file.read_bytes() if said else b"").splitlines()] == said


def test_what_could_not_be_written_is_not_shown_either(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path / "progress.jsonl")
    (tmp_path / "progress.jsonl").mkdir()
    with pytest.raises(Unavailable):
        writer.write(LOADING)
    assert writer.latest == b""
