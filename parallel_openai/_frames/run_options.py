"""The options of a call that concern the run and not the question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from parallel_openai._batch.lane_options import Lane
from parallel_openai._run.spending.funds import Funds

Verb = Literal["process", "label", "embed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """As the public functions document them."""

    verb: Verb = "process"
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

    @classmethod
    def of(cls, verb: Verb, arguments: Mapping[str, Any]) -> Options:
        """The options among a call's arguments."""
        names = {each.name for each in fields(cls)}
        return cls(verb=verb, **{name: value for name, value in arguments.items() if name in names})
