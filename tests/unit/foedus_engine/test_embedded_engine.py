"""What the embedded engine adds to the protocol: files, ports, incarnations, its own end and restart."""

import asyncio
import base64
import json
import os
import signal
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.paths import resolve_endpoint
from foedus_contract.progress import Preparing
from foedus_engine.cluster import pods, processes
from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.cluster.store import open_database
from foedus_engine.decide.observed import PodsView, Trouble
from foedus_engine.decide.plan import Event, ObjectKey, key_of

PATIENCE_SECONDS = 30
ENVIRON = {"PATH": os.environ["PATH"], "AWS_SECRET_ACCESS_KEY": "secret"}


def obj(kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **content}


def job(script: str, *volumes: dict[str, Any], name: str = "job", **spec: Any) -> dict[str, Any]:
    mounts = [{"name": volume["name"], "mountPath": f"/foedus/{volume['name']}"} for volume in volumes]
    container = {
        "name": "main",
        "image": "any",
        "command": ["python"],
        "args": ["-c", script],
        "env": [{"name": "GIVEN", "value": "yes"}, {"name": "FOEDUS_ROOT", "value": "/forged"}],
        "terminationMessagePath": "/foedus/run/termination-log",
        "volumeMounts": mounts,
    }
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": list(volumes)}
    made = obj("Job", name, spec={"backoffLimit": 0, "template": {"spec": pod}} | spec)
    return {**made, "apiVersion": "batch/v1"}


def job_key(name: str = "job") -> ObjectKey:
    return ObjectKey("batch/v1", "Job", "default", name)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


