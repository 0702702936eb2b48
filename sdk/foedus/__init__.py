"""The command line and Python SDK of Foedus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foedus.inference.answer import Inference
    from foedus.inference.show import Show

__all__ = ["infer"]


def infer(
    texts: str | Sequence[str],
    *,
    model: str | Path,
    adapter: str | Path | None = None,
    protocol: str = "Replicated3PC",
    parties: int | None = None,
    state: str | Path = ".foedus",
    show: Show | None = None,
) -> Inference:
    """Label texts by a model, with parties on this machine of which none sees texts or weights.

    `protocol` and `parties` (by default the protocol's own number) say who computes, as `foedus infer` has them.
    `model` is a folder with config.json, or an installed package (`PACKAGE[:FOLDER]`); `adapter` a folder such as
    `foedus run` leaves. Below `state` lies what the parties need, for as long as this runs. Blocks until all texts are
    answered, in their order; where an event loop runs already, await `foedus.inference.local.infer_local` instead.

    Raises FoedusError, whose `str()` says in one line what is wrong, where, and what to do; processes and shares are
    gone then, too. Private as long as `Inference.assumption` holds; that all parties run on one machine makes it a
    demonstration.
    """
    import asyncio

    from foedus.inference.command import check_texts
    from foedus.inference.source import find_model, require_torch

    require_torch()
    from foedus.inference.local import Request, infer_local
    from foedus.inference.show import Silent

    asked = check_texts((texts,) if isinstance(texts, str) else tuple(texts))
    folder = None if adapter is None else Path(adapter)
    request = Request(asked, find_model(str(model)), folder, Path(state), protocol, parties)
    return asyncio.run(infer_local(request, show or Silent(), os.environ))
