"""`python -m e2e.cluster COMMAND`: builds, starts, shows and removes clusters."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from e2e.cluster import registry
from e2e.cluster.assembly import ensure_parts, load_image, opened, start_cluster
from e2e.cluster.binaries import cache_folder, check_compiler, check_modules
from e2e.cluster.cgroups import check_machine, check_user
from e2e.cluster.cluster import down
from e2e.cluster.errors import HarnessError, UnsuitableMachine
from e2e.cluster.layout import FIRST_NETWORK, REGISTRY, SLOTS, Layout
from e2e.cluster.progress import Progress
from e2e.cluster.project_images import TARGETS

FOLDER = Path("build/e2e/cluster")
UNSUITABLE = 3  # exit code: another machine or another user could


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked for; 0 when it worked, 1 with one line on standard error when it did not, 3 where it cannot."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except UnsuitableMachine as error:
        print(f"error: no cluster on this machine: {error}", file=sys.stderr)
        return UNSUITABLE
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _build(asked: argparse.Namespace) -> None:
    cache = cache_folder(os.environ)
    programs, images = ensure_parts(cache, Progress(), with_nodes=not asked.control_plane_only)
    for name, path in (*programs.items(), *((name, image.tar(cache)) for name, image in images.items())):
        print(f"{name:24} {path}")


def _check(asked: argparse.Namespace) -> None:
    check_compiler()
    check_modules()
    (check_user if asked.control_plane_only else check_machine)()


def _up(asked: argparse.Namespace) -> None:
    progress = Progress()
    cluster = start_cluster(
        asked.folder.absolute(),
        cache_folder(os.environ),
        progress,
        with_nodes=not asked.control_plane_only,
        slots=SLOTS if asked.slot is None else (asked.slot,),
        first_network=asked.network,
    )
    progress.say(f"the cluster is up: export KUBECONFIG={cluster.layout.kubeconfig}")


def _down(asked: argparse.Namespace) -> None:
    chosen = [layout for layout in registry.registered(REGISTRY) if _is_meant(layout, asked)]
    progress = Progress()
    for layout in chosen:
        down(layout, progress)
    progress.say(f"down: {', '.join(str(layout.folder) for layout in chosen) or 'there was no cluster'}")


def _is_meant(layout: Layout, asked: argparse.Namespace) -> bool:
    if asked.slot is not None:
        return layout.slot == int(asked.slot)
    return layout.folder == Path(asked.folder).absolute()


def _list(asked: argparse.Namespace) -> None:
    for layout in registry.registered(REGISTRY):
        kind = "three nodes" if layout.with_nodes else "control plane only"
        print(f"slot {layout.slot}  {layout.api_url}  {kind}  {layout.folder}")


def _images(asked: argparse.Namespace) -> None:
    layout = _running(asked.folder)
    if not layout.with_nodes:
        raise HarnessError(f"the cluster in {asked.folder} has no nodes that could take an image")
    progress = Progress()
    cluster = opened(layout, cache_folder(os.environ), progress)
    for name in TARGETS:
        print(f"{name:24} {load_image(cluster, name, progress, os.environ)}")


def _running(folder: Path) -> Layout:
    layout = registry.find(REGISTRY, folder.absolute())
    if layout is None:
        raise HarnessError(f"no cluster is up in {folder}: make cluster-up")
    return layout


def _env(asked: argparse.Namespace) -> None:
    layout = _running(asked.folder)
    programs, _ = ensure_parts(cache_folder(os.environ), Progress(), with_nodes=layout.with_nodes)
    folders = {str(path.parent) for path in programs.values()}
    print(f"export KUBECONFIG={shlex.quote(str(layout.kubeconfig))}")
    print(f"export PATH={shlex.quote(':'.join(sorted(folders)))}:$PATH")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description="A real Kubernetes for the tests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    build = command("build", _build, "build what is not in the cache, and list it")
    up = command("up", _up, "start a cluster, or what does not run of it")
    check = command("check", _check, "say whether this machine can have a cluster: 3 and the reason where it cannot")
    for made in (build, up, check):
        made.add_argument("--control-plane-only", action="store_true", help="no nodes: an API server that runs no pod")
    remove = command("down", _down, "remove a cluster, or what a crash left of it; the logs stay")
    env = command("env", _env, "print shell lines that make kubectl and helm use a cluster")
    images = command("images", _images, "build the project's images, give them to a cluster's nodes, print their names")
    for made in (up, remove, env, images):
        made.add_argument(
            "--folder", type=Path, default=FOLDER, help="the cluster's data folder (default: %(default)s)"
        )
    for made in (up, remove):
        made.add_argument("--slot", type=int, choices=SLOTS, help="the cluster's number on this machine")
    up.add_argument(
        "--network",
        type=int,
        default=FIRST_NETWORK,
        metavar="N",
        help="addresses begin with 10.(N + slot), loopback ones with 127.(N + slot) (default: %(default)s)",
    )
    command("list", _list, "list the clusters of this machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