async def ended(cluster: EmbeddedCluster, name: str = "job") -> Mapping[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            status = (await cluster.get(job_key(name))).get("status", {})
            if any(each["type"] in {"Complete", "Failed"} for each in status.get("conditions", ())):
                return status
            await asyncio.sleep(0.02)


def log_of(cluster: EmbeddedCluster, number: int = -1) -> str:
    return cluster.pod_logs("default", "job")[number].read_text()


SPEC = {"name": "spec", "configMap": {"name": "spec"}}
TLS = {"name": "tls", "secret": {"secretName": "tls"}}
POLICY = {"name": "policy", "configMap": {"name": "policy", "optional": True}}
STATE = {"name": "state", "persistentVolumeClaim": {"claimName": "state"}}
CLAIM = obj("PersistentVolumeClaim", "state", spec={"accessModes": ["ReadWriteOnce"]})
SERVICE = obj("Service", "front", spec={"selector": {"role": "x"}, "ports": [{"name": "https", "port": 8443}]})

REPORT = """
import json, os, pathlib
root = pathlib.Path(os.environ["FOEDUS_ROOT"]) / "foedus"
secret = root / "tls/tls.key"
print(json.dumps({
    "environment": sorted(os.environ), "given": os.environ["GIVEN"], "root": str(root),
    "spec": json.loads((root / "spec/run-spec.json").read_text()),
    "secret": secret.read_text(), "mode": secret.stat().st_mode & 0o777,
    "folder": secret.resolve().parent.stat().st_mode & 0o777,
}))
"""


async def test_a_pod_sees_its_mounts_and_nothing_of_the_users_environment(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(obj("ConfigMap", "spec", data={"run-spec.json": '{"role": "Client", "incarnation": 0}'}))
        await cluster.create(obj("Secret", "tls", data={"tls.key": base64.b64encode(b"key").decode()}))
        await cluster.create(job(REPORT, SPEC, TLS))
        await ended(cluster)
        seen = json.loads(log_of(cluster))
        folder = cluster.pod_logs("default", "job")[0].parent
    assert seen["spec"] == {"role": "Client", "incarnation": 1}
    assert (seen["secret"], seen["mode"], seen["folder"]) == ("key", 0o600, 0o700)
    assert seen["given"] == "yes"
    assert seen["root"].startswith(str(tmp_path))
    allowed = {*processes.INHERITED, "GIVEN", "HF_HUB_OFFLINE", "PYTHONSAFEPATH", "LC_CTYPE", "PWD"}
    assert {name for name in seen["environment"] if not name.startswith("FOEDUS_")} <= allowed
    assert not (folder / "volumes/tls").exists()  # a finished pod keeps no copy of a Secret
    assert stat.S_IMODE((tmp_path / "objects.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


async def test_every_start_claims_a_higher_incarnation_even_for_a_new_job_of_the_name(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(obj("ConfigMap", "spec", data={"run-spec.json": "{}"}))
        script = 'import os; print(open(os.environ["FOEDUS_ROOT"] + "/foedus/spec/run-spec.json").read()); exit(1)'
        seen = []
        for _ in range(2):
            await cluster.create(job(script, SPEC, backoffLimit=0))
            await ended(cluster)
            seen.append(json.loads(log_of(cluster)))
            await cluster.delete(job_key())
    assert seen == [{"incarnation": 1}, {"incarnation": 2}]


WAIT_FOR_POLICY = """
import os, pathlib, time
file = pathlib.Path(os.environ["FOEDUS_ROOT"]) / "foedus/policy/policy.json"
while not file.exists() or file.read_text() != "second":
    time.sleep(0.01)
"""


async def test_an_optional_config_map_appears_later_and_changes_in_place(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job(WAIT_FOR_POLICY, POLICY))
        await until(lambda: cluster.pod_logs("default", "job"))
        await cluster.apply(obj("ConfigMap", "policy", data={"policy.json": "first"}))
        await cluster.apply(obj("ConfigMap", "policy", data={"policy.json": "second"}))
        assert (await ended(cluster))["succeeded"] == 1


def test_content_is_swapped_in_one_rename(tmp_path: Path) -> None:
    pods.swap_content(tmp_path, {"a": b"1", "b": b"1"})
    before = os.open(tmp_path / "..data", os.O_RDONLY)
    pods.swap_content(tmp_path, {"a": b"2", "c": b"2"})
    os.close(before)
    shown = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir() if not entry.name.startswith("..")}
    assert shown == {"a": b"2", "c": b"2"}
    assert os.readlink(tmp_path / "..data") == "..2"
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("..")) == ["..2", "..data"]


SPEAK = """
import os, pathlib
run = pathlib.Path(os.environ["FOEDUS_ROOT"]) / "foedus/run"
with (run / "progress.jsonl").open("w") as file:
    file.write('{"event":"Preparing","what":"model"}\\nno json\\n{"event":"Unknown"}\\n')
    file.write("x" * 70000 + "\\n" + '{"event":"Preparing","what":"silos"}\\n{"event":"Prep')
(run / "termination-log").write_text('{"outcome":"EndedEarly","rounds":3}')
"""


async def test_progress_and_result_are_read_and_bad_lines_skipped(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        assert await cluster.pod_progress("default", "job") == ()
        made = await cluster.create(job(SPEAK))
        await ended(cluster)
        for _ in range(2):  # a second look repeats nothing
            assert await cluster.pod_progress("default", "job") == (Preparing(what="model"), Preparing(what="silos"))
        view = (await cluster.pods([made]))["job"]
        assert view == PodsView(
            (Preparing(what="model"), Preparing(what="silos")), b'{"outcome":"EndedEarly","rounds":3}', started=True
        )


async def test_a_volume_that_is_not_there_keeps_a_process_from_being_started(tmp_path: Path) -> None:
    made = job("")
    pod = made["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "silo-1"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        view = (await cluster.pods([await cluster.create(made)]))["job"]
        assert view == PodsView(trouble=Trouble("VolumeMissing", "PersistentVolumeClaim silo-1 is not there"))


@pytest.mark.parametrize(("text", "read"), [(b"", b""), (b"no json", b"no json"), (b"{}" + b" " * 4095, b"")])
def test_a_result_is_at_most_what_a_kubelet_keeps(tmp_path: Path, text: bytes, read: bytes) -> None:
    (tmp_path / "log").write_bytes(text)
    assert pods.read_result(tmp_path / "log") == read


LINE = b'{"event":"Preparing","what":"model"}\n'


def read_all(path: Path, **limit: int) -> list[int]:
    """Read as often as there is more; return how many events each read gave."""
    offset, counts = 0, []
    while True:
        events, after = pods.read_progress(path, offset, **limit)
        if after == offset:
            return counts
        offset = after
        counts.append(len(events))


@pytest.mark.parametrize(
    ("content", "limit", "counts"),
    [
        (LINE * 30_000, {}, [28_339, 1_661]),  # 2^20 bytes hold 28,339 lines of 37
        (LINE * 30_000, {"limit": 64 * 1024}, [1_771]),
        (b"x" * 2**21 + b"\n" + LINE, {}, [0, 0, 1]),
    ],
)
def test_progress_is_read_in_blocks_up_to_a_limit(
    tmp_path: Path, content: bytes, limit: dict[str, int], counts: list[int]
) -> None:
    (tmp_path / "progress").write_bytes(content)
    assert read_all(tmp_path / "progress", **limit) == counts


@pytest.mark.parametrize(("labels", "kept"), [({}, 3_000), ({"foedus.dev/silo": "silo-1"}, 1_771)])
async def test_a_silo_may_say_less_than_a_coordinator(tmp_path: Path, labels: dict[str, str], kept: int) -> None:
    flood = f"""
import os, pathlib
(pathlib.Path(os.environ["FOEDUS_ROOT"]) / "foedus/run/progress.jsonl").write_bytes({LINE!r} * 3_000)
"""
    made = job(flood)
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create({**made, "metadata": {**made["metadata"], "labels": labels}})
        await ended(cluster)
        for _ in range(2):
            assert len(await cluster.pod_progress("default", "job")) == kept


@pytest.mark.parametrize("replace_by", ["link", "pipe", "folder"])
def test_what_a_pod_put_in_the_place_of_a_file_is_not_followed(tmp_path: Path, replace_by: str) -> None:
    target, path = tmp_path / "secret", tmp_path / "file"
    target.write_bytes(LINE)
    if replace_by == "link":
        path.symlink_to(target)
    elif replace_by == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert pods.read_progress(path, 0) == ((), 0)
    assert pods.last_words(path) == ""
    target.write_bytes(b'{"outcome":"Complete"}')
    assert pods.read_result(path) == b""


async def test_what_a_pod_writes_is_for_its_own_user(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job(SPEAK))
        await ended(cluster)
        log = cluster.pod_logs("default", "job")[0]
        written = [log, pods.progress_file(log.parent), log.parent / "root/foedus/run/termination-log"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o600] * 3


async def test_news_of_a_pod_wakes_the_watch(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster, asyncio.timeout(PATIENCE_SECONDS):
        await cluster.create(job(SPEAK + "\nimport time; time.sleep(60)"))
        await until(lambda: len(list(tmp_path.glob("pods/**/termination-log"))) == 1)
        watch = cluster.watch()
        assert await anext(watch) == job_key()
        assert await anext(watch) == job_key()


FAIL = """
import os, pathlib, sys
(pathlib.Path(os.environ["FOEDUS_ROOT"]) / "foedus/run/progress.jsonl").write_text(REPORT)
sys.exit("train.jsonl:3: the label is not in the list")
"""
FAILED = '{"event":"ProcessFailed","code":11,"message":"the data do not fit"}\n'


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (FAILED, "exit code 1: the data do not fit"),
        ('{"event":"Preparing","what":"model"}\n', "exit code 1"),
        ("", "exit code 1"),
    ],
)
async def test_a_jobs_condition_says_what_its_process_reported_and_nothing_of_its_log(
    tmp_path: Path, report: str, said: str
) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job(f"REPORT = {report!r}{FAIL}"))
        message = (await ended(cluster))["conditions"][-1]["message"]
        log = cluster.pod_logs("default", "job")[0].read_text("utf-8")
    assert message.endswith(said)
    assert log == "train.jsonl:3: the label is not in the list\n"


async def test_one_engine_a_state_folder(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ={}):
        with pytest.raises(Unavailable, match="another engine uses this state folder; wait"):
            await EmbeddedCluster(tmp_path, environ={}).__aenter__()
    async with EmbeddedCluster(tmp_path, environ={}):
        pass


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100, None])
def test_a_foreign_database_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "objects.sqlite"
    if content is None:
        connection = open_database(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match="not a database of this engine"):
        open_database(path)


async def test_ports_stay_over_a_restart_and_go_with_the_service(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        await cluster.apply(SERVICE)
        first = resolve_endpoint("front.default", 8443, file)
        assert resolve_endpoint("front.default.svc", 8443, file) == first
        assert first[0] == "127.0.0.1"
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        assert resolve_endpoint("front.default", 8443, file) == first
        await cluster.delete(key_of(SERVICE))
        assert json.loads(file.read_text()) == {}


async def test_a_port_that_another_program_took_is_exchanged(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        await cluster.apply(SERVICE)
        _, port = resolve_endpoint("front.default", 8443, file)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", port)
    async with server, EmbeddedCluster(tmp_path, environ={}):
        assert resolve_endpoint("front.default", 8443, file)[1] != port


async def test_a_process_that_finds_its_port_taken_gets_another(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        await cluster.apply(SERVICE)
        _, port = resolve_endpoint("front.default", 8443, file)
        taken = job("raise SystemExit(41)")
        taken["spec"]["template"]["metadata"] = {"labels": {"role": "x"}}
        await cluster.create(taken)
        await ended(cluster)
        assert resolve_endpoint("front.default", 8443, file)[1] != port


SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def started(cluster: EmbeddedCluster) -> int:
    await until(lambda: cluster.pod_logs("default", "job") and cluster.pod_logs("default", "job")[-1].is_file())
    await until(lambda: log_of(cluster))
    return int(log_of(cluster))


async def test_deleting_a_job_ends_its_process_and_its_folder(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job(SLEEP))
        pid = await started(cluster)
        await cluster.delete(job_key())
        await until(lambda: not is_running(pid))
        await until(lambda: not list(tmp_path.glob("pods/default/*")))


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
    made = job(stubborn)
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.apply(made)
        pid = await started(cluster)
        await cluster.apply({**made, "spec": {**made["spec"], "suspend": True}})
        await until(lambda: not is_running(pid))


@pytest.mark.parametrize("how_it_ended", ["orderly", "crash"])
async def test_the_engines_end_ends_processes_and_the_next_engine_starts_them_again(
    tmp_path: Path, how_it_ended: str
) -> None:
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job(SLEEP))
        first = await started(cluster)
    assert not is_running(first)
    if how_it_ended == "crash":
        connection = open_database(tmp_path / "objects.sqlite")
        connection.execute("UPDATE pod SET state = 'Running'")  # what an engine leaves that had no time to say more
        connection.close()
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await until(lambda: len(cluster.pod_logs("default", "job")) == 2)
        second = await started(cluster)
        assert second != first
        assert (await cluster.get(job_key()))["status"]["failed"] == 0


ORPHAN = """
import os, sys
pipe = int(os.environ["FOEDUS_ENGINE_PIPE"])
sys.exit(7 if os.read(pipe, 1) == b"" else 1)
"""


async def test_the_pipe_tells_a_process_that_its_engine_is_gone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    (tmp_path / "root").mkdir()
    environment = processes.build_environment({}, {}, root=tmp_path / "root", endpoints=tmp_path, pipe=reader)
    process = await processes.PodProcess.start(tmp_path, ("-c", ORPHAN), environment, pipe=reader)
    os.close(writer)
    assert await process.wait() == 7
    os.close(reader)


async def test_a_survivor_is_killed_only_if_the_lock_proves_it_is_one(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    lock = tmp_path / "lock"
    process = await processes.PodProcess.start(tmp_path, ("-c", SLEEP), {}, pipe=reader)
    assert processes.try_lock(lock) is None
    assert not await processes.end_survivor(os.getppid(), lock, patience_seconds=0.1)  # the pid of somebody else
    assert is_running(process.pid)
    assert await processes.end_survivor(process.pid, lock, patience_seconds=0.1)
    assert await process.wait() == 128 + signal.SIGKILL
    os.close(reader)
    os.close(writer)


async def test_a_claim_is_the_users_folder_if_there_is_one_and_deleting_it_spares_that(tmp_path: Path) -> None:
    given = tmp_path / "volumes"
    for name in ("state", "silo-ledger"):
        (given / name).mkdir(parents=True)
    async with EmbeddedCluster(tmp_path / "s", given, environ={}) as cluster:
        await cluster.create(CLAIM)
        assert cluster.claim_folder("default", "state") == given / "state"
        assert cluster.claim_folder("default", "silo-ledger") is None  # a ledger never lies in the user's folder
        await cluster.delete(key_of(CLAIM))
        assert (given / "state").is_dir()
    async with EmbeddedCluster(tmp_path / "s", environ={}) as cluster:
        assert cluster.claim_folder("default", "state") is None
        await cluster.create(CLAIM)
        made = cluster.claim_folder("default", "state")
        assert made == tmp_path / "s/volumes/default/state"
        await cluster.delete(key_of(CLAIM))
        assert not made.exists()


async def test_a_repeated_event_is_kept_once(tmp_path: Path) -> None:
    key, events = job_key(), [Event("Normal", "A", "a"), Event("Normal", "A", "a"), Event("Warning", "B", "b")]
    async with EmbeddedCluster(tmp_path, environ={}) as cluster:
        for event in events:
            await cluster.publish(key, event)
        assert await cluster.events(key) == (events[0], events[2])


async def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 100_000)
    async with EmbeddedCluster(tmp_path, environ=ENVIRON) as cluster:
        await cluster.create(job("for n in range(9): print('x' * 50_000, flush=True)\nprint('last')"))
        await ended(cluster)
        folder = cluster.pod_logs("default", "job")[0].parent
        assert sum(file.stat().st_size for file in folder.glob("log*")) <= 200_000
        assert log_of(cluster).endswith("last\n")
