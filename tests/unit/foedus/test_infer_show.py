"""How a private inference is shown where the terminal, the reader or the locale is not what one hopes for."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from foedus.inference.answer import Answer
from foedus.inference.show import JsonLines, Lines
from support.calling import foedus
from support.one_line import check_one_line

ANSWER = Answer("économie", {"économie": 0.75, "عالم": 0.25}, (1.0, -0.1), 3, 1.0, 2, (3, 3, 3))


def run(program: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONIOENCODING": "latin-1"}
    return subprocess.run([sys.executable, "-c", program], check=False, env=environ, **more)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("terminal", "name", "redrawn"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_a_line_is_redrawn_where_the_terminal_can_do_it_and_lines_are_written_elsewhere(
    terminal: bool, name: str, redrawn: bool
) -> None:
    written = io.StringIO()
    show = Lines(print, Console(file=written, force_terminal=terminal, _environ={"TERM": name}), lambda: 0.0)
    show.phase("reading the model")
    show.phase("starting 3 parties")
    show.close()
    assert ("\x1b" in written.getvalue()) is redrawn
    assert redrawn or written.getvalue() == "reading the model\nstarting 3 parties\n"


def test_a_call_goes_on_when_nobody_reads_its_progress() -> None:
    program = """
from foedus.inference.show import Beside, Lines
show = Lines(print, Beside(stderr=True), lambda: 0.0)
show.phase("reading the model")
show.phase("starting 3 parties")
print("answered")
"""
    read, write = os.pipe()
    os.close(read)
    ended = run(program, stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert (ended.returncode, ended.stdout) == (0, b"answered\n")


def test_a_reader_that_goes_away_before_the_work_begins_is_said_in_one_line() -> None:
    program = """
import sys
from foedus.interrupt import Output
from foedus_contract.errors import Unavailable
try:
    Output().write("loading libraries")
except Unavailable as error:
    print(error, file=sys.stderr)
"""
    read, write = os.pipe()
    os.close(read)
    ended = run(program, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"standard output: cannot be written (Broken pipe); ")


def test_letters_that_the_locale_lacks_are_escaped() -> None:
    program = """
import click
from foedus.main import cli, main
cli.add_command(click.Command("say", callback=lambda: click.echo("\\u00e9\\u20ac")))
main(["say"])
"""
    ended = run(program, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"\xe9\\u20ac\n", b"")


def test_json_needs_no_letters_beyond_ascii() -> None:
    lines: list[str] = []
    JsonLines(lines.append, lambda: 0.0).answer(0, ANSWER)
    assert lines[0].isascii()
    assert json.loads(lines[0])["scores"] == {"économie": 0.75, "عالم": 0.25}


def test_a_user_is_told_that_libraries_load_before_they_do(tmp_path: Path) -> None:
    program = f"""
import sys
from foedus.inference.show import Lines
from foedus.main import main
def phase(self, text):
    print(text, "torch" in sys.modules)
    raise SystemExit(0)
Lines.phase = phase
main(["infer", "--local", "--model", {str(tmp_path)!r}, "x"])
"""
    assert run(program, capture_output=True).stdout == b"loading libraries False\n"


def test_a_file_without_a_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n \n")
    assert foedus("infer", "--local", "--model", str(tmp_path), "--file", str(file)) == 11
    check_one_line(capsys, f"{file}: holds no text; give UTF-8 texts, one a line")
