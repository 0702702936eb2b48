"""A party's file of shares: whose it is, and what happens where it is another's, damaged, or does not fit."""

from __future__ import annotations

import resource
import signal
import stat

import pytest
import torch
from safetensors.torch import save_file

from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.inference.party import claim_incarnation
from foedus_workloads.inference.shares import read_shares, write_shares
from support.inference_world import LABELS, MODEL, relabelled

TENSORS = {"own": torch.tensor([1, -(2**63)]), "next": torch.tensor([[5]])}


def written(path, label=LABELS[1]):
    write_shares(path, TENSORS, label)
    return path


def test_shares_come_back_as_they_were_and_are_for_their_user_alone(tmp_path):
    path = written(tmp_path / "w.safetensors")
    label, shares = read_shares(path, 1, MODEL)
    assert label == LABELS[1]
    assert {name: values.tolist() for name, values in shares.items()} == {"own": [1, -(2**63)], "next": [[5]]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_shares_of_one_sharing_have_one_digest_and_others_another():
    assert len({label.digest for label in LABELS}) == 1
    others = [{"sharing": b"t" * 16}, {"fraction": 17}, {"model_digest": "sha256:" + "b" * 64}, {"architecture": "[]"}]
    assert len({LABELS[0].digest, *(relabelled(0, **change).digest for change in others)}) == 5


def spoilt(path, kind):
    if kind == "missing":
        return path
    if kind == "cut":
        content = written(path).read_bytes()
        path.write_bytes(content[:-3])
    elif kind == "another format":
        path.write_bytes(b"\x80\x04not a safetensors file")
    elif kind == "no label":
        save_file(TENSORS, path)
    elif kind == "another label":
        save_file(TENSORS, path, metadata={"foedus": '{"party": 1}'})
    elif kind == "plain weights":
        save_file({"own": torch.zeros(2)}, path, metadata={"foedus": LABELS[1].to_json().decode()})
    elif kind == "another party":
        written(path, LABELS[2])
    else:
        written(path, relabelled(1, model_digest="sha256:" + "b" * 64))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "the file cannot be read (No such file or directory)"),
        ("cut", "the file is cut off or not safetensors"),
        ("another format", "the file is cut off or not safetensors"),
        ("no label", "the file does not say what it holds shares of"),
        ("another label", "the file does not say what it holds shares of"),
        ("plain weights", "the file holds something else than shares"),
        ("another party", "these are the shares of party 2, not of party 1"),
        ("another model", "these are shares of the model sha256:bbbb"),
    ],
    ids=[
        "missing",
        "cut",
        "another format",
        "no label",
        "another label",
        "plain weights",
        "another party",
        "another model",
    ],
)
def test_a_party_takes_no_other_file(tmp_path, kind, words):
    path = spoilt(tmp_path / "w.safetensors", kind)
    with pytest.raises(FoedusError) as caught:
        read_shares(path, 1, MODEL)
    assert caught.value.code is ExitCode.INVALID_MODEL
    assert str(caught.value).startswith(f"{path}: {words}")


def test_a_full_volume_is_said_in_one_line(tmp_path):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # as a full disk, with another number
    try:
        with pytest.raises(Unavailable) as caught:
            written(tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).endswith("cannot be written (File too large); free space on the volume, or mend it")


def test_each_start_of_a_party_has_a_number_above_all_before_and_two_never_run_at_once(tmp_path):
    numbers = []
    for _ in range(3):
        with claim_incarnation(tmp_path, 1) as number:
            numbers.append(number)
            with (
                pytest.raises(Unavailable, match="another process of this party 1 runs"),
                claim_incarnation(tmp_path, 1),
            ):
                pass
    assert numbers == [1, 2, 3]
