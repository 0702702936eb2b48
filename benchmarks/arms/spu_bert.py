"""A BERT classifier by SPU: its simulator, ABY3 over 64 bits, everything else as it comes. Runs where `spu` is.

`python spu_bert.py MODEL.npz KIND OUT.json`: weights, hidden states and sizes are arrays of MODEL, all of them secret
but the sizes. What the simulator would do in one call is done here in its steps, so that the parties' computation is
timed without sharing and compiling. KIND is

own      as SPU compiles the model: jax's GELU, scores divided by sqrt(d), all tokens in all layers.
quartic  the same with Foedus's formula of GELU.
all      and with what else Foedus's compiler does: scores are divided in the query's weights, after the last attention
         there is nothing but the first token, and softmax's sums are inverted row by row, for which SPU has an option.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu
from spu import api, libspu
from spu.utils import frontend

PARTIES = 3
Tensors = dict[str, Any]


def quartic_gelu(x: Any) -> Any:
    """Return the formula of Foedus: x/2 and a quartic in x² between -3.03 and 3, 0 below, x above."""
    shift, constant, quartic, linear, other = -8.227525, -67.724366, -13, -86, -677.754759
    z = x * x
    y = (z + shift) * (z + shift)
    q = (y + constant) * ((quartic * y + linear * z + other) / 2**16)
    return jnp.where(x < -3.03, 0.0, jnp.where(x < 3.0, x / 2 + q, x))


def head_size(sizes: dict[str, Any], weights: Tensors) -> int:
    """Return the d of attention's sqrt(d)."""
    return int(weights["encoder.layer.0.attention.self.query.weight"].shape[1] // sizes["heads"])


def classify(weights: Tensors, hidden: Any, sizes: dict[str, Any], gelu: Any, *, compiled: bool) -> Any:
    """Return the logits of the classifier; `compiled` with what Foedus's compiler does."""

    def linear(x: Any, module: str) -> Any:
        return x @ weights[f"{module}.weight"] + weights[f"{module}.bias"]

    def norm(x: Any, module: str) -> Any:
        centred = x - jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(centred * centred, -1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(variance + sizes["epsilon"])
        return scaled * weights[f"{module}.weight"] + weights[f"{module}.bias"]

    def split(x: Any) -> Any:
        return x.reshape(x.shape[0], sizes["heads"], -1).transpose(1, 0, 2)

    for layer in range(sizes["layers"]):
        name = f"encoder.layer.{layer}"
        kept = hidden[:1] if compiled and layer == sizes["layers"] - 1 else hidden
        sources = {"query": kept, "key": hidden, "value": hidden}
        query, key, value = (split(linear(x, f"{name}.attention.self.{part}")) for part, x in sources.items())
        scores = query @ key.transpose(0, 2, 1)
        if not compiled:
            scores = scores / head_size(sizes, weights) ** 0.5
        context = jax.nn.softmax(scores, -1) @ value
        joined = context.transpose(1, 0, 2).reshape(kept.shape)
        hidden = norm(linear(joined, f"{name}.attention.output.dense") + kept, f"{name}.attention.output.LayerNorm")
        inner = gelu(linear(hidden, f"{name}.intermediate.dense"))
        hidden = norm(linear(inner, f"{name}.output.dense") + hidden, f"{name}.output.LayerNorm")
    return linear(jnp.tanh(linear(hidden[:1], "pooler.dense")), "classifier")[0]


def run_parties(executable: Any, inputs: list[Any], io: Any, config: Any) -> tuple[list[Any], float, float]:
    """Run the parties as the simulator does; returns results, seconds and processor seconds."""
    shares = [io.make_shares(each, libspu.Visibility.VIS_SECRET) for each in inputs]
    description = libspu.link.Desc()
    for rank in range(PARTIES):
        description.add_party(f"id_{rank}", f"thread_{rank}")
    results: list[Any] = [None] * PARTIES
    failed: list[BaseException] = []
    ready, begun = threading.Barrier(PARTIES + 1), threading.Barrier(PARTIES + 1)

    def party(rank: int) -> None:
        try:
            context = libspu.link.create_mem(description, rank)
            runtime = api.Runtime(context, libspu.RuntimeConfig(config))
            for name, share in zip(executable.input_names, shares, strict=True):
                runtime.set_var(name, share[rank])
            ready.wait()
            begun.wait()
            runtime.run(executable)
            results[rank] = [runtime.get_var(name) for name in executable.output_names]
        except BaseException as error:
            failed.append(error)
            ready.abort()
            raise

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(PARTIES)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin, processor = time.perf_counter(), time.process_time()
    begun.wait()
    for thread in threads:
        thread.join()
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    if failed:
        raise failed[0]
    return [io.reconstruct(each) for each in zip(*results, strict=True)], seconds, processor


def main(model: str, kind: str, out: str) -> None:
    """Compile, share, compute once, and write what came and what it took."""
    compiled = kind == "all"
    with np.load(model, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    sizes = json.loads(bytes(arrays.pop("sizes")))
    hidden = arrays.pop("hidden")
    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64)
    gelu = (lambda x: jax.nn.gelu(x, approximate=False)) if kind == "own" else quartic_gelu
    names = sorted(arrays)
    if not compiled:  # the file has the division in the query's weights
        arrays |= {name: arrays[name] * head_size(sizes, arrays) ** 0.5 for name in names if ".query." in name}

    def program(hidden: Any, *tensors: Any) -> Any:
        return classify(dict(zip(names, tensors, strict=True)), hidden, sizes, gelu, compiled=compiled)

    flat = [np.asarray(each, np.float32) for each in (hidden, *(arrays[name] for name in names))]
    labels = [f"in{index}" for index in range(len(flat))]
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        program,
        flat,
        {},
        labels,
        [libspu.Visibility.VIS_SECRET] * len(flat),
        lambda outs: [f"out{index}" for index in range(len(outs))],
        copts=libspu.CompilerOptions(enable_optimize_denominator_with_broadcast=compiled),
    )
    results, seconds, processor = run_parties(executable, flat, api.Io(PARTIES, config), config)
    found = {"logits": [float(value) for value in results[0]], "seconds": seconds, "processorSeconds": processor}
    Path(out).write_text(json.dumps({**found, "version": spu.__version__}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
