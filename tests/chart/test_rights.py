"""What Foedus may do in a cluster is what its code does, what the chart grants and what docs/operator.md says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from chart.golden import SETS, read
from chart.life import Life, watched
from chart.rights import documented, granted
from chart.store_server import StoreServer, resource
from foedus_engine.cluster.store import ObjectStore, open_database

OPERATOR = "foedus-operator"


@pytest.mark.parametrize("name", SETS)
def test_the_chart_grants_what_the_page_says(name: str) -> None:
    grants = list(granted(read(name)))
    assert sorted(grants) == sorted(documented())
    assert len(grants) == len(set(grants))


async def test_the_operator_uses_each_of_its_rights_and_no_other(tmp_path: Path) -> None:
    store = ObjectStore(open_database(tmp_path / "store"), now=lambda: datetime.now(UTC), changed=lambda *_: None)
    operator = StoreServer(store)
    life = Life(StoreServer(store), operator, "team-a", "foedus-system", with_controllers=False)
    await life.live()
    assert await life.left() == [("PersistentVolumeClaim", "demo-coordinator-output")]
    watches = {(resource(each.group, each.plural), verb) for each in watched() for verb in ("list", "watch")}
    page = {
        (what.split(" ")[0], verb)
        for (identity, _, what, verb), why in documented().items()
        if identity == OPERATOR and not why.startswith("no request")
    }
    assert operator.used | watches == page


def test_no_right_reaches_beyond_its_purpose() -> None:
    for identity, _, what, verb in documented():
        assert "*" not in (what, verb)
        assert verb not in {"escalate", "bind", "impersonate", "deletecollection"}
        assert identity == OPERATOR or not what.startswith("secrets")
