"""What differs between the API's endpoints: the path, the body, and where the answer stands in the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_openai.errors import InvalidInputError
from parallel_openai.records import Usage

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The part of a response that the caller asked for.

    Attributes:
        text: the answer; None where there is none.
        finish_reason: why the model stopped, as the API says it.
        model: the model that answered, by the server's name for it.
        error_code: why it is no answer, although the server was content (`empty`, `truncated`, `refused`,
            `content_filter`); None when it is one.
        error: the same as a sentence.
    """

    text: str | None
    finish_reason: str | None
    model: str | None
    error_code: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the API's endpoints.

    Attributes:
        name: as the OpenAI SDK writes it, `chat.completions`.
        path: below the base URL.
    """

    name: str
    path: str

    def body(self, messages: Messages, model: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
        """The request's JSON: the model, the messages, and the caller's parameters as they are."""
        body: dict[str, Any] = {} if model is None else {"model": model}
        body["messages"] = messages
        body.update(params)
        return body

    def read(self, response: Mapping[str, Any]) -> Answer:
        """What a response says, and whether it is an answer at all."""
        return _read_chat(response)

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        """The answers of a response with several choices (`n`), in the order of the choices."""
        choices = response.get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            return [self.read(response)]
        return [self.read({**response, "choices": [choice]}) for choice in choices]


CHAT = Endpoint("chat.completions", "chat/completions")
ENDPOINTS = {CHAT.name: CHAT}


def endpoint(name: str) -> Endpoint:
    """The endpoint of that name.

    >>> endpoint("chat.completions").path
    'chat/completions'
    """
    try:
        return ENDPOINTS[name]
    except KeyError:
        raise InvalidInputError(f"No endpoint {name!r}; there are: {', '.join(ENDPOINTS)}.") from None


def _read_chat(response: Mapping[str, Any]) -> Answer:
    model = _model(response)
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Answer(None, None, model, "empty", "The response has no choices with a message.")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        reason = None
    content, refusal = _text(message.get("content")), message.get("refusal")
    if refusal:
        return Answer(None, reason, model, "refused", f"The model refused: {str(refusal)[:500]}")
    if reason == "content_filter":
        return Answer(content or None, reason, model, "content_filter", "The answer was cut by the content filter.")
    if reason == "length":
        return Answer(content or None, reason, model, "truncated", _truncated(content, response))
    if not content and not message.get("tool_calls") and not message.get("function_call"):
        return Answer(None, reason, model, "empty", f"The model answered with nothing (finish_reason {reason!r}).")
    return Answer(content or None, reason, model)


def _truncated(content: str, response: Mapping[str, Any]) -> str:
    usage = usage_of(response)
    if not content and usage is not None and usage.reasoning_tokens:
        return (
            f"All {usage.completion_tokens} tokens went into reasoning and none was left for the answer. "
            "Raise max_completion_tokens or lower reasoning_effort."
        )
    spent = f" after {usage.completion_tokens} tokens" if usage is not None else ""
    return f"The answer was cut off{spent}. Raise max_completion_tokens (max_tokens on older servers)."


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # some servers answer in parts
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ""


def _model(response: Mapping[str, Any]) -> str | None:
    model = response.get("model")
    if not isinstance(model, str):
        return None
    return f"{model} (simulated)" if is_simulated(response) else model


def is_simulated(response: Any) -> bool:
    """Whether a response comes from the simulator and not from a model."""
    return isinstance(response, Mapping) and response.get("system_fingerprint") == "simulated"


def usage_of(response: Any) -> Usage | None:
    """What a response of any endpoint says it took, or None when it does not say.

    >>> usage_of({"usage": {"prompt_tokens": 9, "completion_tokens": 2}}).total_tokens
    11
    """
    usage = response.get("usage") if isinstance(response, Mapping) else None
    if not isinstance(usage, dict):
        return None
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    completion_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    return Usage(
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
        _count(completion_details, "reasoning_tokens"),
        _count(prompt_details, "cached_tokens"),
    )


def _count(fields: Any, *names: str) -> int:
    if isinstance(fields, dict):
        for name in names:
            value = fields.get(name)
            if isinstance(value, int) and 0 <= value < 2**63:
                return value
    return 0
