"""Local servers to try the package without a key or cost, and sample data.

`simulator` speaks OpenAI's wire format and enforces its limits, with made-up answers; `model` is a real, small language
model; `reviews` is a DataFrame to label. The servers are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    import pandas as pd

    from parallel_openai.local import model as model
    from parallel_openai.local import simulator as simulator

__all__ = ["model", "reviews", "simulator"]
_MODULES = ("model", "simulator")


def reviews() -> pd.DataFrame:
    """Sixty reviews written for this project, each with its correct label in `gold`.

    >>> list(reviews().columns)
    ['id', 'text', 'gold']
    """
    from parallel_openai.local.demo import read_reviews

    return read_reviews()


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
