"""What a coordinator's journal and checkpoints say after any crash, and what it makes of damage and a full volume."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.wire import AttemptId, StartAttempt
from foedus_workloads.training.checkpoint import CheckpointStore, pack_checkpoint, unpack_checkpoint
from foedus_workloads.training.coordinator_entries import Began, Closed, Opened, Recovered, Restored, Standing, recover
from foedus_workloads.training.coordinator_journal import open_coordinator_journal
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.kept import KeptBroadcast
from foedus_workloads.training.silo_entries import Entry

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def opened(number: int, attempt: int) -> Opened:
    return Opened(round=number, attempt=attempt, adapter_digest=ONE)


def closed(rounds: int, attempts: int, charged: int, checkpoint: str | None = None) -> Closed:
    return Closed(standing=Standing(rounds=rounds, attempts=attempts, charged=charged), checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("entries", "standing", "checkpoint"),
    [
        ([Began()], (0, 0, 0), None),
        ([Began(), opened(0, 0)], (0, 1, 1), None),  # cut off: the number is used, the charge counts
        ([Began(), opened(0, 0), opened(0, 1)], (0, 2, 2), None),
        ([Began(), opened(0, 0), closed(0, 1, 0)], (0, 1, 0), None),  # aborted before anybody was charged
        ([Began(), opened(0, 0), closed(0, 1, 1)], (0, 1, 1), None),
        ([Began(), opened(0, 0), closed(1, 1, 1, ONE)], (1, 1, 1), ONE),
        ([Began(), opened(0, 0), closed(1, 1, 1, ONE), opened(1, 1)], (1, 2, 2), ONE),
        ([Began(), opened(0, 0), closed(1, 1, 1, ONE), opened(1, 1), closed(1, 2, 2)], (1, 2, 2), ONE),
        ([Restored(standing=Standing(rounds=2, attempts=5, charged=4), checkpoint=TWO)], (2, 5, 4), TWO),
    ],
)
def test_a_new_process_goes_on_after_every_attempt_that_was_opened(
    tmp_path: Path, entries: list, standing: tuple[int, int, int], checkpoint: str | None
) -> None:
    path = tmp_path / "state/journal.jsonl"
    with open_coordinator_journal(path) as journal:
        assert journal.recovered is None
        for entry in entries:
            journal.write(entry)
    with open_coordinator_journal(path) as journal:
        rounds, attempts, charged = standing
        want = Recovered(Standing(rounds=rounds, attempts=attempts, charged=charged), checkpoint)
        assert journal.recovered == want == recover(entries)


@pytest.mark.parametrize(
    "entries",
    [
        [opened(0, 0)],
        [Began(), Began()],
        [Began(), opened(1, 0)],
        [Began(), opened(0, 1)],
        [Began(), opened(0, 0), opened(0, 0)],  # a number is never used again
        [Began(), closed(1, 1, 1, ONE)],
        [Began(), opened(0, 0), closed(1, 1, 1)],  # applied without a checkpoint
        [Began(), opened(0, 0), closed(1, 1, 0, ONE)],  # released without a charge
        [Began(), opened(0, 0), closed(0, 2, 1)],
        [Began(), opened(0, 0), closed(0, 1, 2)],
        [Began(), Restored(standing=Standing(), checkpoint=ONE)],
    ],
)
def test_entries_out_of_order_are_damage(tmp_path: Path, entries: list) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(entry.to_json() + b"\n" for entry in entries))
    with pytest.raises(InvalidInput, match=r"journal.jsonl:\d: the journal is damaged"), open_coordinator_journal(path):
        pass


@pytest.mark.parametrize(("tail", "survives"), [(b'{"entry":"Ope', True), (b"garbage\n", False), (b"\n", False)])
def test_a_torn_last_line_is_cut_off_and_other_damage_stops(tmp_path: Path, tail: bytes, survives: bool) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(Began().to_json() + b"\n" + tail)
    if survives:
        with open_coordinator_journal(path) as journal:
            journal.write(opened(0, 0))
        assert path.read_bytes().count(b"\n") == 2
        return
    with pytest.raises(InvalidInput, match="damaged"), open_coordinator_journal(path):
        pass


def test_two_processes_never_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with open_coordinator_journal(path), pytest.raises(Unavailable, match="another process of this coordinator"):
        open_coordinator_journal(path).__enter__()


@contextmanager
def full_volume(free: int) -> Iterator[None]:
    """Let files grow to `free` bytes, as if the volume were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("free", [0, 10])  # nothing, or half a line fits
