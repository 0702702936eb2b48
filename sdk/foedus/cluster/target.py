"""Which cluster and namespace a command is about: the options are kubectl's, and mean what they mean there."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foedus.interrupt import run_until_terminated
from foedus.options import DEFAULT_NAMESPACE, DEFAULT_STATE, PLUGIN_NAME
from foedus_contract.errors import InvalidInput
from foedus_engine.api.meta import DNS_SUBDOMAIN, PATTERN_HELP

if TYPE_CHECKING:
    from foedus.cluster.session import Session

Command = Callable[..., Any]


class ObjectName(click.ParamType[str]):
    """A name as the API server takes it: it becomes a part of a path."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; raises click.BadParameter."""
        if len(value) > MAX_NAME or not re.fullmatch(DNS_SUBDOMAIN, value):
            self.fail(f"{value!r} {PATTERN_HELP[DNS_SUBDOMAIN]}", param, ctx)
        return value


OBJECT_NAME = ObjectName()
MAX_NAME = 253


@dataclass(frozen=True)
class Target:
    """A cluster and a namespace of it; None is what the kubeconfig says."""

    kubeconfig: str = ""
    context: str | None = None
    namespace: str | None = None
    every_namespace: bool = False


@dataclass(frozen=True)
class Place:
    """Where a command that also exists on a laptop finds its objects: in a cluster, or in a state folder."""

    state: Path
    namespace: str
    target: Target | None


def cluster_option(command: Command) -> Command:
    """Give the command the options --context and --kubeconfig."""
    command = click.option("--context", help="Cluster and user, by the kubeconfig's context.")(command)
    return click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Kubeconfig file.  [default: what KUBECONFIG names, else ~/.kube/config]",
    )(command)


def on_cluster(command: Command) -> Command:
    """Give the command kubectl's options, and the argument `target` that they make."""

    @click.option("-n", "--namespace", type=OBJECT_NAME, help="Namespace of the objects.  [default: the context's]")
    @cluster_option
    @functools.wraps(command)
    def with_target(context: str | None, kubeconfig: Path | None, namespace: str | None, **more: Any) -> None:
        command(target=Target(str(kubeconfig or ""), context, namespace), **more)

    return with_target


def in_place(command: Command) -> Command:
    """Give the command kubectl's options beside --state, and the argument `place` that they make.

    A cluster is meant where --context or --kubeconfig says so, and always by `kubectl foedus`.
    """

    @click.option(
        "-n",
        "--namespace",
        type=OBJECT_NAME,
        help=f"Namespace of the objects.  [default: {DEFAULT_NAMESPACE}, or the context's]",
    )
    @click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="FOEDUS_STATE",
        show_envvar=True,
        help=f"Folder that keeps objects, ledgers and keys between runs.  [default: {DEFAULT_STATE}]",
    )
    @cluster_option
    @functools.wraps(command)
    def with_place(
        context: str | None, kubeconfig: Path | None, namespace: str | None, state: Path | None, **more: Any
    ) -> None:
        target = None
        if context is not None or kubeconfig is not None or is_plugin():
            _refuse_both()
            target = Target(str(kubeconfig or ""), context, namespace)
        command(place=Place(state or DEFAULT_STATE, namespace or DEFAULT_NAMESPACE, target), **more)

    return with_place


def _refuse_both() -> None:
    context = click.get_current_context()
    if context.get_parameter_source("state") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--state names a folder of this machine, so it cannot go with a cluster", context)


def is_plugin() -> bool:
    """Return whether the command was called as `kubectl foedus`."""
    return click.get_current_context().find_root().info_name == PLUGIN_NAME


def run_on_cluster(target: Target, work: Callable[[Session], Awaitable[None]]) -> None:
    """Do the work with the cluster; raises click.Abort when a signal ended it."""
    try:
        from foedus.cluster.session import open_session
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "kubernetes":
            raise
        cure = "install it with: pip install 'foedus[cluster]'"
        raise InvalidInput("the Kubernetes client is not installed", cure=cure) from None

    async def connected() -> None:
        async with open_session(target, os.environ) as session:
            await work(session)

    run_until_terminated(connected())


def everywhere(target: Target) -> Target:
    """Return the same cluster, all namespaces."""
    return replace(target, namespace=None, every_namespace=True)
