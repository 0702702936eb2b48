"""Which objects a command is about: those of a state folder, or of a cluster, and never the wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from foedus import budget, reconcile
from foedus.cluster.target import Place, Target, in_place, on_cluster
from foedus.main import main, plugin
from foedus_contract.exit_codes import ExitCode
from support.one_line import check_one_line

HERE = Place(Path(".foedus"), "default", None)


def run(program: Any, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        program(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("name", "arguments", "want"),
    [
        ("foedus", [], HERE),
        ("foedus", ["-n", "team"], Place(Path(".foedus"), "team", None)),
        ("foedus", ["--state", "s"], Place(Path("s"), "default", None)),
        ("foedus", ["--context", "c"], Place(Path(".foedus"), "default", Target("", "c", None))),
        ("foedus", ["--kubeconfig", "k", "-n", "team"], Place(Path(".foedus"), "team", Target("k", None, "team"))),
        ("kubectl foedus", [], Place(Path(".foedus"), "default", Target())),
        ("kubectl foedus", ["-n", "team"], Place(Path(".foedus"), "team", Target("", None, "team"))),
    ],
)
def test_a_cluster_is_meant_where_it_is_named(name: str, arguments: list[str], want: Place) -> None:
    seen: list[Place] = []

    @click.command()
    @in_place
    def command(place: Place) -> None:
        seen.append(place)

    command.main(arguments, prog_name=name, standalone_mode=False)
    assert seen == [want]


def test_what_is_only_on_clusters_takes_the_default_kubeconfig() -> None:
    seen: list[Target] = []

    @click.command()
    @on_cluster
    def command(target: Target) -> None:
        seen.append(target)

    command.main([], standalone_mode=False)
    command.main(["--context", "c", "--kubeconfig", "k", "-n", "team"], standalone_mode=False)
    assert seen == [Target(), Target("k", "c", "team")]


def test_the_environments_kubeconfig_makes_no_budget_command_leave_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    state = str(tmp_path / "state")
    for words in (["budget"], ["budget", "list"], ["budget", "reconcile"]):
        assert run(main, *words, "--state", state) == ExitCode.OK
        assert f"no budgets in {state}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "arguments", "code", "line"),
    [
        (main, ["budget", "--state", "s", "--context", "c"], 2, "--state names a folder of this machine"),
        (plugin, ["budget", "show", "--state", "s"], 2, "--state names a folder of this machine"),
        (main, ["budget", "reconcile", "--context", "c"], 2, "on a cluster, name the budget"),
        (main, ["budget", "reconcile", "one", "--log", __file__], 2, "--log and --image are for a cluster"),
        (main, ["get", "pods"], 2, "there is no kind pods: it is jobs or budgets; see: foedus get --help"),
        (main, ["get", "job", "../../pods"], 2, "must be lower-case letters, digits, `-` and `.`"),
        (main, ["logs", "one", "-n", "a/b"], 2, "must be lower-case letters, digits, `-` and `.`"),
        (main, ["get", "--watch"], 2, "say which are to be watched: jobs or budgets"),
        (main, ["get", "job", "one", "-A"], 2, "lies in one namespace"),
        (main, ["logs", "one", "--silo", "a", "--coordinator"], 2, "name two processes"),
        (plugin, ["delete", "one"], 2, "No such command 'delete'; see: kubectl foedus --help"),
        (plugin, ["get", "pods"], 2, "see: kubectl foedus get --help"),
        (main, ["get", "--kubeconfig", "/none/config"], 10, "/none/config: there is no kubeconfig; name one with"),
        (plugin, ["budget", "--kubeconfig", "/none/config"], 10, "/none/config: there is no kubeconfig"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    program: Any, arguments: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, *arguments) == code
    check_one_line(capsys, "error: ", line)


def test_the_plug_in_makes_no_budget_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "silo" / "train.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps({"text": f"t{n}", "label": "a"}) + "\n" for n in range(3)), "utf-8")
    create = ("budget", "create", "--data", str(data), "--epsilon", "1", "--state", str(tmp_path / "state"))
    assert run(plugin, *create) == 10
    check_one_line(capsys, "kubectl foedus budget create … -o yaml | kubectl apply -f -")
    assert not (tmp_path / "state").exists()
    assert run(plugin, *create, "-o", "yaml") == 0
    assert "kind: PrivacyBudget" in capsys.readouterr().out


def test_without_the_kubernetes_client_it_is_said_how_to_get_it() -> None:
    program = (
        "import sys\nsys.modules['kubernetes'] = None\nfrom foedus.main import main\nmain(['get', '--kubeconfig', 'x'])"
    )
    environ = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 10
    assert (
        done.stderr == "error: the Kubernetes client is not installed; install it with: pip install 'foedus[cluster]'\n"
    )


@pytest.mark.parametrize("command", [["get"], ["logs"], ["adapter", "download"], ["budget"]])
def test_help_needs_neither_the_client_nor_a_training_framework(command: list[str]) -> None:
    program = (
        "import sys\nfrom foedus.main import main\n"
        f"try:\n    main({[*command, '--help']!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'aiohttp', 'kubernetes', 'kopf'} & set(sys.modules)))"
    )
    environ = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.splitlines()[-1] == "[]"


def test_budget_and_reconcile_know_the_same_places() -> None:
    options = {
        command.name: {option for parameter in command.params for option in parameter.opts}
        for command in (budget.show, budget.list_all, reconcile.reconcile)
    }
    place = {"--context", "--kubeconfig", "-n", "--namespace", "--state"}
    assert all(place <= found for found in options.values())
