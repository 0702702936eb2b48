"""The images' package lists name exactly what their extras need: no development tool gets in, nothing is missing."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
# Installed by a script of their own: torch, and what its CUDA build needs.
CUDA = {line.partition("==")[0] for line in (ROOT / "requirements-cuda.lock").read_text().splitlines() if "==" in line}
LISTS = {"operator": ["foedus"], "workloads": ["foedus[training]"], "examples": ["foedus[training,examples]"]}


def closure(wanted: list[str]) -> set[str]:
    """Return the names of everything that the requirements pull in, as the installed packages declare it."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras | {""}:
            if (name, extra) not in found and name not in CUDA:
                found.add((name, extra))
                environment = {**default_environment(), "extra": extra}
                declared = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
                waiting += [one for one in declared if one.marker is None or one.marker.evaluate(environment)]
    return {name for name, _ in found} - {"foedus", "torch"}


def listed(name: str) -> set[str]:
    return set((ROOT / "images" / f"{name}.txt").read_text().split())


@pytest.mark.parametrize(("name", "wanted"), LISTS.items())
def test_a_list_is_what_its_extras_need(name, wanted):
    base = listed("workloads") if name == "examples" else set()
    assert listed(name) | base == closure(wanted)


def test_the_build_list_is_what_the_build_backend_needs():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert listed("build") == closure(wanted)


@pytest.mark.parametrize("name", ["operator", "workloads", "examples", "build"])
def test_the_lock_has_every_package_of_a_list(name):
    assert listed(name) <= set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
