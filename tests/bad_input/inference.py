"""What can be wrong with a private inference at the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

from bad_input.command_line import E, case
from bad_input.sabotage import full_volume
from bad_input.worlds import Arguments, Machine
from support.tiny_classifier import write_classifier

TEXT = "the minister told parliament"


def infer(*more: str, texts: tuple[str, ...] = (TEXT,)) -> Callable[[Machine], Arguments]:
    """Return the case of a model that is good, with more arguments."""
    return lambda machine: command(machine, *more, texts=texts)


def command(machine: Machine, *more: str, texts: tuple[str, ...] = (TEXT,)) -> Arguments:
    folder = machine.root / "classifier"
    if not folder.exists():
        write_classifier(folder, "bert")
    state = str(machine.root / "state-infer")
    # As JSON, progress stands with the answers, so that standard error holds what is wrong alone.
    return ["infer", "--local", "--output", "json", "--model", str(folder), "--state", state, *more, *texts]


def named(model: str) -> Callable[[Machine], Arguments]:
    return lambda machine: ["infer", "--local", "--output", "json", "--model", model, TEXT]


def no_head(machine: Machine) -> Arguments:
    return ["infer", "--local", "--output", "json", "--model", str(machine.model), TEXT]


def other_vocabulary(machine: Machine) -> Arguments:
    """The tokenizer of a model with more words."""
    arguments = command(machine)
    path = machine.root / "classifier/tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    words = tokenizer["model"]["vocab"]
    words |= {f"word{number}": len(words) + number for number in range(5)}
    path.write_text(json.dumps(tokenizer), "utf-8")
    return arguments


def no_weights(machine: Machine) -> Arguments:
    arguments = command(machine)
    (machine.root / "classifier/model.safetensors").unlink()
    return arguments


def file_of(content: bytes) -> Callable[[Machine], Arguments]:
    def spoil(machine: Machine) -> Arguments:
        path = machine.root / "texts.txt"
        path.write_bytes(content)
        return command(machine, "--file", str(path), texts=())

    return spoil


def no_adapter(machine: Machine) -> Arguments:
    folder = machine.root / "adapter"
    folder.mkdir()
    return command(machine, "--adapter", str(folder))


def state_is_a_file(machine: Machine) -> Arguments:
    arguments = command(machine)
    shutil.rmtree(machine.root / "state-infer", ignore_errors=True)
    (machine.root / "state-infer").write_bytes(b"")
    return arguments


INFERENCE = (
    case("without --local", lambda machine: command(machine)[:1] + command(machine)[2:], E.USAGE, "error: only --local is there yet; see: foedus infer --help"),
    case("no text", infer(texts=()), E.USAGE, "error: no text is given; write it behind the options, or name a file with --file; see: foedus infer --help"),
    case("an empty text", infer(texts=("",)), E.INVALID_DATA, "error: text 1: is empty; give UTF-8 texts, one a line"),
    case("a file of texts that is not UTF-8", file_of(b"tax law\n\xff\xfe\n"), E.INVALID_DATA, "error: …/texts.txt:2: the line is not UTF-8; give UTF-8 texts, one a line"),
    case("a file with a line above 1 MiB", file_of(b"x" * 1048577), E.INVALID_DATA, "error: …/texts.txt:1: the line is longer than 1048576 bytes; give UTF-8 texts, one a line"),
    case("a text of more tokens than the model takes", infer(texts=(TEXT, "tax " * 70)), E.INVALID_DATA, "error: text 2: the text has 72 tokens, 64 are taken; shorten it"),
    case("a text of more tokens than the model takes, under CrypTen", infer("--protocol", "CrypTen", texts=(TEXT, "tax " * 70)), E.INVALID_DATA, "error: text 2: the text has 72 tokens, 64 are taken; shorten it"),
    case("a text of more tokens than the model takes, under Replicated3PCMalicious", infer("--protocol", "Replicated3PCMalicious", texts=(TEXT, "tax " * 70)), E.INVALID_DATA, "error: text 2: the text has 72 tokens, 64 are taken; shorten it"),
    case("a number of parties that the protocol has not", infer("--parties", "2"), E.INVALID_SPEC, "error: protocol: there is no Replicated3PC by 2 parties; use Replicated3PC or Replicated3PCMalicious by 3 parties, CrypTen by 2 to 4"),
    case("no such model", named("no-such-model"), E.INVALID_MODEL, "error: model no-such-model: there is neither such a folder nor such an installed package; give a folder with config.json, or PACKAGE:FOLDER"),
    case("a package that holds no model", named("click"), E.INVALID_MODEL, "error: model click: the package holds no model; give a folder with config.json, or PACKAGE:FOLDER"),
    case("a model without a head", no_head, E.INVALID_MODEL, "error: …/volumes/base/model/model.safetensors: the model has no classification head (classifier.weight); name an adapter that brings one, or a fine-tuned model"),
    case("a model without weights", no_weights, E.INVALID_MODEL, "error: …/classifier/model.safetensors: the weights file cannot be read; the folder must hold a complete model.safetensors; other formats can run code and are not read"),
    case("a tokenizer of another model", other_vocabulary, E.INVALID_MODEL, "error: …/classifier: the tokenizer has … tokens, the model's table … rows; take tokenizer.json and weights from the same model"),
    case("a tokenizer of another model, under CrypTen and with four parties", lambda machine: [*other_vocabulary(machine), "--protocol", "CrypTen", "--parties", "4"], E.INVALID_MODEL, "error: …/classifier: the tokenizer has … tokens, the model's table … rows; take tokenizer.json and weights from the same model"),
    case("a tokenizer of another model, under Replicated3PCMalicious", lambda machine: [*other_vocabulary(machine), "--protocol", "Replicated3PCMalicious"], E.INVALID_MODEL, "error: …/classifier: the tokenizer has … tokens, the model's table … rows; take tokenizer.json and weights from the same model"),
    case("an adapter's folder without an adapter", no_adapter, E.INVALID_MODEL, "error: …/adapter/adapter_config.json: the file cannot be read; …"),
    case("a state folder that is a file", state_is_a_file, E.USAGE, "error: Invalid value for '--state' (env var: 'FOEDUS_STATE'): Directory '…/state-infer' is a file; see: foedus infer --help"),
    case("a volume that is full when the weights are shared", infer(), E.UNAVAILABLE, "error: …/weights.safetensors: cannot be written (File too large); free space on the volume, or mend it", sabotage=full_volume),
    case("a volume that is full when the weights are shared, under CrypTen", infer("--protocol", "CrypTen"), E.UNAVAILABLE, "error: …/weights.safetensors: cannot be written (File too large); free space on the volume, or mend it", sabotage=full_volume),
    case("a volume that is full when the weights are shared, under Replicated3PCMalicious", infer("--protocol", "Replicated3PCMalicious"), E.UNAVAILABLE, "error: …/weights.safetensors: cannot be written (File too large); free space on the volume, or mend it", sabotage=full_volume),
)  # fmt: skip
