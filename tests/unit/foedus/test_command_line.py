import subprocess
import sys
from pathlib import Path

import click
import pytest

import foedus.main
from foedus.main import cli, main
from foedus_contract.errors import InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InvalidInput("is wrong", where="spec.x", cure="mend it"), 10, "error: spec.x: is wrong; mend it\n"),
        (Refused("no", code=ExitCode.BUDGET_EXISTS), 23, "error: no\n"),
        (Unavailable("not\nthere"), 40, "error: not there\n"),
        (click.Abort(), 130, "error: interrupted\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setitem(cli.commands, "failing", failing)
    with pytest.raises(SystemExit) as ended:
        main(["failing"])
    assert ended.value.code == code
    assert capsys.readouterr().err.lstrip("\n") == line


def test_a_wrong_command_line_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["no-such-command"])
    assert ended.value.code == 2
    assert "no-such-command" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(foedus.main.COMMANDS))
def test_every_lazy_command_exists(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name


def test_help_imports_no_heavy_library() -> None:
    program = (
        "import sys\nfrom foedus.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'aiohttp', 'scipy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_data_split_writes_what_training_reads_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "split", "bbc-news", "--silos", "4", "--seed", "7", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"bbc-news: 4 silos of 424 to 425 texts, 426 held out, in {tmp_path}\n"
    before = (tmp_path / "silo-01" / "train.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([*arguments[:-3], "8", *arguments[-2:]])
    assert ended.value.code == 10
    assert (tmp_path / "silo-01" / "train.jsonl").read_bytes() == before
