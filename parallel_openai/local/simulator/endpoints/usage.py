"""What an answer says that it took: as OpenAI tells it, or in the way of a server that counts otherwise."""

from __future__ import annotations

from typing import Any

from parallel_openai.local.simulator.settings import Settings

CHAT = ("prompt_tokens", "completion_tokens")
RESPONSES = ("input_tokens", "output_tokens")


def told(settings: Settings, names: tuple[str, str], prompt: int, completion: int, thoughts: int) -> Any:
    """The `usage` of an answer, whose `completion` holds the `thoughts`.

    >>> told(Settings(usage="total_alone"), CHAT, 10, 2, 0)
    {'total_tokens': 12}
    """
    way = settings.usage
    reads, writes = names
    shown = completion - thoughts if way in ("beside", "in_total") else completion
    whole = {
        reads: prompt,
        writes: shown,
        "total_tokens": prompt + completion,
        f"{reads}_details": _prompt_details(settings, prompt),
        f"{writes}_details": {
            "reasoning_tokens": 0 if way in ("beside", "in_total") else thoughts,
            "audio_tokens": int(settings.sound_share * completion),
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if way == "beside":
        del whole["total_tokens"]
        return {**whole, "reasoning_tokens": thoughts}
    return dressed(settings, whole)


def dressed(settings: Settings, usage: dict[str, Any]) -> Any:
    """A usage record as the settings have it told."""
    if settings.usage == "total_alone":
        return {"total_tokens": usage["total_tokens"]}
    if settings.usage == "text":
        return _as_text(usage)
    if settings.usage == "nested":
        return {"tokens": usage}
    return None if settings.usage == "missing" else usage


def _prompt_details(settings: Settings, prompt: int) -> dict[str, int]:
    return {
        "cached_tokens": int(settings.cached_share * prompt),
        "cache_write_tokens": int(settings.written_share * prompt),
        "audio_tokens": int(settings.sound_share * prompt),
    }


def _as_text(value: Any) -> Any:
    return {name: _as_text(each) for name, each in value.items()} if isinstance(value, dict) else str(value)
