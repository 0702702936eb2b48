"""Field ownership: any sequence of applies keeps exactly what its managers last asked for."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from foedus_engine.cluster import ownership

KEYS = st.sampled_from(["a", "b", "c"])
DATA = st.dictionaries(KEYS, st.integers(0, 1))


def manifest(data: dict[str, int]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "uid": "u"}, "data": data}


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), DATA), max_size=8))
def test_forced_applies_leave_what_somebody_still_asks_for(steps: list[tuple[str, dict[str, int]]]) -> None:
    live = manifest({})
    asked: dict[str, set[str]] = {"one": set(), "two": set()}
    values: dict[str, int] = {}
    for manager, data in steps:
        live = ownership.merge_apply(live, manifest(data), manager=manager, force=True)
        other = "two" if manager == "one" else "one"
        asked[other] -= {key for key, value in data.items() if values.get(key) != value}
        asked[manager] = set(data)
        values = {key: value for key, value in (values | data).items() if key in asked["one"] | asked["two"]}
        assert live.get("data", {}) == values


def test_owners_survive_their_encoding() -> None:
    obj = {**manifest({"a": 1}), "metadata": {"name": "x", "labels": {"app.kubernetes.io/name": "y", "f:odd.": "z"}}}
    owners = {("one", "Apply"): frozenset(ownership.ownable(obj)), ("two", "Update"): frozenset({("data", "a")})}
    assert ownership.owners_of(ownership.with_owners(obj, owners)) == owners


def test_identity_and_status_belong_to_nobody() -> None:
    obj = {**manifest({}), "status": {"a": 1}, "spec": {"b": []}}
    assert set(ownership.ownable(obj)) == {("data",), ("spec", "b")}


def test_a_list_is_one_field() -> None:
    live = ownership.merge_apply(
        {**manifest({}), "spec": {"list": [1, 2]}}, {**manifest({}), "spec": {"list": [3]}}, manager="one", force=True
    )
    assert live["spec"] == {"list": [3]}
