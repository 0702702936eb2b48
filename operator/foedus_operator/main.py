"""`python -m foedus_operator.main`: stand by, with the lease reconcile until it is lost or a signal comes.

Who stands by does all that needs no lease: it watches, has the accountants ready, and rehearses. Whatever it would
write goes through a connection that lets nothing pass without the lease.

A process that loses its lease ends at once, without an orderly end: what it would still say may no longer be true.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NoReturn

from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_engine import names
from foedus_engine.accounting import Accounting, Work
from foedus_engine.budget import budget_kinds, pod_kinds
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.decide.plan import ObjectKey
from foedus_engine.pki import content_factory
from foedus_engine.reconcile import Reconciler
from foedus_engine.training import training_kinds
from foedus_operator.accountant import Accountant
from foedus_operator.api_server import ApiServer, connect, load_configuration
from foedus_operator.config import Config, read_config
from foedus_operator.coordinator_pages import hearing_coordinators
from foedus_operator.handlers import WATCHED, Watched
from foedus_operator.health import Health, serve
from foedus_operator.kube import KubeCluster
from foedus_operator.lease import Lease, LeaseLost, steady_clock
from foedus_operator.ledgers import KubeLedgers
from foedus_operator.listed import Listed
from foedus_operator.serving import reviewed_by
from foedus_operator.watches import check_kinds, run_watches

_logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Run the operator and exit."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)  # it tells of every event
    code = run(os.environ)
    logging.shutdown()
    os._exit(code)  # not an orderly end: a thread that computes would hold it up, and everything that counts is written


def run(environ: Mapping[str, str]) -> int:
    """Run until told; return the exit code."""
    try:
        asyncio.run(run_until_told(read_config(environ)))
    except FoedusError as error:
        sys.stderr.write(f"foedus-operator: {error}\n")
        return int(error.code)
    return int(ExitCode.OK)


async def run_until_told(config: Config) -> None:
    """Run the operator; SIGTERM and SIGINT end it in order, so that the next one need not wait for the lease."""
    told = asyncio.Event()

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)

    listen()
    work = asyncio.create_task(operate(config, listen))
    waiter = asyncio.create_task(told.wait())
    await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait({work})


async def operate(config: Config, listen: Callable[[], None]) -> None:
    """Stand by, and lead with the lease; raises LeaseLost or Unavailable when that is over."""
    configuration = await load_configuration(config.kubeconfig)
    async with connect(configuration) as server:
        key = ObjectKey("coordination.k8s.io/v1", "Lease", config.namespace, config.lease)
        lease = Lease(KubeCluster(server, KeyFeed()), key, config.identity)
        health = Health(steady_clock, lambda: lease.leads)
        async with serve(health, config.health_port, reviewed_by(server), config.files):
            try:
                async with connect(configuration, patience=lease.patience) as writer:
                    await stand_by_and_lead(config, writer, lease, health, listen)
            except* FoedusError as errors:
                raise _first(errors) from None
            finally:
                await lease.release()


async def stand_by_and_lead(
    config: Config, server: ApiServer, lease: Lease, health: Health, listen: Callable[[], None]
) -> None:
    """Stand by, then reconcile for as long as the lease is held; everything that is written goes through `server`."""
    feed, listed, accountant = KeyFeed(), Listed(lambda: lease.leads), Accountant()

    async def watch() -> None:
        watched = (*WATCHED, Watched("coordination.k8s.io", "v1", "leases", only=config.lease))
        await check_kinds(server, watched)
        health.start([kind.path for kind in watched])
        await run_watches(
            feed,
            watched,
            await load_configuration(config.kubeconfig),
            pulse=health.pulse,
            answered=health.answered,
            started=listen,
            listed=listed,
            census=health.census,
        )

    try:
        async with hearing_coordinators(server, health.heard) as reports, asyncio.TaskGroup() as group:
            cluster = KubeCluster(server, feed, reports)
            loop = build_loop(config, cluster, KubeLedgers(server), health, listed, accountant)
            group.create_task(_elect(lease, health, loop))
            group.create_task(watch())
            group.create_task(loop.run())
            group.create_task(accountant.start())
    finally:
        await accountant.close()


def build_loop(
    config: Config, cluster: KubeCluster, ledgers: KubeLedgers, health: Health, listed: Listed, work: Work
) -> Reconciler:
    """Return the loop over all kinds that the operator handles; it stands by."""
    # Without a reader of models: neither the volumes nor the packages of the pods are here, so a pod looks.
    accounting = Accounting(None, work=work)
    jobs = training_kinds(cluster, ledgers, accounting, clock=utc_now, settings=config.workload, manager=names.OPERATOR)
    kinds = {
        **jobs,
        **budget_kinds(cluster, ledgers, accounting, clock=utc_now),
        **pod_kinds(cluster, clock=utc_now),
    }

    def report(_key: ObjectKey, error: FoedusError) -> None:
        health.faults.labels(type(error).__name__).inc()

    factory = content_factory(utc_now, os.urandom)
    labels = {("v1", "Pod"): {names.MANAGER_LABEL: names.MANAGER}}
    return Reconciler(
        cluster,
        ledgers,
        factory,
        kinds,
        clock=steady_clock,
        report=report,
        labels=labels,
        listed=listed.take,
        rehearsed=jobs.keys(),
    )


async def _elect(lease: Lease, health: Health, loop: Reconciler) -> None:
    """Wait for the lease, lead, and end the process at once when the lease is lost."""
    await lease.acquire()
    health.lead(lease.transitions)
    loop.lead()
    try:
        await lease.hold()
    except LeaseLost as error:
        sys.stderr.write(f"foedus-operator: {error}\n")
        sys.stderr.flush()
        os._exit(int(error.code))


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def _first(errors: BaseExceptionGroup[FoedusError]) -> FoedusError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


if __name__ == "__main__":
    main()
