"""The responses endpoint: items in and out; the text of output messages is the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_openai._requests.endpoints.base import (
    Answer,
    Endpoint,
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
    check_text,
    check_whole,
    kind_of,
)
from parallel_openai.errors import InvalidInputError

#: Items that ask the caller to run a tool.
_CALLS = frozenset({"function_call", "custom_tool_call"})
#: The answer is partial if the response has one of these.
_UNFINISHED = ("failed", "cancelled", "in_progress", "queued")


class Responses(Endpoint):
    name = "responses"
    path = "responses"
    own = frozenset({"input"})
    parameters = names_in(
        """
        access_programs background background_options context_management conversation image include input
        instructions max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls
        previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
        safety_identifier service_tier store stream stream_options temperature text tool_choice tools
        top_logprobs top_p truncation user
        """
    )
    caps = ("max_output_tokens",)
    has_system = True
    turns = "input"
    answers = ("output", None)

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        prompt = list_of(prompt)
        lead = {} if system is None else {"instructions": check_system(system, str)}
        if isinstance(prompt, Mapping) and not _is_item(prompt):
            check_whole(prompt)
            return {**lead, **prompt}
        if isinstance(prompt, Mapping):
            prompt = [prompt]
        if isinstance(prompt, str):
            return {**lead, "input": check_text(prompt)}
        if isinstance(prompt, (list, tuple)) and prompt and all(map(_is_item, prompt)):
            return {**lead, "input": list(prompt)}
        raise BadPromptError(
            "invalid_prompt",
            f"The prompt is a {kind_of(prompt)}; it must be a string, a list of messages and other input items or a "
            "request body.",
        )

    def has_answer(self, response: Mapping[str, Any]) -> bool:
        # A background response has none yet, and a retry would run it twice.
        return response.get("status") in ("queued", "in_progress") or super().has_answer(response)

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        return [_read(response)]

    def format_params(self, response_format: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        text = params.get("text") or {}
        if not isinstance(text, Mapping) or "format" in text:
            raise InvalidInputError(f"Both response_format= and text= set the answer's format: {text!r:.200}.")
        flat = {**response_format, **response_format.get("json_schema", {})}
        flat.pop("json_schema", None)
        return {"text": {**text, "format": flat}}

    def _turns(self, body: Mapping[str, Any]) -> Sequence[Any] | None:
        if isinstance(body.get("input"), str):
            return [{"role": "user", "content": body["input"]}]
        return super()._turns(body)


def _is_item(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "type" in value)


def _read(response: Mapping[str, Any]) -> Answer:
    model, usage = model_of(response), usage_of(response)
    items = mappings(response.get("output"))
    contents = [item.get("content") for item in items if item.get("type") == "message"]
    # A gateway may return a string instead of a list of parts.
    parts = [part for said in contents for part in ([{"text": said}] if isinstance(said, str) else mappings(said))]
    text = "".join(map(text_of_part, parts)) or None
    refusal = next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)
    calls = [item for item in items if str(item.get("type")) in _CALLS] or None
    logprobs = [each for part in parts for each in mappings(part.get("logprobs"))] or None
    status, details = response.get("status"), response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    ended = _finish_reason(status, reason, calls is not None)
    code = error = None
    if refusal:
        text, code, error = None, "refused", f"The model refused: {str(refusal)[:500]}"
    elif reason == "content_filter":
        code, error = "content_filter", "The answer was cut by the content filter."
    elif status == "incomplete":
        code, error = "truncated", truncated(text, usage, Responses.caps)
    elif (text is None or text.isspace()) and calls is None:
        code, error = "empty", f"The model answered with nothing (status {status!r})."
    elif status in _UNFINISHED:
        code, error = "unfinished", f"The model's answer is not whole (status {status!r})."
    reasoning = _reasoning([item for item in items if item.get("type") == "reasoning"])
    return Answer(text, ended, model, code, error, text, calls, logprobs, reasoning)


def _reasoning(items: Sequence[Mapping[str, Any]]) -> str | None:
    """OpenAI returns summaries of the reasoning, other servers its content."""
    parts = [part for item in items for name in ("summary", "content") for part in mappings(item.get(name))]
    return joined_texts([part.get("text") for part in parts])


def _finish_reason(status: Any, reason: Any, has_calls: bool) -> str | None:
    """The finish reason as chat completions spell it, so that the column means the same for all endpoints."""
    if status == "incomplete":
        words = {"max_output_tokens": "length", None: "incomplete"}
        return str(words.get(reason, reason)) if reason is None or isinstance(reason, str) else "incomplete"
    if status == "completed":
        return "tool_calls" if has_calls else "stop"
    return status if isinstance(status, str) else None
