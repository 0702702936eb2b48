"""`foedus delete`: removes a job from the state folder and gives back what it has not spent."""

from __future__ import annotations

import os
from pathlib import Path

import click

from foedus.display import Display, PlainDisplay
from foedus.engine import open_engine
from foedus.interrupt import Output, run_until_terminated
from foedus.lifecycle import job_key, remove
from foedus.options import namespace_option, state_option
from foedus_contract.errors import InvalidInput
from foedus_engine.cluster.protocol import find


@click.command()
@click.argument("job")
@namespace_option
@state_option
def delete(job: str, namespace: str, state: Path) -> None:
    """Remove JOB with all that belongs to it, and close its accounts.

    What was charged stays charged for good; what was only reserved is given back. For a job that a killed run left
    behind, or whose name is wanted again. The adapter of a complete job goes too, except where it was delivered to.
    """
    if not state.is_dir():
        raise InvalidInput("there is no such state folder", where=str(state), cure="name the right one with --state")
    told = Output()
    run_until_terminated(delete_job(job, namespace, state, PlainDisplay(told.write)), told)


async def delete_job(name: str, namespace: str, state: Path, display: Display) -> None:
    """Remove the job; raises InvalidInput when nothing of that name is there."""
    key = job_key(namespace, name)
    # Without `release` none of its processes starts again meanwhile.
    async with open_engine(state, None, namespace, os.environ) as engine:
        found = await find(engine.cluster, key)
        removed = await remove(engine, key, display)
    if found is None and not removed.accounts and not removed.left:
        cure = "look at the claimants that `foedus budget NAME` shows"
        raise InvalidInput("there is no such job", where=str(key), cure=cure)
    if removed.left:
        what = f"not all of its accounts could be closed ({', '.join(budget.name for budget in removed.left)})"
        problem = next(iter(removed.left.values()))
        raise type(problem)(
            what, where=str(key), cure="mend what is said above, then run this again", code=problem.code
        )
    display.note("Deleted", f"{key} is deleted")
