"""What every endpoint says alike, give or take the spelling: what a response took, and who gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallel_openai.records import Usage


def usage_of(response: Any) -> Usage | None:
    """What a response of any endpoint says it took, or None when it does not say.

    >>> usage_of({"usage": {"prompt_tokens": 9, "completion_tokens": 2}}).total_tokens
    11
    """
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    completion_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    return Usage(
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
        _count(completion_details, "reasoning_tokens") if isinstance(completion_details, dict) else 0,
        _count(prompt_details, "cached_tokens") if isinstance(prompt_details, dict) else 0,
    )


def is_simulated(response: Any) -> bool:
    """Whether a response comes from the simulator and not from a model."""
    return isinstance(response, dict) and response.get("system_fingerprint") == "simulated"


def model_of(response: Mapping[str, Any]) -> str | None:
    """Who answered, by the server's name for it, with a word where it is the simulator."""
    model = response.get("model")
    if not isinstance(model, str):
        return None
    return f"{model} (simulated)" if is_simulated(response) else model


def _count(fields: dict[str, Any], *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and 0 <= value < _TOO_MANY:
            return value
    return 0


#: What no column of whole numbers holds.
_TOO_MANY = 2**63
