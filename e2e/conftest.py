"""Fixtures of the tests that need a cluster, and the bound on what they may skip."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.progress import Progress
from e2e.probes import Probes
from e2e.targets import Target, open_target

# Elsewhere than on our own cluster no part can be broken and the audit log is out of reach. Raise a bound only together
# with a test that says so.
MOST_SKIPS = {"local": 0, "kind": 20, "existing": 22}


# Comes last, and only when all others do: it looks back at what they have done.
LAST = "test_rights.py"
FILES = {file.name for file in Path(__file__).parent.glob("test_*.py") if "pytest.mark.e2e" in file.read_text("utf-8")}


@pytest.hookimpl(trylast=True)  # after others have taken out what is not asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the look back at the whole run to its end, and leave it out of a part of one."""
    last = [item for item in items if item.path.name == LAST]
    others = [item for item in items if item.path.name != LAST]
    is_whole = FILES - {LAST} <= {item.path.name for item in others}
    items[:] = [*others, *(last if is_whole else ())]
    if not is_whole:
        config.hook.pytest_deselected(items=last)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The cluster of this run."""
    with open_target(os.environ, Progress()) as found:
        yield found


@pytest.fixture
def cluster(target: Target) -> Cluster:
    """A cluster whose parts the test may break; it has to mend them."""
    if target.cluster is None:
        pytest.skip("only on a cluster that the harness runs itself (E2E_CLUSTER=local)")
    return target.cluster


@pytest.fixture
def probes(target: Target) -> Iterator[Probes]:
    """Pods in a namespace of the test's own, which goes with it."""
    namespace = f"test-{secrets.token_hex(4)}"
    target.kubectl("create", "namespace", namespace)
    yield Probes(target.kubectl, namespace, target.image("busybox"))
    target.kubectl("delete", "namespace", namespace, "--wait=false")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was skipped, and why."""
    for report in _skipped(terminalreporter):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"skipped: {report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped more than it may."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    most = MOST_SKIPS.get(os.environ.get("E2E_CLUSTER", "local"), 0)
    if reporter and len(_skipped(reporter)) > most:
        reporter.write_line(f"{len(_skipped(reporter))} tests of e2e skipped, at most {most} may be")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _skipped(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    return [report for report in reporter.stats.get("skipped", []) if report.nodeid.startswith("e2e/")]
