"""The chat completions endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_openai._json import dumps
from parallel_openai._requests.endpoints.base import (
    Answer,
    Endpoint,
    cut_short,
    in_turn,
    joined_texts,
    list_of,
    mappings,
    names_in,
    text_of_part,
    truncated,
)
from parallel_openai._requests.endpoints.usage import model_of, usage_of
from parallel_openai._requests.template import (
    BadPromptError,
    check_system,
    check_whole,
    kind_of,
    to_messages,
)

#: Fields of content parts.
_OF_PARTS = frozenset({"type", "text"})


class Chat(Endpoint):
    name = "chat.completions"
    path = "chat/completions"
    own = frozenset({"messages"})
    parameters = names_in(
        """
        audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
        messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty
        prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format
        safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
        top_logprobs top_p user verbosity web_search_options
        """
    )
    caps = ("max_completion_tokens", "max_tokens")
    has_system = True
    turns = "messages"
    answers = ("choices", "message")

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        if isinstance(prompt, Mapping) and "role" not in prompt:
            return _whole(prompt, system)
        return {"messages": to_messages(prompt, system)}

    def read(self, response: Mapping[str, Any]) -> Answer:
        choices = response.get("choices")
        return _read(response, choices[0] if isinstance(choices, list) and choices else None)

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        choices = response.get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            return [self.read(response)]
        return [_read(response, choice) for choice in in_turn(choices)]

    def format_params(self, response_format: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"response_format": response_format}


def _whole(body: Mapping[str, Any], system: Any) -> Mapping[str, Any]:
    check_whole(body)
    if system is None:
        return body
    messages = list_of(body.get("messages") or [])
    if not isinstance(messages, (list, tuple)):
        raise BadPromptError("invalid_prompt", f"The body's messages are a {kind_of(messages)}; they must be a list.")
    return {**body, "messages": [{"role": "system", "content": check_system(system, str, list)}, *messages]}


def _read(response: Mapping[str, Any], choice: Any) -> Answer:
    model = model_of(response)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Answer(None, None, model, "empty", "The response has no choices with a message.")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        reason = None
    said, refusal = message.get("content"), message.get("refusal")
    content = (said if isinstance(said, str) else _text(said)) or None
    if isinstance(said, list):
        refusal = refusal or _refusal(said)
    calls, call = message.get("tool_calls"), message.get("function_call")  # the deprecated form of tool_calls
    if not isinstance(calls, list) or not calls:
        calls = [{"type": "function", "function": call}] if call else None
    code, error = None if reason in ("stop", None) else cut_short(reason), None
    if refusal:
        content, code, error = None, "refused", f"The model refused: {str(refusal)[:500]}"
    elif code == "content_filter":
        error = "The answer was cut by the content filter."
    elif code == "truncated":
        error = truncated(content, usage_of(response), Chat.caps)
    elif (content is None or content.isspace()) and calls is None:
        code, error = "empty", f"The model answered with nothing (finish_reason {reason!r})."
    logprobs = choice.get("logprobs")
    logprobs = logprobs.get("content") if isinstance(logprobs, dict) else None
    logprobs = logprobs if isinstance(logprobs, list) else None
    return Answer(content, reason, model, code, error, content, calls, logprobs, _reasoning(message))


def _text(content: Any) -> str:
    """The text of content that some servers return as parts, without reasoning, images, refusals and sources; or the
    JSON of an object that is no part, but an answer in JSON which a gateway has parsed.
    """
    if isinstance(content, dict) and content and not content.keys() & _OF_PARTS:
        return dumps(content).decode()
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else text_of_part(part) for part in parts)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """The reasoning under DeepSeek's, vLLM's, OpenRouter's and Groq's names, or in Mistral's and Anthropic's parts."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str):
            return message[name] or None
    if not isinstance(message.get("content"), list):
        return None
    parts = [part for part in mappings(message["content"]) if part.get("type") in ("thinking", "reasoning")]
    contents = [part.get("thinking") or part.get("text") or part.get("reasoning") for part in parts]
    return joined_texts([_text(each) for each in contents if each])


def _refusal(parts: Sequence[Any]) -> Any:
    return next((part.get("refusal") for part in mappings(parts) if part.get("type") == "refusal"), None)
