"""What a folder delivers, and that its digest tells every change."""

import hashlib
import json
from pathlib import Path

import pytest

from foedus_contract import delivery
from foedus_contract.delivery import Delivery, describe_folder
from foedus_contract.errors import FoedusError, InvalidInput, Unavailable

FILES = {"README.md": b"card", "adapter_config.json": b"{}", "adapter_model.safetensors": b"\0" * 100_000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a-folder").mkdir()
    return tmp_path


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_folder_delivers_its_files_by_name(folder: Path) -> None:
    found = describe_folder(folder)
    assert [(file.name, file.size, file.digest) for file in found.files] == [
        (name, len(content), sha256(content)) for name, content in FILES.items()
    ]
    rows = [[name, len(content), sha256(content)] for name, content in FILES.items()]
    tag = b"foedus/delivery/v1"
    text = json.dumps(rows, separators=(",", ":")).encode()
    assert found.digest() == sha256(len(tag).to_bytes(2, "big") + tag + text)
    assert Delivery.from_json(found.to_json()) == found
    assert [file.name for file in describe_folder(folder, ["README.md"]).files] == ["README.md"]


@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_every_change_is_another_digest(folder: Path, change: str) -> None:
    before = describe_folder(folder).digest()
    card = folder / "README.md"
    if change == "content":
        card.write_bytes(b"Card")
    elif change == "name":
        card.rename(folder / "README.txt")
    elif change == "more":
        (folder / "more").touch()
    else:
        card.unlink()
    assert describe_folder(folder).digest() != before


@pytest.mark.parametrize(
    ("names", "want", "match"),
    [
        ([], InvalidInput, "1 to 16 files"),
        ([f"file-{number}" for number in range(17)], InvalidInput, "1 to 16 files"),
        ([".hidden"], InvalidInput, "cannot be handed over"),
        (["with space"], InvalidInput, "cannot be handed over"),
    ],
)
def test_what_is_no_delivery_is_refused(tmp_path: Path, names: list[str], want: type[FoedusError], match: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(want, match=match):
        describe_folder(tmp_path)


def test_a_file_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "large").touch()
    with (folder / "large").open("r+b") as file:
        file.truncate(delivery.MAX_FILE_BYTES + 1)  # takes no room
    with pytest.raises(InvalidInput, match="cannot be handed over"):
        describe_folder(folder)


def test_a_folder_or_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"No such file"):
        describe_folder(tmp_path / "none")
    with pytest.raises(Unavailable, match=r"charges\.jsonl: cannot be read"):
        describe_folder(tmp_path, ["charges.jsonl"])


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], ["../a"], ["a/b"], [""], ["."], []], ids="|".join)
def test_a_delivery_of_other_names_is_not_read(names: list[str]) -> None:
    files = [{"name": name, "size": 0, "digest": sha256(b"")} for name in names]
    with pytest.raises(InvalidInput):
        Delivery.from_json(json.dumps({"files": files}))
