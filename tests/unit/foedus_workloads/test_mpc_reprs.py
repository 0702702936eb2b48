"""What shows in a traceback or a log line of an object: nothing that is shared, drawn or received."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re

import foedus_workloads.inference
import foedus_workloads.mpc

SECRET = re.compile(r"\b(Tensor|bytes|Payload|Buffer|Factor|Factors|ndarray|Shares)\b")
# A seed that all parties are told, headers, and factors that hide what they hold themselves.
PUBLIC = {"Coins.seed", "Send.header", "Adapter.factors"}


def shown(package):
    """Yield the fields of the package's dataclasses that their repr shows and whose type could hold a secret."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name:
                for field in dataclasses.fields(kind):
                    if field.repr and SECRET.search(str(field.type)) and "Callable" not in str(field.type):
                        yield f"{kind.__name__}.{field.name}"


def test_no_repr_shows_what_could_be_secret():
    found = {name for package in (foedus_workloads.mpc, foedus_workloads.inference) for name in shown(package)}
    assert found <= PUBLIC
    assert "Coins.seed" in found  # the look itself works
