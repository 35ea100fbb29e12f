"""Servers to try things on, without a key and without a cost: `simulator` and `model`.

`simulator` speaks OpenAI's wire format and enforces its limits, with made-up answers; `model` is a real small
language model. Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from parallel_openai.local import model as model
    from parallel_openai.local import simulator as simulator

__all__ = ["model", "simulator"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
