"""The `usage` of an answer, as OpenAI reports it or in the format of another server."""

from __future__ import annotations

from typing import Any

from parallel_openai.local.simulator.settings import Settings

CHAT = ("prompt_tokens", "completion_tokens")
RESPONSES = ("input_tokens", "output_tokens")


def usage_of(settings: Settings, names: tuple[str, str], prompt: int, completion: int, reasoning: int) -> Any:
    """The `usage` of an answer; `completion` includes the `reasoning` tokens.

    >>> usage_of(Settings(usage="total_alone"), CHAT, 10, 2, 0)
    {'total_tokens': 12}
    """
    prompt_name, completion_name = names
    separate = settings.usage in ("beside", "in_total")
    usage = {
        prompt_name: prompt,
        completion_name: completion - reasoning if separate else completion,
        "total_tokens": prompt + completion,
        f"{prompt_name}_details": _prompt_details(settings, prompt),
        f"{completion_name}_details": {
            "reasoning_tokens": 0 if separate else reasoning,
            "audio_tokens": int(settings.sound_share * completion),
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if settings.usage == "beside":
        del usage["total_tokens"]
        return {**usage, "reasoning_tokens": reasoning}
    return in_format(settings, usage)


def in_format(settings: Settings, usage: dict[str, Any]) -> Any:
    """The usage in the format of `settings.usage`."""
    if settings.usage == "total_alone":
        return {"total_tokens": usage["total_tokens"]}
    if settings.usage == "text":
        return _as_strings(usage)
    if settings.usage == "nested":
        return {"tokens": usage}
    return None if settings.usage == "missing" else usage


def _prompt_details(settings: Settings, prompt: int) -> dict[str, int]:
    return {
        "cached_tokens": int(settings.cached_share * prompt),
        "cache_write_tokens": int(settings.written_share * prompt),
        "audio_tokens": int(settings.sound_share * prompt),
    }


def _as_strings(value: Any) -> Any:
    return {name: _as_strings(each) for name, each in value.items()} if isinstance(value, dict) else str(value)
