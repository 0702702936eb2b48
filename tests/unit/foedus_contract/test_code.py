"""The code's digest: that of the wheel which is built from here, and another one after any change."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foedus_contract.code import PACKAGES, code_digest

ROOT = Path(__file__).parents[3]


def digest_of(rows: list[list[str]]) -> str:
    tag = b"foedus/code/v1"
    text = json.dumps(sorted(rows), separators=(",", ":")).encode()
    return "sha256:" + hashlib.sha256(len(tag).to_bytes(2, "big") + tag + text).hexdigest()


def installed(folder: Path) -> str:
    """Return what a process says that has its packages in `folder` alone."""
    program = "from foedus_contract.code import code_digest; print(code_digest())"
    command = [sys.executable, "-S", "-B", "-c", f"import sys; sys.path.append({str(folder)!r}); {program}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_it_is_that_of_the_wheel_by_its_record(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("foedus-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        listed = list(csv.reader(io.StringIO(archive.read(record).decode("utf-8"))))
    # RECORD has hashes in base64 without padding (PEP 376).
    code = {name: digest for name, digest, _ in listed if name.partition("/")[0] in PACKAGES}
    rest = {name.partition("/")[0] for name, _, _ in listed} - set(PACKAGES)
    assert len(code) > 200
    assert {name.partition(".")[2].rpartition(".")[2] for name in rest} == {"dist-info"}
    rows = [
        [name, "sha256:" + base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=").hex()]
        for name, digest in code.items()
    ]
    assert code_digest() == digest_of(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The two files that tell the digest, and a package."""
    for name in ("__init__.py", "code.py", "canonical.py"):
        source = ROOT / "workloads/foedus_contract" / name
        (tmp_path / "foedus_contract").mkdir(exist_ok=True)
        (tmp_path / "foedus_contract" / name).write_bytes(source.read_bytes())
    (tmp_path / "foedus/report").mkdir(parents=True)
    (tmp_path / "foedus/__init__.py").write_text("ONE = 1\n", "utf-8")
    (tmp_path / "foedus/report/style.css").write_text("p {}\n", "utf-8")
    return tmp_path


def test_any_change_shows_and_bytecode_does_not(folder: Path) -> None:
    said = [installed(folder)]
    (folder / "foedus/__pycache__").mkdir()
    (folder / "foedus/__pycache__/one.pyc").write_bytes(b"\0")
    (folder / "another.py").write_text("", "utf-8")
    assert installed(folder) == said[0]
    for change in (
        lambda: (folder / "foedus/__init__.py").write_text("ONE = 2\n", "utf-8"),
        lambda: (folder / "foedus/report/style.css").write_text("p {color: red}\n", "utf-8"),
        lambda: (folder / "foedus/report/more.py").write_text("", "utf-8"),
        lambda: (folder / "foedus/report/more.py").rename(folder / "foedus/more.py"),
    ):
        change()
        said.append(installed(folder))
    assert len(set(said)) == 5