def test_a_full_volume_is_unavailable_and_leaves_every_file_as_it_was(tmp_path: Path, free: int) -> None:
    start = StartAttempt(id=AttemptId(round=0, attempt=0), factor="B", adapter_digest=ONE)
    kept, store = KeptBroadcast(tmp_path, "uid"), CheckpointStore(tmp_path, "uid")
    with open_coordinator_journal(tmp_path / "c.jsonl") as journal, open_journal(tmp_path, "uid") as silo:
        journal.write(Began())
        kept.write(start, b"old")
        size = (tmp_path / "c.jsonl").stat().st_size
        entry = Entry(round=0, attempt=0, stage="Opened")
        with full_volume(0 if free == 0 else size + free):
            with pytest.raises(Unavailable, match="cannot be written"):
                journal.write(opened(0, 0))
            for write in (lambda: kept.write(start, b"new" * 1000), lambda: store.save(b"checkpoint" * 1000)):
                with pytest.raises(Unavailable, match="cannot be written"):
                    write()
        with full_volume(free), pytest.raises(Unavailable, match="free space"):
            silo.write(entry)
        assert (tmp_path / "c.jsonl").stat().st_size == size
        journal.write(opened(0, 0))
        silo.write(entry)
    assert kept.read() == (start, b"old")


def test_a_failing_sync_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_coordinator_journal(tmp_path / "c.jsonl") as journal, open_journal(tmp_path, "uid") as silo:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable, match="Input/output error"):
            journal.write(Began())
        with pytest.raises(Unavailable, match="Input/output error"):
            silo.write(Entry(round=0, attempt=0, stage="Opened"))
        monkeypatch.undo()
    with open_coordinator_journal(tmp_path / "c.jsonl") as journal:
        assert journal.recovered is None  # what was not synced was not done


def test_a_checkpoint_is_found_by_its_digest_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "uid")
    first, second = store.save(b"first"), store.save(b"second")
    assert (store.load(first), store.load(second)) == (b"first", b"second")
    store.keep_only(second)
    with pytest.raises(InvalidInput, match="No such file"):
        store.load(first)
    next(tmp_path.iterdir()).write_bytes(b"sEcond")
    with pytest.raises(InvalidInput, match="not what the journal names"):
        store.load(second)


def test_a_checkpoint_holds_adapter_and_velocities_bit_for_bit() -> None:
    adapter = {"layer.B": np.array([[1.5, -0.0]], np.float32)}
    velocity = {"B": np.array([0.1, 1e-300]), "head": np.array([-2.0])}
    content = pack_checkpoint(adapter, velocity)
    again_adapter, again_velocity = unpack_checkpoint(content)
    for before, after in ((adapter, again_adapter), (velocity, again_velocity)):
        assert before.keys() == after.keys()
        assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    with pytest.raises(InvalidInput, match="not safetensors"):
        unpack_checkpoint(content[:-1])


@pytest.mark.parametrize("content", [None, b"", b"\0\0\0\2{}", b"\xff" * 100])
def test_a_broadcast_that_cannot_be_read_counts_as_none(tmp_path: Path, content: bytes | None) -> None:
    kept = KeptBroadcast(tmp_path, "uid")
    start = StartAttempt(id=AttemptId(round=0, attempt=3), factor="B", adapter_digest=ONE)
    kept.write(start, b"adapter")
    (path,) = tmp_path.iterdir()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert kept.read() is None
    assert KeptBroadcast(tmp_path, "another").read() is None
