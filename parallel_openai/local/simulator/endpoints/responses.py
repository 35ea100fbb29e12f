"""Responses: validation, and the answer as a list of items."""

from __future__ import annotations

import random
import time
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting, endpoint, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.endpoints.logprobs import logprobs_of
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

_PARAMETERS = (
    "background conversation include input instructions max_output_tokens max_tool_calls metadata model "
    "parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning "
    "safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p "
    "truncation user"
)
PARAMETERS = frozenset(_PARAMETERS.split())
PARTS = ("input_text", "input_image", "output_text", "refusal", "input_file", "computer_screenshot", "summary_text")
ROLES = ("assistant", "system", "developer", "user")
LOGPROBS = "message.output_text.logprobs"
MIN_OUTPUT_TOKENS = 16


def read(body: dict[str, Any], settings: Settings) -> ParsedBody:
    """Validate the body.

    >>> read({"model": "gpt-5-mini", "input": "Hi.", "instructions": "Be brief."}, Settings()).prompt_tokens
    10
    """
    checks.known_parameters(body, PARAMETERS)
    checks.no_stream(body)
    model = checks.model(body, settings.models)
    items = _items(body.get("input"))
    checks.number(body, "max_output_tokens", MIN_OUTPUT_TOKENS, None, whole=True)
    checks.number(body, "temperature", 0, 2)
    checks.number(body, "top_p", 0, 1)
    checks.number(body, "top_logprobs", 0, 20, whole=True)
    checks.metadata(body)
    checks.reasoning(body, model)
    _format(body)
    _tools(body)
    if not isinstance(body.get("instructions"), (str, type(None))):
        raise checks.wrong_type("instructions", "a string", body["instructions"])
    if body.get("instructions"):
        items = [{"role": "developer", "content": body["instructions"]}, *items]
    parts = [*counting.texts(items), *(item["output"] for item in items if isinstance(item.get("output"), str))]
    images = counting.images(items) * counting.TOKENS_PER_IMAGE
    prompt_tokens = sum(counting.tokens(part) for part in parts) + images + 3 * len(items)
    checks.context_length(prompt_tokens, settings.context_length)
    return ParsedBody(
        body={**body, "input": items},
        model=model,
        prompt=parts[-1] if parts else "",
        prompt_tokens=prompt_tokens,
        max_output=body.get("max_output_tokens"),
    )


def _items(given: Any) -> list[dict[str, Any]]:
    if given is None:
        raise checks.missing("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise checks.wrong_type("input", "one of a string or array of input items", given)
    for at, item in enumerate(given):
        _item(item, f"input[{at}]")
    return given


def _item(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise checks.wrong_type(where, "an object", item)
    if item.get("type", "message") != "message":
        return
    if item.get("role") not in ROLES:
        raise checks.invalid_value(item.get("role"), ROLES, f"{where}.role")
    content = item.get("content")
    if not isinstance(content, (str, list)):
        raise checks.wrong_type(f"{where}.content", "one of an array of objects or string", content)
    for at, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS:
            raise checks.invalid_value(kind, PARTS, f"{where}.content[{at}].type")


def _format(body: dict[str, Any]) -> None:
    text = body.get("text") or {}
    if not isinstance(text, dict):
        raise checks.wrong_type("text", "an object", text)
    given = text.get("format") or {"type": "text"}
    kind = checks.format_kind(given, "text.format.type")
    if kind == "json_object" and "json" not in str(body["input"]).casefold():
        message = (
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'."
        )
        raise Refusal(400, message, param="input")
    if kind == "json_schema":
        checks.json_schema(given, "text.format")


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise checks.wrong_type("tools", "an array of objects", tools)
    for at, each in enumerate(tools):
        if not isinstance(each, dict) or "type" not in each:
            raise checks.missing(f"tools[{at}].type")
        if each["type"] == "function" and not each.get("name"):
            raise checks.missing(f"tools[{at}].name")


def answer(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> Answer:
    body = parsed.body
    completion = _complete(parsed, settings, rng, flaw)
    reasoning_tokens = (parsed.max_output or 256) if flaw == "length" else settings.thoughts
    output_tokens = completion.tokens + reasoning_tokens
    response = {
        "id": f"resp_simulated{rng.getrandbits(128):032x}",
        "object": "response",
        "created_at": int(time.time()),
        **_status(completion),
        "error": None,
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": parsed.max_output,
        "max_tool_calls": None,
        "model": parsed.model,
        "output": [*_reasoning(parsed.model, rng), *_output(completion, parsed, rng)],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": endpoint.service_tier(body),
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage.usage_of(settings, usage.RESPONSES, parsed.prompt_tokens, output_tokens, reasoning_tokens),
        "user": None,
        "metadata": body.get("metadata") or {},
        "system_fingerprint": "simulated",  # not a field of this endpoint, but every simulated answer has it
    }
    return Answer(response, parsed.prompt_tokens, output_tokens)


def _complete(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> answers.Completion:
    body = parsed.body
    functions = [each for each in body.get("tools") or () if each.get("type") == "function"]
    answers_tool = body["input"][-1].get("type") == "function_call_output" if body["input"] else False
    tool = None if answers_tool else answers.tool(functions, body.get("tool_choice"), parsed.prompt, rng)
    if tool is not None and flaw is None:
        return answers.Completion(None, tool=tool)
    return answers.complete(
        _response_format(body), parsed.prompt, settings, rng, max_output=parsed.max_output, flaw=flaw
    )


def _response_format(body: dict[str, Any]) -> dict[str, Any] | None:
    """`text.format` in the form of chat completions' `response_format`."""
    given: dict[str, Any] | None = (body.get("text") or {}).get("format")
    return {"type": "json_schema", "json_schema": given} if given and given["type"] == "json_schema" else given


def _status(completion: answers.Completion) -> dict[str, Any]:
    if completion.finish_reason == "stop":
        return {"status": "completed", "incomplete_details": None}
    reason = "max_output_tokens" if completion.finish_reason == "length" else completion.finish_reason
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _reasoning(model: str, rng: random.Random) -> list[dict[str, Any]]:
    if not checks.REASONING.match(model):
        return []
    return [{"type": "reasoning", "id": f"rs_simulated{rng.getrandbits(64):016x}", "summary": []}]


def _output(completion: answers.Completion, parsed: ParsedBody, rng: random.Random) -> list[dict[str, Any]]:
    number = f"simulated{rng.getrandbits(64):016x}"
    if completion.tool is not None:
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
        return [{**call, "name": completion.tool.name, "arguments": completion.tool.arguments}]
    if completion.finish_reason == "length" and not completion.text:
        return []
    if completion.refusal is not None:
        part: dict[str, Any] = {"type": "refusal", "refusal": completion.refusal}
    else:
        logprobs = _logprobs(completion.text or "", parsed, rng)
        part = {"type": "output_text", "text": completion.text, "annotations": [], "logprobs": logprobs}
    status = "completed" if completion.finish_reason == "stop" else "incomplete"
    message = {"type": "message", "id": f"msg_{number}", "status": status, "role": "assistant", "content": [part]}
    return [message]


def _logprobs(text: str, parsed: ParsedBody, rng: random.Random) -> list[dict[str, Any]]:
    if LOGPROBS not in (parsed.body.get("include") or ()):
        return []
    top = parsed.body.get("top_logprobs") or 0
    tokens: list[dict[str, Any]] = logprobs_of(text, parsed.prompt, _response_format(parsed.body), top, rng)["content"]
    return tokens


RESPONSES = Endpoint("/v1/responses", read, answer)
