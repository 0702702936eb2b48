"""No attempt is answered twice, whatever happens to the process in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.run_spec import SiloPolicy
from foedus_contract.wire import AttemptId
from foedus_workloads.training.coordinator_journal import open_coordinator_journal
from foedus_workloads.training.identity import load_identity, read_policy
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.silo_entries import Entry, check_follows

FIRST, SECOND = AttemptId(round=0, attempt=0), AttemptId(round=0, attempt=1)
WHOLE = ("opened", "charging", "uploaded", "unmasked")


def play(journal, step: str, attempt: AttemptId = FIRST) -> None:
    entry = Entry(round=attempt.round, attempt=attempt.attempt, stage=step.capitalize())
    journal.write(entry, b"masked" if step == "uploaded" else b"")


@pytest.mark.parametrize("done", [WHOLE[:count] for count in range(1, 5)])
def test_after_a_restart_an_attempt_that_was_opened_gets_no_answer_and_the_next_one_does(
    tmp_path: Path, done: tuple[str, ...]
) -> None:
    with open_journal(tmp_path, "uid") as journal:
        for step in done:
            play(journal, step)
    with open_journal(tmp_path, "uid") as journal:
        assert (journal.last.round, journal.last.attempt) == (0, 0)
        with pytest.raises(Refused):
            play(journal, "opened")
        play(journal, "opened", SECOND)


@settings(deadline=None)
@given(st.lists(st.sampled_from([(step, attempt) for step in WHOLE for attempt in (0, 1, 2)]), max_size=12))
def test_each_step_of_an_attempt_happens_at_most_once_and_in_order(wishes: list[tuple[str, int]]) -> None:
    last, done = None, []
    for step, attempt in wishes:
        entry = Entry(round=0, attempt=attempt, stage=step.capitalize())
        try:
            check_follows(last, entry)
        except Refused:
            continue
        last = entry
        done.append((attempt, WHOLE.index(step)))
    assert done == sorted(set(done))
    assert all((attempt, stage - 1) in done for attempt, stage in done if stage)


def test_masked_bytes_are_on_disk_before_they_are_sent_and_only_the_last_ones_stay(tmp_path: Path) -> None:
    with open_journal(tmp_path, "uid") as journal:
        for step in WHOLE[:3]:
            play(journal, step)
        assert [path.read_bytes() for path in tmp_path.glob("*.masked")] == [b"masked"]
        play(journal, "opened", SECOND)
        assert list(tmp_path.glob("*.masked")) == []


def test_entries_are_synced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    with open_journal(tmp_path, "uid") as journal:
        monkeypatch.setattr(os, "fsync", synced.append)
        for count, step in enumerate(WHOLE, start=1):
            play(journal, step)
            assert len(synced) >= count


@pytest.mark.parametrize(
    ("tail", "survives"), [(b'{"round":0,"att', True), (b"garbage\n", False), (b'{"round":0,"attempt":0}\n', False)]
)
def test_a_torn_last_line_is_cut_off_and_other_damage_stops_the_silo(
    tmp_path: Path, tail: bytes, survives: bool
) -> None:
    with open_journal(tmp_path, "uid") as journal:
        play(journal, "opened")
    path = next(tmp_path.glob("journal-*.jsonl"))
    path.write_bytes(path.read_bytes() + tail)
    if survives:
        with open_journal(tmp_path, "uid") as journal:
            play(journal, "charging")
        assert path.read_bytes().count(b"\n") == 2
        return
    with pytest.raises(InvalidInput, match=r"damaged"), open_journal(tmp_path, "uid"):
        pass


def test_two_processes_never_share_a_journal_and_two_jobs_never_share_attempts(tmp_path: Path) -> None:
    with open_journal(tmp_path, "uid") as journal:
        play(journal, "opened")
        with pytest.raises(Unavailable), open_journal(tmp_path, "uid"):
            pass
        with open_journal(tmp_path, "another") as other:
            assert other.last is None


def test_the_identity_is_made_once_and_private(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "state", os.urandom).private_bytes_raw()
    assert load_identity(tmp_path / "state", os.urandom).private_bytes_raw() == first
    path = tmp_path / "state" / "identity.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["identity.key"]
    path.write_bytes(b"short")
    with pytest.raises(InvalidInput, match="damaged"):
        load_identity(tmp_path / "state", os.urandom)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SiloPolicy(pinned={"a": b"k" * 32, "b": b"l" * 32}).to_json(), None),
        (SiloPolicy(pinned={"a": b"m" * 32, "b": b"l" * 32}).to_json(), "own key"),
        (SiloPolicy(pinned={"b": b"k" * 32}).to_json(), "own key"),
        (SiloPolicy(pinned={"a": b"k" * 32, "b": b"k" * 32}).to_json(), "twice"),
        (SiloPolicy(pinned={"a": b"k" * 32, "b": b"l"}).to_json(), "no Ed25519 key"),
        (b"{}", "pinned"),
    ],
)
def test_a_policy_must_pin_the_silos_own_key(tmp_path: Path, text: bytes, problem: str | None) -> None:
    path = tmp_path / "policy.json"
    assert read_policy(path, silo="a", own_key=b"k" * 32) is None
    path.write_bytes(text)
    if problem is None:
        assert read_policy(path, silo="a", own_key=b"k" * 32) == {"a": b"k" * 32, "b": b"l" * 32}
        return
    with pytest.raises(FoedusError, match=problem):
        read_policy(path, silo="a", own_key=b"k" * 32)


def test_masked_bytes_of_skipped_attempts_go_too_and_are_the_owners_alone(tmp_path: Path) -> None:
    with open_journal(tmp_path, "job") as journal:
        for number in (0, 2, 4):
            attempt = AttemptId(round=0, attempt=number)
            for step in WHOLE[:3]:
                play(journal, step, attempt)
    left = list(tmp_path.glob("*.masked"))
    assert [(path.name.rpartition("-")[2], path.stat().st_mode & 0o777) for path in left] == [("4.masked", 0o600)]


def of_silo(folder: Path) -> AbstractContextManager[object]:
    return open_journal(folder, "uid")


def of_coordinator(folder: Path) -> AbstractContextManager[object]:
    return open_coordinator_journal(folder / "journal.jsonl")


@pytest.mark.parametrize("opened", [of_silo, of_coordinator])
def test_a_file_longer_than_any_jobs_journal_is_refused_and_left_as_it_is(
    tmp_path: Path, opened: Callable[[Path], AbstractContextManager[object]]
) -> None:
    with opened(tmp_path):
        pass
    (path,) = tmp_path.glob("journal*.jsonl")
    size = 256 * 1024 * 1024 + 1
    os.truncate(path, size)
    with pytest.raises(InvalidInput, match="too large"), opened(tmp_path):
        pass
    assert path.stat().st_size == size
