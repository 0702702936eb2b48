"""The command line: one group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

import click

from foedus.options import PLUGIN_NAME
from foedus_contract.errors import FoedusError, describe_defect
from foedus_contract.exit_codes import ExitCode

# Where each command lives. `foedus --help` and `foedus data split` must not wait for the engine to be imported.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "adapter": ("foedus.adapter:adapter", "Fetch the adapter that a job on a cluster has made."),
        "budget": ("foedus.budget:budget", "Make and show a silo's privacy budget."),
        "data": ("foedus.data:data", "Prepare example data."),
        "delete": ("foedus.delete:delete", "Remove a job; give back what it has not spent."),
        "get": ("foedus.get:get", "Show the jobs and budgets of a cluster."),
        "infer": ("foedus.inference.command:infer", "Label texts that no party sees by a model that none sees."),
        "logs": ("foedus.logs:logs", "Show what the processes of a job on a cluster say."),
        "mpc": ("foedus.mpc:mpc", "Plan and measure private inference."),
        "report": ("foedus.report.command:report", "Make the report in a result folder again."),
        "run": ("foedus.run:run", "Run manifests on this machine."),
    }
)
# They work on folders of this machine, so `kubectl foedus` has them not: there, `delete` would mislead.
ON_A_LAPTOP = frozenset({"data", "delete", "infer", "mpc", "run"})


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, imported or not."""
        return sorted({*offered(ctx), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, importing it if it is a lazy one."""
        if cmd_name not in offered(ctx):
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the lazy ones."""
        rows = {name: summary for name, (_, summary) in offered(ctx).items()}
        rows.update({name: command.get_short_help_str() for name, command in self.commands.items()})
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


def offered(ctx: click.Context) -> Mapping[str, tuple[str, str]]:
    """Return the lazy commands that the program has under the name that it was called by."""
    absent = ON_A_LAPTOP if ctx.find_root().info_name == PLUGIN_NAME else frozenset()
    return {name: place for name, place in COMMANDS.items() if name not in absent}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train LoRA adapters across data holders under differential privacy; ask a model without showing it the text."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(importlib.metadata.version("foedus"))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every failure is one line on stderr and an exit code of the contract."""
    _run(arguments, "foedus")


def plugin(arguments: list[str] | None = None) -> None:
    """Run the command line as `kubectl foedus`: what may be about a state folder or a cluster is about a cluster."""
    _run(arguments, PLUGIN_NAME)


def _run(arguments: list[str] | None, name: str) -> None:
    # What a person must know the commands say; a library's log lines, and their tracebacks, would stand between.
    logging.getLogger().addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the locale lacks must not end a long call. Of a stream that was exchanged below Python, position
        # and all, the error handler is set before its place is asked for in vain.
        with suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(int(_exit_code(arguments, name)))


def _one_line(error: click.ClickException) -> str:
    """Return what is wrong with the command line, and where its help is."""
    said = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{said.rstrip('.')}; see: {context.command_path} --help" if context else said


def _exit_code(arguments: list[str] | None, name: str) -> int:
    try:
        cli.main(args=arguments, prog_name=name, standalone_mode=False)
    except FoedusError as error:
        click.echo(f"error: {error}", err=True)
        return error.code
    except click.ClickException as error:
        click.echo(f"error: {_one_line(error)}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("error: interrupted", err=True)
        return ExitCode.CANCELLED
    except Exception as error:  # noqa: BLE001 - the program's border: every defect becomes a line and a code
        click.echo(f"error: {describe_defect(error)}", err=True)
        return ExitCode.INTERNAL
    return ExitCode.OK
