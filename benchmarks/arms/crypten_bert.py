"""The same classifier by stock CrypTen 0.4.1: two processes, gloo, its own provider, its own functions.

`python crypten_bert.py MODEL.npz OUT.json`, in an environment with `crypten`. Nothing of CrypTen is changed; what it
imports of torch by names that torch no longer has is put under them, and `onnx`, which is not used, is left out.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.onnx
from torch.onnx._internal.torchscript_exporter import registration

PARTIES = 2


def import_crypten() -> Any:
    """Return the package."""
    sys.modules["torch.onnx._internal.registration"] = registration
    onnx, helper = types.ModuleType("onnx"), types.ModuleType("onnx.numpy_helper")
    onnx.numpy_helper = helper  # type: ignore[attr-defined]
    sys.modules |= {"onnx": onnx, "onnx.numpy_helper": helper}
    logging.disable(logging.WARNING)  # it warns of each class of torch that it misses
    import crypten
    import crypten.mpc

    return crypten


crypten = import_crypten()


def classify(weights: dict[str, Any], hidden: Any, sizes: dict[str, Any]) -> Any:
    """Return the logits of the classifier; after the last attention nothing but the first token is computed."""

    def linear(x: Any, module: str) -> Any:
        return x.matmul(weights[f"{module}.weight"]) + weights[f"{module}.bias"]

    def norm(x: Any, module: str) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        scaled = centred * (variance + sizes["epsilon"]).inv_sqrt()
        return scaled * weights[f"{module}.weight"] + weights[f"{module}.bias"]

    def split(x: Any) -> Any:
        return x.reshape(x.shape[0], sizes["heads"], -1).transpose(0, 1)

    def gelu(x: Any) -> Any:
        return x * ((x * 2**-0.5).erf() + 1) * 0.5

    for layer in range(sizes["layers"]):
        name = f"encoder.layer.{layer}"
        kept = hidden[:1] if layer == sizes["layers"] - 1 else hidden
        sources = {"query": kept, "key": hidden, "value": hidden}
        query, key, value = (split(linear(x, f"{name}.attention.self.{part}")) for part, x in sources.items())
        scores = query.matmul(key.transpose(1, 2))  # divided by sqrt(d) in the query's weights
        context = scores.softmax(-1).matmul(value)
        joined = context.transpose(0, 1).reshape(kept.shape)
        hidden = norm(linear(joined, f"{name}.attention.output.dense") + kept, f"{name}.attention.output.LayerNorm")
        inner = gelu(linear(hidden, f"{name}.intermediate.dense"))
        hidden = norm(linear(inner, f"{name}.output.dense") + hidden, f"{name}.output.LayerNorm")
    return linear(linear(hidden[:1], "pooler.dense").tanh(), "classifier")[0]


@crypten.mpc.run_multiprocess(world_size=PARTIES)  # type: ignore[untyped-decorator]  # CrypTen has no types
def party(model: str) -> dict[str, Any]:
    """Share everything from party 0, compute, open; return the logits and what it took this party."""
    torch.set_num_threads(1)
    arrays, sizes = read(model)
    shared = {name: crypten.cryptensor(torch.from_numpy(values).float(), src=0) for name, values in arrays.items()}
    hidden = shared.pop("hidden")
    crypten.comm.get().barrier()
    begin, processor = time.perf_counter(), time.process_time()
    logits = classify(shared, hidden, sizes).get_plain_text()
    return {
        "logits": logits.tolist(),
        "seconds": time.perf_counter() - begin,
        "processorSeconds": time.process_time() - processor,
    }


def read(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the sizes."""
    with np.load(model, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(bytes(arrays.pop("sizes")))


def main(model: str, out: str) -> None:
    """Run both parties and write what came and what it took them together."""
    parties = party(model)
    found = {
        "logits": parties[0]["logits"],
        "seconds": max(each["seconds"] for each in parties),
        "processorSeconds": sum(each["processorSeconds"] for each in parties),
    }
    Path(out).write_text(json.dumps({**found, "version": crypten.__version__}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
