"""A harness that is killed while it starts a cluster leaves nothing that the next `down` does not find."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster import registry
from e2e.cluster.cgroups import HIERARCHIES, group_folder
from e2e.cluster.kubectl import wait_for
from e2e.cluster.layout import REGISTRY, SLOTS

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-m", "e2e.cluster")
# The slot of this test: the last one, so that clusters in use have the others.
SLOT = SLOTS[-1]


def left_behind(folder):
    """Return everything on the machine that is of the cluster in the slot."""
    name = f"foedus-e2e-{SLOT}"
    mounts = Path("/proc/self/mountinfo").read_text()
    links = [link for link in os.listdir("/sys/class/net") if link.startswith(f"fe{SLOT}")]
    namespaces = [found for found in os.listdir("/run/netns") if found.startswith(name)]
    groups = [hierarchy for hierarchy in HIERARCHIES if group_folder(hierarchy, name).exists()]
    processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and str(folder) in command_line(pid)]
    return links + namespaces + groups + processes + [name for one in (f"/{SLOT}/mounts", str(folder)) if one in mounts]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("moment", ["etcd", "kube-scheduler", "node2-containerd", "node3-kubelet"])
def test_down_after_a_crash_at(cluster, tmp_path, moment):
    """The harness dies right after the record of a daemon has appeared."""
    arguments = (f"--folder={tmp_path}", f"--slot={SLOT}")
    record = REGISTRY / str(SLOT) / "daemons" / f"{moment}.json"
    with subprocess.Popen([*COMMAND, "up", *arguments], start_new_session=True) as harness:
        wait_for(moment, record.exists, pause=0.01)
        os.killpg(harness.pid, signal.SIGKILL)
    assert json.loads(record.read_text())["pid"]
    subprocess.run([*COMMAND, "down", *arguments[:1]], check=True)
    assert left_behind(tmp_path) == []
    assert registry.find(REGISTRY, tmp_path) is None
    assert cluster.kubectl.succeeds("get", "--raw", "/readyz")


def test_a_cluster_goes_on_where_a_crash_left_it(cluster, tmp_path):
    """Up, after a crash in the middle, makes a whole cluster; a second up changes nothing."""
    arguments = (f"--folder={tmp_path}", f"--slot={SLOT}")
    record = REGISTRY / str(SLOT) / "daemons" / "kube-controller-manager.json"
    with subprocess.Popen([*COMMAND, "up", *arguments], start_new_session=True) as harness:
        wait_for("the controller-manager", record.exists, pause=0.01)
        os.killpg(harness.pid, signal.SIGKILL)
    try:
        subprocess.run([*COMMAND, "up", *arguments], check=True)
        before = {file.name: file.read_text() for file in record.parent.iterdir()}
        subprocess.run([*COMMAND, "up", *arguments], check=True)
        assert {file.name: file.read_text() for file in record.parent.iterdir()} == before
    finally:
        subprocess.run([*COMMAND, "down", *arguments[:1]], check=True)
    assert left_behind(tmp_path) == []
