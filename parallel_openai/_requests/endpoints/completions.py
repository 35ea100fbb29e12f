"""The legacy completions endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_openai._requests.endpoints.base import (
    Answer,
    Endpoint,
    cut_short,
    in_turn,
    mappings,
    names_in,
    text_or_body,
    truncated,
)
from parallel_openai._requests.endpoints.usage import model_of, usage_of


class Completions(Endpoint):
    name = "completions"
    path = "completions"
    own = frozenset({"prompt"})
    parameters = names_in(
        """
        best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop
        stream stream_options suffix temperature top_p user
        """
    )
    caps = ("max_tokens",)
    default_cap = 16
    answers = ("choices", "text")

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        return text_or_body(prompt, "prompt")

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        model = model_of(response)
        choices = in_turn(mappings(response.get("choices")))
        return [_read(response, choice, model) for choice in choices] or [
            Answer(None, None, model, "empty", "The response has no choices.")
        ]


def _read(response: Mapping[str, Any], choice: Mapping[str, Any], model: str | None) -> Answer:
    said, reason = choice.get("text"), choice.get("finish_reason")
    text = said if isinstance(said, str) and said else None
    if not isinstance(reason, str):
        reason = None
    code, error = cut_short(reason or ""), None
    if code == "content_filter":
        error = "The answer was cut by the content filter."
    elif code == "truncated":
        error = truncated(text, usage_of(response), Completions.caps)
    elif text is None:
        code, error = "empty", f"The model answered with nothing (finish_reason {reason!r})."
    return Answer(text, reason, model, code, error, text, logprobs=_logprobs(choice.get("logprobs")))


def _logprobs(logprobs: Any) -> Sequence[Any] | None:
    """This endpoint's parallel lists in the form of chat completions, one object per token."""
    if not isinstance(logprobs, Mapping):
        return None
    if isinstance(logprobs.get("content"), list):  # llama.cpp answers as chat does
        return logprobs["content"]  # type: ignore[no-any-return]
    columns = [logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens, shares, tops = (column if isinstance(column, list) else [] for column in columns)
    return [
        {
            "token": token,
            "logprob": share,
            "top_logprobs": [{"token": name, "logprob": value} for name, value in _pairs(tops, number)],
        }
        for number, (token, share) in enumerate(zip(tokens, shares, strict=False))
    ]


def _pairs(tops: list[Any], number: int) -> Sequence[tuple[str, Any]]:
    top = tops[number] if number < len(tops) else None
    return tuple(top.items()) if isinstance(top, Mapping) else ()
