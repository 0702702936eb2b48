"""Every Foedus process starts here: load the run spec, run the role, leave a result, exit with the contract's code.

`python -m foedus_workloads.entry --spec FILE`. The environment is read in this file alone; what training frameworks
want to find in it is set here from the spec. Each failure is one line on standard error, the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from foedus_contract import limits, paths
from foedus_contract.durable import unwritable
from foedus_contract.errors import FoedusError, InvalidInput, describe_defect
from foedus_contract.exit_codes import ExitCode
from foedus_contract.inspection import Inspection
from foedus_contract.mpc_wire import member_name
from foedus_contract.progress import ProcessFailed, TrainingResult
from foedus_contract.run_spec import (
    AnyRunSpec,
    ClientRunSpec,
    CoordinatorRunSpec,
    InspectorRunSpec,
    PartyRunSpec,
    parse_run_spec,
)
from foedus_workloads.training.inspection import run_inspector
from foedus_workloads.training.surroundings import Surroundings

MAX_SPEC_BYTES = limits.MAX_MANIFEST_BYTES  # a run spec travels in a ConfigMap
MAX_MESSAGE = 1024
STANDARD_OUTPUT = 1
Result = TrainingResult | Inspection


def main() -> None:
    """Run the process and exit."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """Run the role of the spec file that `arguments` name; return the exit code."""
    parser = OneLineParser(prog="foedus_workloads.entry", description="Run one Foedus process.")
    parser.add_argument("--spec", required=True, help="the run spec file")
    path = str(parser.parse_args(arguments).spec)
    around = read_surroundings(environ)
    watch_engine(environ)
    spec: AnyRunSpec | None = None
    try:
        spec = load_spec(around.path(path))
        fix_environment(environ, spec.threads)
        result = asyncio.run(run_until_told(spec, around))
        if result is not None:
            write_result(around, result)
    except FoedusError as error:
        return fail(spec, around, error.code, str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return fail(spec, around, ExitCode.CANCELLED, "stopped by a signal")
    except Exception as error:  # noqa: BLE001 - the process's border: every defect becomes a line and a code
        return fail(spec, around, ExitCode.INTERNAL, describe_defect(error))
    return int(ExitCode.OK)


class OneLineParser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the command."""

    def error(self, message: str) -> NoReturn:
        """End with the code of a wrong command line."""
        self.exit(int(ExitCode.USAGE), f"foedus: {message}; see: python -m {self.prog} --help\n")


def read_surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Return what the embedded engine says about this process's places; a pod's environment says nothing."""
    root, endpoints = environ.get(paths.ROOT_VARIABLE), environ.get(paths.ENDPOINTS_VARIABLE)
    return Surroundings(
        root=Path(root) if root else None,
        endpoints=Path(endpoints) if endpoints else None,
        console=None if root else STANDARD_OUTPUT,
    )


def load_spec(path: Path) -> AnyRunSpec:
    """Read and check the run spec; raises InvalidInput naming the file or the first wrong field."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SPEC_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInput(f"cannot read the run spec ({reason})", where=str(path), cure="mount it there") from None
    if len(text) > MAX_SPEC_BYTES:
        raise InvalidInput("the run spec is too large", where=str(path), cure=f"at most {MAX_SPEC_BYTES} bytes")
    return parse_run_spec(text)


def fix_environment(environ: MutableMapping[str, str], threads: int) -> None:
    """Set what numerical libraries read when they are first imported: threads, and no network."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environ[name] = str(threads)
    # Tokenizers would start threads of their own; no library may look for models outside the given folder.
    environ.update({"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})


async def run_until_told(spec: AnyRunSpec, around: Surroundings) -> Result | None:
    """Run the role; SIGTERM cancels it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if isinstance(spec, InspectorRunSpec):
        return await asyncio.to_thread(run_inspector, spec, around)
    if isinstance(spec, PartyRunSpec):
        from foedus_workloads.inference.memory import give_large_blocks_back
        from foedus_workloads.inference.model import make_tasks
        from foedus_workloads.inference.party import run_party

        give_large_blocks_back()
        await run_party(spec, around, make_tasks)
        return None
    if spec.ledger_service is not None:
        from foedus_workloads.training.held_ledgers import claim_incarnation

        spec = await claim_incarnation(spec, around)
    if isinstance(spec, CoordinatorRunSpec):
        from foedus_workloads.training.coordinator import run_coordinator

        return await run_coordinator(spec, around)
    from foedus_workloads.privacy.noise import OpenDpSampler
    from foedus_workloads.training.client import run_client

    await run_client(spec, around, OpenDpSampler())
    return None


def watch_engine(environ: Mapping[str, str], end: Callable[[int], None] = os._exit) -> threading.Thread | None:
    """End this process at once when the engine that started it is gone; None when no engine watches over it."""
    text = environ.get(paths.ENGINE_PIPE_VARIABLE, "")
    if not text.isdigit():
        return None
    descriptor = int(text)

    def wait() -> None:
        with suppress(OSError):
            while os.read(descriptor, 1):  # the engine writes nothing; end-of-file is its end
                pass
        # At once: a thread that computes would hold an orderly end up, and everything that counts is on disk.
        end(int(ExitCode.CANCELLED))

    thread = threading.Thread(target=wait, name="engine-watch", daemon=True)
    thread.start()
    return thread


def fail(spec: AnyRunSpec | None, around: Surroundings, code: ExitCode, message: str) -> int:
    """Say in one line why the process ends, where the engine and a person look for it; return the exit code.

    Standard error is the process's own log; what the engine reads is told to the job's author, too.
    """
    message = " ".join(message.split())[:MAX_MESSAGE]
    if spec is not None:
        failure = ProcessFailed(code=int(code), message=public_words(spec, code, message))
        with suppress(OSError, FoedusError):
            around.progress(spec.progress).write(failure)
        # A result is final. When a new start may help, or a signal stopped the process, there is none.
        result = None if code.retryable or code is ExitCode.CANCELLED else _bad_result(spec, code, message)
        if result is not None:
            with suppress(FoedusError):
                write_result(around, result)
    sys.stderr.write(f"{_role(spec)}: {message}\n")
    return int(code)


def public_words(spec: AnyRunSpec, code: ExitCode, message: str) -> str:
    """Return what may leave the process of its failure: of a silo's data, only that they do not fit, never where."""
    if isinstance(spec, ClientRunSpec) and code is ExitCode.INVALID_DATA:
        return (
            f"the data of silo {spec.silo} are not what the job needs; the silo's own log says where, for its holder "
            "to mend"
        )
    return message


def _bad_result(spec: AnyRunSpec, code: ExitCode, message: str) -> Result | None:
    if isinstance(spec, InspectorRunSpec):
        return Inspection(problem=message, code=int(code))
    if isinstance(spec, CoordinatorRunSpec):
        reason = code.name.title().replace("_", "")
        return TrainingResult(outcome="Failed", reason=reason, message=message, code=int(code))
    return None


def write_result(around: Surroundings, result: Result) -> None:
    """Leave the result in the termination log; raises Unavailable when the volume does not take it."""
    path = around.path(paths.TERMINATION_FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.to_json())
    except OSError as error:
        raise unwritable(path, error) from error


def _role(spec: AnyRunSpec | None) -> str:
    if spec is None:
        return "foedus"
    if isinstance(spec, PartyRunSpec):
        return member_name(spec.party)
    return f"silo {spec.silo}" if isinstance(spec, ClientRunSpec) else spec.role.lower()


if __name__ == "__main__":
    main()
