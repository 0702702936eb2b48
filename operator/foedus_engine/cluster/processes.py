"""One pod's process: started without a shell, with a clean environment, killed with its whole group.

The process inherits two descriptors. The lock: the kernel keeps it until the last holder is gone, so a lock that is
free proves that nothing runs there. The engine's pipe: it reads end-of-file once the engine is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from foedus_contract import paths

# What a Python process needs to run at all and to use the same cores and code as the engine; nothing else of the
# user's environment (tokens, proxies, cloud credentials) reaches a pod.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
PRIVATE_UMASK = 0o077  # what a pod writes is for its own user only
MAX_LOG_BYTES = 8 * 1024 * 1024  # one file; with the one before it, a pod keeps at most 16 MiB
DRAIN_SECONDS = 5.0  # after the process has gone, for output still in the pipe


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, or None when somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def holds(pid: int, lock: Path) -> bool:
    """Say whether the process has the lock file open; a recycled pid does not."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if descriptor.samefile(lock):
                    return True
    return False


def build_environment(
    environ: Mapping[str, str], container_env: Mapping[str, str], *, root: Path, endpoints: Path, pipe: int
) -> dict[str, str]:
    """Return a pod's whole environment; what the engine sets, a container cannot change."""
    inherited = {name: environ[name] for name in INHERITED if name in environ}
    scratch = {"TMPDIR": str(root / "tmp")} if (root / "tmp").is_dir() else {}
    return {
        **inherited,
        **scratch,
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",  # no module is ever imported from the working folder
        **container_env,
        paths.ROOT_VARIABLE: str(root),
        paths.ENDPOINTS_VARIABLE: str(endpoints),
        paths.ENGINE_PIPE_VARIABLE: str(pipe),
    }


class PodProcess:
    """A running pod; `wait` returns its exit code as container runtimes give it (128 + signal when killed)."""

    def __init__(self, process: asyncio.subprocess.Process, pod: Path) -> None:
        self._process = process
        self._pod = pod
        self._drained = asyncio.create_task(_drain(process.stdout, pod / "log"))
        self.pid = process.pid

    @classmethod
    async def start(
        cls,
        pod: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        pipe: int,
        entering: Sequence[str] = (),
    ) -> PodProcess:
        """Start this Python with `arguments` in the pod's folder; raises OSError when that is impossible.

        `entering` is a command that becomes what is written behind it, such as one that changes namespaces.
        """
        lock = try_lock(pod / "lock")
        assert lock is not None  # the folder is new
        try:
            process = await asyncio.create_subprocess_exec(
                *entering,
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=pod,
                env=dict(environment),
                pass_fds=(lock, pipe),
                umask=PRIVATE_UMASK,
                start_new_session=True,  # Ctrl-C at the terminal is the engine's to handle
            )
        finally:
            os.close(lock)  # from here on only the process holds it
        return cls(process, pod)

    async def wait(self) -> int:
        """Wait for the end of the process and its output."""
        code = await self._process.wait()
        lock = try_lock(self._pod / "lock")
        if lock is None:
            self.signal(signal.SIGKILL)  # the lock proves that something it started in its group still runs
        else:
            os.close(lock)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained, DRAIN_SECONDS)
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and everything in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


async def end_survivor(pid: int, lock: Path, *, patience_seconds: float = 5.0) -> bool:
    """Wait for a process of an earlier engine to go, then kill it if the lock proves it is the one; False if it stays.

    Such a process ends by itself within moments: its engine's pipe is closed.
    """
    for turn in range(2):
        for _ in range(int(patience_seconds * 20)):
            descriptor = try_lock(lock)
            if descriptor is not None:
                os.close(descriptor)
                return True
            await asyncio.sleep(0.05)
        if turn == 0 and holds(pid, lock):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return False


def _open_log(log: Path) -> BinaryIO:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    return os.fdopen(descriptor, "ab")


async def _drain(stream: asyncio.StreamReader | None, log: Path) -> None:
    """Copy the output to the log; a full log becomes the one before, and the one before that goes."""
    assert stream is not None  # stdout is a pipe
    size = 0
    file = _open_log(log)
    try:
        while chunk := await stream.read(64 * 1024):
            if size + len(chunk) > MAX_LOG_BYTES:
                file.close()
                log.replace(log.with_name("log.1"))
                file, size = _open_log(log), 0
            file.write(chunk)
            file.flush()
            size += len(chunk)
    finally:
        file.close()
