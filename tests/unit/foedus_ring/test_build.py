"""The build: sanitized kernels touch nothing beyond their buffers; without a compiler there are no kernels."""

import importlib.util
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import foedus_ring
from foedus_ring import native

RING = Path(foedus_ring.__file__).parents[1]


def load_hook():
    spec = importlib.util.spec_from_file_location("ring_hatch_build", RING / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load_hook()
COMPILER = hook.find_compiler(os.environ)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@needs_compiler
def test_kernels_keep_to_their_buffers(tmp_path):
    program = tmp_path / "check"
    sanitize = "-fsanitize=address,undefined"
    hook.build(COMPILER, program, sanitize, "-fno-sanitize-recover=all", "-O1", units=["check"])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("checked") >= 1


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other CPUs have the plain kernel alone")
def test_one_library_holds_every_kernel_and_needs_no_new_libc(tmp_path):
    library = tmp_path / "ring.so"
    hook.build(COMPILER, library, "-shared")
    content = library.read_bytes()
    for name in (b"ring_multiply_plain", b"ring_multiply_avx2", b"ring_multiply_avx512", b"ring_multiply_amx"):
        assert name in content
    versions = {text.split(b"\0")[0] for text in content.split(b"GLIBC_")[1:]}
    assert all(tuple(map(int, version.split(b"."))) <= (2, 28) for version in versions), versions


def copy_sources(target):
    """Copy what git would give, so that a build here leaves the installed kernels alone."""
    names = ["pyproject.toml", "README.md", "hatch_build.py", "native", "foedus_ring"]
    archive = target / "ring.tar"
    with tarfile.open(archive, "w") as tar:
        for name in names:
            tar.add(RING / name, name, filter=lambda one: None if one.name.endswith((".so", "__pycache__")) else one)
    with tarfile.open(archive) as tar:
        tar.extractall(target / "ring", filter="data")
    return target / "ring"


def build_wheel(folder, out, **environ):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    environment = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_a_compiler_the_wheel_is_plain_python(tmp_path):
    done = build_wheel(copy_sources(tmp_path), tmp_path, CC="no-such-compiler")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == "foedus_ring-0.1.0-py3-none-any.whl", done.stderr
    assert "no C compiler" in done.stdout + done.stderr
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_an_image_never_loses_its_kernels_unseen(tmp_path):
    done = build_wheel(copy_sources(tmp_path), tmp_path, CC="no-such-compiler", FOEDUS_RING_NATIVE="required")
    assert done.returncode != 0
    assert "no C compiler; install one" in done.stderr
    assert not list(tmp_path.glob("*.whl"))


@needs_compiler
def test_with_a_compiler_the_wheel_holds_the_kernels(tmp_path):
    done = build_wheel(copy_sources(tmp_path), tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("foedus_ring-0.1.0-py3-none-linux_"), done.stderr
    assert "foedus_ring/_kernels.so" in zipfile.ZipFile(wheel).namelist()


def test_without_kernels_torch_computes(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_LIBRARY", tmp_path / "none.so")
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    monkeypatch.setattr(native, "available", native.available.__wrapped__)
    assert native.available() == ("torch",)
    with pytest.raises(foedus_ring.OperandRefused, match="path 'amx' does not run here: torch do"):
        native.choose("amx")
    assert foedus_ring.pack(torch.ones(2, 2, dtype=int)).path == "torch"
