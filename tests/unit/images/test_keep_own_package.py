"""Of an installed distribution only the package of its own name stays: its other names would shadow the project's."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "images/keep_own_package.py"
INSTALLED = {
    "thing/__init__.py": "",
    "benchmarks/__init__.py": "",
    "benchmarks/deep/one.py": "",
    "test/two.py": "",
    "data/defaults.yaml": "",
    "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    record = "".join(f"{name},,\n" for name in [*INSTALLED, "thing-1.0.dist-info/RECORD"])
    for name, text in {**INSTALLED, "thing-1.0.dist-info/RECORD": record, "test/__pycache__/two.x.pyc": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def files(site: Path) -> set[str]:
    return {str(path.relative_to(site)) for path in site.rglob("*")}


def run(site: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ended = subprocess.run(
        [sys.executable, SCRIPT, "thing"], check=True, capture_output=True, text=True, env=environment
    )
    return ended.stdout


def test_other_packages_go_and_the_record_says_so(site: Path) -> None:
    assert run(site) == "thing: removed benchmarks test\n"
    own = {"thing", "thing/__init__.py", "thing-1.0.dist-info"}
    kept_data = {"data", "data/defaults.yaml"}
    assert files(site) == own | kept_data | {f"thing-1.0.dist-info/{name}" for name in ("METADATA", "RECORD")}
    kept = (site / "thing-1.0.dist-info/RECORD").read_text().splitlines()
    assert kept == [
        "thing/__init__.py,,",
        "data/defaults.yaml,,",
        "thing-1.0.dist-info/METADATA,,",
        "thing-1.0.dist-info/RECORD,,",
    ]
    assert run(site) == "thing: removed\n"  # once more changes nothing


def test_what_another_distribution_has_there_stays_and_so_does_a_record_with_another_link(site: Path) -> None:
    (site / "test/others.py").write_text("")
    os.link(site / "thing-1.0.dist-info/RECORD", site / "linked")
    run(site)
    assert (site / "test/others.py").exists()
    assert "benchmarks" in (site / "linked").read_text()


@pytest.mark.parametrize("name", ["crypten", "opacus"])
def test_here_these_have_no_package_but_their_own(name: str) -> None:
    installed = importlib.metadata.files(name) or ()
    assert {file.parts[0] for file in installed if file.suffix in {".py", ".pyc"}} == {name}
