"""The report at the end of a run: made from what the engine holds, never a reason for the run itself to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from foedus.display import Display
from foedus.report.gather import Source, gather_record, with_accounts
from foedus.report.record import Ending, RunRecord
from foedus.report.write import write_report
from foedus_contract.errors import FoedusError
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.decide.conditions import parse_timestamp


def good_ending(status: Mapping[str, Any], now: datetime) -> Ending:
    """Return the ending of a job that has its adapter."""
    result, ended = status["result"], status.get("completionTime")
    return Ending(
        outcome=result["outcome"],
        message=result.get("message", ""),
        at=(parse_timestamp(ended) if ended else now).timestamp(),
        adapter_digest=result.get("adapterDigest", ""),
    )


def bad_ending(error: BaseException, now: datetime) -> Ending:
    """Return the ending of a run that `error` ended."""
    if isinstance(error, FoedusError):
        return Ending(
            outcome="Failed", message=f"{error.where}: {error.what}".removeprefix(": ")[:4096], at=now.timestamp()
        )
    return Ending(outcome="Interrupted", message="It was interrupted.", at=now.timestamp())


async def find_record(
    source: Source,
    job: FederatedTrainingJob,
    status: Mapping[str, Any],
    ending: Ending,
    display: Display,
    *,
    nothing: str = "",
) -> RunRecord | None:
    """Return the run's record, to be taken before anything of the job is removed; None when it never trained.

    `nothing` is noted then.
    """
    try:
        record = await gather_record(source, job, status, ending)
    except FoedusError as error:
        display.note("NoReport", f"no report could be made: {error}")
        return None
    if record is None and nothing:
        display.note("NoReport", nothing)
    return record


async def save_report(
    source: Source, job: FederatedTrainingJob, record: RunRecord | None, folder: Path, display: Display
) -> Path | None:
    """Write the report into the result folder; return the page's path, None when there is no record or no room."""
    if record is None:
        return None
    try:
        return await asyncio.to_thread(write_report, await with_accounts(source, job, record), folder)
    except FoedusError as error:
        display.note("NoReport", f"no report could be made: {error}")
        return None
