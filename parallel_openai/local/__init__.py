"""Servers on this machine: a `simulator` of the API and its limits, and a real small `model`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallel_openai.local import model, simulator

__all__ = ["model", "simulator"]


def __getattr__(name: str) -> Any:
    # Neither is needed by those who only call the API, so each is imported at its first use.
    if name in __all__:
        return import_module(f"parallel_openai.local.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
