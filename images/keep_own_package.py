"""`python keep_own_package.py NAME…`: of installed distributions, keep the packages of their own names and no other.

CrypTen's wheel brings `benchmarks`, `configs`, `examples` and `test` as packages of the same rank: who imports one of
these names would get CrypTen's. Modules go with their compiled forms and with folders that get empty; the record of
what is installed is replaced, so that it says what is there. Data stays: CrypTen as it comes reads its defaults from
`configs`, and a folder without modules gives way to every package of its name.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
import sys
from contextlib import suppress
from pathlib import Path, PurePath


def keep_own_package(name: str) -> list[str]:
    """Remove modules that are not below the package `name`; return the names of the packages that went."""
    distribution = importlib.metadata.distribution(name)
    (record,) = (file for file in distribution.files or () if file.name == "RECORD")
    own = {name, record.parent.name}
    strays = {str(file): file for file in distribution.files or () if file.parts[0] not in own and _is_module(file)}
    site = Path(str(distribution.locate_file("")))
    for file in strays.values():
        _remove(Path(str(file.locate())), site)
    rows = csv.reader(record.read_text("utf-8").splitlines())
    kept = io.StringIO()
    csv.writer(kept, lineterminator="\n").writerows(row for row in rows if row[0] not in strays)
    path = Path(str(record.locate()))
    fresh = path.with_name("RECORD.new")
    fresh.write_text(kept.getvalue(), "utf-8")
    os.replace(fresh, path)  # in its place, not into it: another environment may have the same file
    return sorted({file.parts[0] for file in strays.values()})


def _is_module(file: PurePath) -> bool:
    return file.suffix in {".py", ".pyc"}


def _remove(file: Path, site: Path) -> None:
    file.unlink(missing_ok=True)
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        compiled.unlink()
    for folder in (file.parent / "__pycache__", *file.parents):
        if folder == site:
            return
        with suppress(OSError):  # something else is in it
            folder.rmdir()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(f"{each}: removed", *keep_own_package(each))
