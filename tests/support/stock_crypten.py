"""What CrypTen 0.4.1 does as it comes: run in a process of its own, it prints one JSON object.

Packages that it imports and does not need for this are stood in for, and the module of torch that is gone.
"""

from __future__ import annotations

import ast
import copy
import json
import sys
from types import ModuleType, SimpleNamespace

MISSING = (
    "omegaconf",
    "onnx",
    "onnx.numpy_helper",
    "tensorboard",
    "torch.onnx.symbolic_registry",
    "torch.utils.tensorboard",
    "torch.utils.tensorboard._pytorch_graph",
    "torch.utils.tensorboard.writer",
    "torchvision",
    "torchvision.datasets",
)


class StandIn(ModuleType):
    """A module that has every class that is asked for."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def spaces(values: dict) -> SimpleNamespace:
    return SimpleNamespace(**{key: spaces(each) if isinstance(each, dict) else each for key, each in values.items()})


class OmegaConf:
    """As much of it as CrypTen uses to override a setting."""

    create = staticmethod(spaces)
    from_dotlist = staticmethod(lambda pairs: dict(pair.split("=") for pair in pairs))

    @staticmethod
    def merge(settings: SimpleNamespace, changes: dict) -> SimpleNamespace:
        settings = copy.deepcopy(settings)
        for path, text in changes.items():
            *parents, last = path.split(".")
            at = settings
            for parent in parents:
                at = getattr(at, parent)
            try:
                setattr(at, last, ast.literal_eval(text))
            except (ValueError, SyntaxError):
                setattr(at, last, text)
        return settings


def stand_in() -> None:
    for name in MISSING:
        sys.modules[name] = StandIn(name)
    sys.modules["omegaconf"].OmegaConf = OmegaConf


class World:
    """In place of CrypTen's communicator: one of several parties, of which nobody else runs."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.received = rank, size, {}

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return self.size


def at(rank: int, size: int) -> World:
    import crypten.communicator as comm

    world = World(rank, size)
    comm.get = lambda: world
    return world


def truncation_errors(parties: int) -> list[int]:
    """Truncate 2,000 sharings of 2^60 and tell by how much each is off, in units of the last place."""
    import crypten
    import torch
    from crypten.mpc.primitives import ArithmeticSharedTensor, beaver

    count, secret = 2000, 2**60
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)
    others = [draw() for _ in range(parties - 1)]
    shares = [*others, secret - sum(others)]
    masks = [draw() for _ in range(parties)]
    from crypten.common.util import count_wraps

    wraps = count_wraps(masks)
    total = torch.zeros(count, dtype=torch.int64)
    for rank in range(parties):
        world = at(rank, parties)
        world.gather = lambda tensor, dst: [share + mask for share, mask in zip(shares, masks, strict=True)]
        dealt = (
            ArithmeticSharedTensor.from_shares(masks[rank], precision=0),
            ArithmeticSharedTensor.from_shares(wraps if rank == 0 else torch.zeros_like(wraps), precision=0),
        )
        crypten.mpc.get_default_provider = lambda dealt=dealt: SimpleNamespace(wrap_rng=lambda *a, **k: dealt)
        share = ArithmeticSharedTensor.from_shares(shares[rank].clone(), precision=0)
        beaver.__dict__["crypten"] = crypten
        total = total + share.div_(2**16).share
    return sorted({abs(each) for each in (total - secret // 2**16).tolist()})


def squares_at_rank_two() -> list[list[int]]:
    """Square the same shares twice under `replicated`; return what rank 1 sends on each time."""
    import torch
    from crypten.mpc.primitives import ArithmeticSharedTensor, replicated

    x = [torch.tensor([11]), torch.tensor([22]), torch.tensor([33])]
    sent = []
    for _ in range(2):
        world = at(1, 3)
        request = SimpleNamespace(wait=lambda: None)
        world.isend = lambda tensor, dst, request=request: request
        world.irecv = lambda tensor, src, request=request: (tensor.copy_(x[src]) and None) or request
        sent.append(replicated.square(ArithmeticSharedTensor.from_shares(x[1], precision=0)).share.tolist())
    return sent


def highest_drawn() -> int:
    """Return the first integer that CrypTen's uniform draw never reaches."""
    import crypten
    import torch
    from crypten.common import rng

    asked, original = [], torch.randint
    rng.torch.randint = lambda low, high, size, **kinds: asked.append(high) or original(low, high, size, **kinds)
    rng.generate_random_ring_element((1,), generator=torch.Generator())
    rng.torch.randint = original
    assert crypten
    return asked[0]


class Alone(World):
    """A world of one party, in which opening is looking."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def all_reduce(self, values: object, op: object = None, batched: bool = False) -> object:
        return values


def functions() -> dict[str, list[float]]:
    import crypten
    import crypten.communicator as comm
    import torch

    comm.get = Alone
    for key in crypten.generators:
        crypten.generators[key][torch.device("cpu")] = torch.Generator().manual_seed(1)
    of = lambda values: crypten.cryptensor(torch.tensor(values))
    return {
        "reciprocal": of([1000.0]).reciprocal().get_plain_text().tolist(),
        "inverse root": of([0.01, 200.0]).inv_sqrt().get_plain_text().tolist(),
    }


def unpickled() -> str:
    """Say what CrypTen's messages between parties are made with."""
    import inspect

    from crypten.communicator.distributed_communicator import DistributedCommunicator

    return "pickle" if "pickle.dumps" in inspect.getsource(DistributedCommunicator.send_obj) else "other"


def dealers_calls() -> bool:
    """Tell whether its dealer calls a function of torch that a party names."""
    import inspect

    from crypten.mpc.provider.ttp_provider import TTPServer

    return "getattr(torch, op)" in inspect.getsource(TTPServer)


def main() -> None:
    try:
        import crypten
    except ImportError as error:
        reason = type(error).__name__
    for name in [name for name in sys.modules if name.partition(".")[0] == "crypten"]:
        del sys.modules[name]
    stand_in()
    import crypten

    found = {
        "import": reason,
        "provider": crypten.cfg.mpc.provider,
        "functions": functions(),
        "truncation": {str(parties): truncation_errors(parties) for parties in (2, 3)},
        "squares": squares_at_rank_two(),
        "beyond": highest_drawn(),
        "messages": unpickled(),
        "dealer calls by name": dealers_calls(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
