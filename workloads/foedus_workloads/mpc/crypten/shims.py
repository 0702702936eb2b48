"""CrypTen 0.4.1 under a torch that it does not know: its shares and Beaver's protocol, and nothing else of it.

Importing the whole of CrypTen fails on this torch, and brings in what must not be reached: a provider of randomness
that is one of the parties, the replicated protocol that shows products unmasked, gloo without TLS, pickle, torch's
generators. So the packages above its modules are put in place empty, the modules that open, draw or configure are
replaced, and any other module of CrypTen is refused by name. What is left opens only inside of `one_opening`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, Protocol

from torch import Tensor
from torch.distributed import ReduceOp

from foedus_contract.errors import Unavailable

VERSION = "0.4.1"
# What of CrypTen is run as it is.
KEPT = frozenset(
    {
        "crypten.common.functions.regular",
        "crypten.common.tensor_types",
        "crypten.common.util",
        "crypten.cuda",
        "crypten.cuda.cuda_tensor",
        "crypten.encoder",
        "crypten.mpc.primitives",
        "crypten.mpc.primitives.arithmetic",
        "crypten.mpc.primitives.beaver",
        "crypten.mpc.primitives.binary",
        "crypten.mpc.primitives.circuit",
    }
)
_EMPTY_PACKAGES = ("crypten", "crypten.common", "crypten.common.functions", "crypten.mpc")


class Communicator(Protocol):
    """What CrypTen's protocols ask of the world: who they are, and to open."""

    def get_rank(self) -> int:
        """Return this party's number."""
        ...

    def get_world_size(self) -> int:
        """Return the number of parties."""
        ...

    def all_reduce(self, values: Any, op: Any = ReduceOp.SUM, *, batched: bool = False) -> Any:
        """Return what all parties' values add up to, or come to by XOR."""
        ...


class Provider(Protocol):
    """Where CrypTen's protocols get their correlated randomness from: shares that are already dealt."""

    def generate_additive_triple(self, left: Any, right: Any, op: str, *, device: Any = None) -> tuple[Any, ...]:
        """Return shares of a, b and op(a, b)."""
        ...

    def square(self, size: Any, *, device: Any = None) -> tuple[Any, ...]:
        """Return shares of a and its square."""
        ...

    def generate_binary_triple(self, left: Any, right: Any, *, device: Any = None) -> tuple[Any, ...]:
        """Return Boolean shares of a, b and a AND b."""
        ...


@dataclass(frozen=True)
class _Place:
    communicator: Communicator
    provider: Provider


_HERE: ContextVar[_Place | None] = ContextVar("crypten", default=None)


@contextmanager
def one_opening(communicator: Communicator, provider: Provider) -> Iterator[None]:
    """Let CrypTen's code inside speak and draw through these two, in this thread alone."""
    token = _HERE.set(_Place(communicator, provider))
    try:
        yield
    finally:
        _HERE.reset(token)


def _place() -> _Place:
    place = _HERE.get()
    if place is None:
        raise RuntimeError("CrypTen opens and draws inside of `one_opening` alone")
    return place


class _Finder(importlib.abc.MetaPathFinder):
    """Refuses every module of CrypTen that is not kept, whoever asks for it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return None for other packages and for what is kept; raises ImportError for the rest."""
        if fullname.partition(".")[0] == "crypten" and fullname not in KEPT:
            raise ImportError(f"{fullname} is not part of what Foedus runs of CrypTen", name=fullname)
        return None


@dataclass(frozen=True)
class _Encoder:
    precision_bits: int = 0  # a share is an integer mod 2^64; where its point is, this package knows


@dataclass(frozen=True)
class _Mpc:
    protocol: str = "beaver"
    active_security: bool = False  # it checks triples and nothing that is opened: no protection


@dataclass(frozen=True)
class _Debug:
    debug_mode: bool = False
    validation_mode: bool = False  # it would open secrets


@dataclass(frozen=True)
class _Settings:
    """What CrypTen reads of its configuration: fixed here, no file and no variable changes it."""

    encoder: _Encoder = field(default_factory=_Encoder)
    mpc: _Mpc = field(default_factory=_Mpc)
    debug: _Debug = field(default_factory=_Debug)


class _NeverMade:
    """In place of CrypTen's autograd tensor, of which its shares only ask whether they are given one."""

    def __init__(self) -> None:
        raise RuntimeError("CrypTen's autograd tensors are not part of Foedus")


def _no_randomness(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("CrypTen's generators are not cryptographic; shares are drawn by `deals`")


def _replacements() -> dict[str, dict[str, Any]]:
    return {
        "crypten.communicator": {"get": lambda: _place().communicator},
        "crypten.config": {"cfg": _Settings()},
        "crypten.cryptensor": {"CrypTensor": _NeverMade},
        "crypten.common.rng": {
            "generate_random_ring_element": _no_randomness,
            "generate_kbit_random_tensor": _no_randomness,
        },
        "crypten.mpc.primitives.replicated": {},  # the protocol's name finds a module without a protocol
    }


def _install() -> None:
    found = importlib.util.find_spec("crypten")
    version = importlib.metadata.version("crypten") if found is not None else "none"
    if found is None or found.submodule_search_locations is None or version != VERSION:
        raise Unavailable(
            f"the protocol CrypTen needs crypten {VERSION}; installed is {version}",
            cure=f"pip install --no-deps crypten=={VERSION}",
        )
    if "crypten" in sys.modules:
        raise RuntimeError("another CrypTen is in this process already")
    (root,) = found.submodule_search_locations
    for name in _EMPTY_PACKAGES:
        package = ModuleType(name)
        package.__path__ = ["/".join([root, *name.split(".")[1:]])]
        _seat(name, package)
    for name, content in _replacements().items():
        module = ModuleType(name)
        module.__dict__.update(content)
        _seat(name, module)
    sys.modules["crypten.mpc"].__dict__["get_default_provider"] = lambda: _place().provider
    sys.meta_path.insert(0, _Finder())


def _seat(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    above, _, own = name.rpartition(".")
    if above in sys.modules:
        setattr(sys.modules[above], own, module)


_install()

# Only now, and through the finder above.
from crypten.mpc.primitives import ArithmeticSharedTensor, BinarySharedTensor, beaver  # noqa: E402


def arithmetic(share: Tensor) -> Any:
    """Return a party's share as CrypTen's arithmetic share of integers."""
    return ArithmeticSharedTensor.from_shares(share, precision=0)


def boolean(share: Tensor) -> Any:
    """Return a party's share as CrypTen's Boolean share of words."""
    return BinarySharedTensor.from_shares(share, precision=0)


PROTOCOLS = SimpleNamespace(
    multiply=beaver.mul, matrix_product=beaver.matmul, square=beaver.square, conjunction=beaver.AND
)
