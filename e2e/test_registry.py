"""Slots: two clusters on one machine never share one, and nothing that the machine has once."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster.errors import HarnessError
from e2e.cluster.layout import SLOTS, Layout
from e2e.cluster.registry import claim, find, registered, release

UNIQUE = ("name", "prefix", "loopback", "bridge", "bridge_address", "api_url", "pod_network", "service_network")


def test_a_folder_keeps_its_slot(tmp_path):
    first = claim(tmp_path / "run", tmp_path / "a")
    claim(tmp_path / "run", tmp_path / "b")
    assert claim(tmp_path / "run", tmp_path / "a") == first


def test_a_released_slot_is_free_again(tmp_path):
    first = claim(tmp_path / "run", tmp_path / "a")
    release(first)
    assert find(tmp_path / "run", tmp_path / "a") is None
    assert claim(tmp_path / "run", tmp_path / "b").slot == first.slot


def test_the_ninth_cluster_is_refused_and_told_who_has_the_slots(tmp_path):
    for number in SLOTS:
        claim(tmp_path / "run", tmp_path / str(number))
    with pytest.raises(HarnessError, match=rf"slot 3: {tmp_path}/3"):
        claim(tmp_path / "run", tmp_path / "another")


def test_a_cluster_of_another_kind_is_not_taken_over(tmp_path):
    claim(tmp_path / "run", tmp_path / "a", with_nodes=False)
    with pytest.raises(HarnessError, match="of another kind"):
        claim(tmp_path / "run", tmp_path / "a", with_nodes=True)


def take(arguments: tuple[Path, int]) -> int:
    folder, number = arguments
    return claim(folder / "run", folder / str(number)).slot


def test_harnesses_that_start_at_once_get_different_slots(tmp_path):
    with multiprocessing.get_context("spawn").Pool(len(SLOTS)) as pool:
        slots = pool.map(take, [(tmp_path, number) for number in SLOTS], chunksize=1)
    assert sorted(slots) == list(SLOTS)
    assert len(registered(tmp_path / "run")) == len(SLOTS)


def take_and_release(folder: Path) -> None:
    for _ in range(300):
        release(claim(folder / "run", folder / "mine"))


def test_a_slot_that_is_released_meanwhile_is_passed_over(tmp_path):
    there = claim(tmp_path / "run", tmp_path / "stays")
    other = multiprocessing.get_context("spawn").Process(target=take_and_release, args=(tmp_path,))
    other.start()
    while other.is_alive():
        assert there in registered(tmp_path / "run")
    other.join()
    assert other.exitcode == 0


@pytest.mark.parametrize("field", UNIQUE)
def test_what_the_machine_has_once_differs_between_slots(field):
    assert len({getattr(Layout(slot, Path("/data")), field) for slot in SLOTS}) == len(SLOTS)


@pytest.mark.parametrize("field", ["namespace", "network_handle", "link", "cgroup", "address", "pod_network"])
def test_what_a_node_has_differs_between_nodes_and_slots(field):
    found = [getattr(node, field) for slot in SLOTS for node in Layout(slot, Path("/data")).nodes]
    assert len(set(found)) == 3 * len(SLOTS)


def test_interface_names_fit():
    layouts = [Layout(slot, Path("/data")) for slot in SLOTS]
    names = [name for layout in layouts for name in (layout.bridge, *(node.link for node in layout.nodes))]
    assert max(map(len, names)) <= 15


@pytest.mark.parametrize("wrong", [{"slot": 8}, {"slot": -1}, {"first_network": 250}, {"folder": Path("data")}])
def test_a_layout_that_would_leave_its_range_is_refused(wrong):
    with pytest.raises(HarnessError):
        replace(Layout(7, Path("/data")), **wrong)
