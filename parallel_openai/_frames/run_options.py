"""What a call says about the run itself, and not about the question."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from parallel_openai._batch.lane_options import Lane
from parallel_openai._run.spending.budget import Funds


@dataclass(frozen=True, kw_only=True)
class Options:
    """As the public functions document them."""

    verb: Literal["process", "label", "embed"] = "process"
    save_to: str | os.PathLike[str] | None = None
    retry_failed: bool = True
    prefix: str = ""
    progress: bool = True
    repair: bool | int = False
    budget_usd: float | Funds | None = None
    budget_tokens: int | None = None
    deadline: float | None = None
    lane: Lane = "online"
    resubmit: bool = False
    explode: bool = False
