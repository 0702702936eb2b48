"""Builds the kernels into the package where there is a C compiler; without one the package is plain Python.

`CC` names the compiler, else `cc` is taken (GCC 11 or clang 12 and newer know every instruction used). With
`FOEDUS_RING_NATIVE=required` a missing compiler is an error: an image must not lose its kernels unseen.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
NATIVE = ROOT / "native"
LIBRARY = ROOT / "foedus_ring" / "_kernels.so"
FLAGS = ("-std=gnu11", "-O3", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror")
# Each unit is built for its own CPU and entered on that CPU only, so that the library can be loaded on any.
ANYWHERE: Mapping[str, Sequence[str]] = {"ring": (), "plain": (), "passes": (), "checks": ()}
_WIDE = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512")
X86_64: Mapping[str, Sequence[str]] = {
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512dq"),
    "passes_avx2": ("-mavx2",),
    "passes_avx512": _WIDE,
    "checks_avx2": ("-mavx2",),
    "checks_avx512": _WIDE,
    "amx": ("-mavx512f", "-mavx512bw", "-mavx512vbmi", "-mamx-tile", "-mamx-int8"),
}


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library, and the tag of the platform it was built on, to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, or leave none."""
        LIBRARY.unlink(missing_ok=True)
        compiler = find_compiler(os.environ)
        if compiler is None:
            if os.environ.get("FOEDUS_RING_NATIVE") == "required":
                raise SystemExit("foedus-ring: no C compiler; install one, name it in CC, or unset FOEDUS_RING_NATIVE")
            self.app.display_warning("foedus-ring: no C compiler, so products run on torch alone, and slower")
            return
        build(compiler, LIBRARY, "-shared")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def find_compiler(environment: Mapping[str, str]) -> list[str] | None:
    """Return the compiler's command, or None when there is none."""
    command = shlex.split(environment.get("CC", "")) or ["cc"]
    return command if shutil.which(command[0], path=environment.get("PATH")) else None


def build(compiler: Sequence[str], target: Path, *flags: str, units: Sequence[str] = ()) -> None:
    """Compile all kernels for this machine's kind of CPU, and the units named, and link them to `target`."""
    kernels = {**ANYWHERE, **(X86_64 if platform.machine() in ("x86_64", "AMD64") else {})}
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for unit, own in {**kernels, **dict.fromkeys(units, ())}.items():
            objects.append(str(Path(folder) / f"{unit}.o"))
            source = str(NATIVE / f"{unit}.c")
            subprocess.run([*compiler, *FLAGS, *flags, *own, "-c", source, "-o", objects[-1]], check=True)
        subprocess.run([*compiler, *flags, *objects, "-o", str(target)], check=True)
