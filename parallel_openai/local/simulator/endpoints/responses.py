"""Responses: what the API refuses, and the answer as a list of items."""

from __future__ import annotations

import random
import time
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Asked, Endpoint
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
LEAST_OUTPUT = 16


def read(body: dict[str, Any], settings: Settings) -> Asked:
    """The checked body.

    >>> read({"model": "gpt-5-mini", "input": "Hi.", "instructions": "Be brief."}, Settings()).prompt_tokens
    10
    """
    checks.known_parameters(body, PARAMETERS)
    checks.whole(body)
    model = checks.model(body, settings.models)
    items = _items(body.get("input"))
    checks.number(body, "max_output_tokens", LEAST_OUTPUT, None, whole=True)
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
    return Asked(
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
        supported = ", ".join(f"'{each}'" for each in ROLES)
        message = f"Invalid value: '{item.get('role')}'. Supported values are: {supported}."
        raise Refusal(400, message, code="invalid_value", param=f"{where}.role")
    content = item.get("content")
    if not isinstance(content, (str, list)):
        raise checks.wrong_type(f"{where}.content", "one of an array of objects or string", content)
    for at, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS:
            supported = ", ".join(f"'{each}'" for each in PARTS)
            message = f"Invalid value: '{kind}'. Supported values are: {supported}."
            raise Refusal(400, message, code="invalid_value", param=f"{where}.content[{at}].type")


def _format(body: dict[str, Any]) -> None:
    if "response_format" in body:  # pragma: no cover - an unknown parameter already
        return
    text = body.get("text") or {}
    if not isinstance(text, dict):
        raise checks.wrong_type("text", "an object", text)
    wanted = text.get("format") or {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        message = f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'."
        raise Refusal(400, message, code="invalid_value", param="text.format.type")
    if kind == "json_object" and "json" not in str(body["input"]).casefold():
        message = (
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'."
        )
        raise Refusal(400, message, param="input")
    if kind == "json_schema":
        checks.json_schema(wanted, "text.format")


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


def answer(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> Answer:
    body = asked.body
    said = _say(asked, settings, dice, flaw)
    thought = (asked.max_output or 256) if flaw == "length" else settings.thoughts
    output_tokens = said.tokens + thought
    response = {
        "id": f"resp_simulated{dice.getrandbits(128):032x}",
        "object": "response",
        "created_at": int(time.time()),
        **_ending(said),
        "error": None,
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": asked.max_output,
        "max_tool_calls": None,
        "model": asked.model,
        "output": [*_thinking(asked.model, dice), *_output(said, asked, dice)],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": body["service_tier"] if body.get("service_tier") in ("flex", "priority") else "default",
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage.told(settings, usage.RESPONSES, asked.prompt_tokens, output_tokens, thought),
        "user": None,
        "metadata": body.get("metadata") or {},
        "system_fingerprint": "simulated",  # not a field of this endpoint; every simulated answer bears it
    }
    return Answer(response, asked.prompt_tokens, output_tokens)


def _say(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> answers.Said:
    body = asked.body
    functions = [each for each in body.get("tools") or () if each.get("type") == "function"]
    answers_tool = body["input"][-1].get("type") == "function_call_output" if body["input"] else False
    tool = None if answers_tool else answers.tool(functions, body.get("tool_choice"), asked.prompt, dice)
    if tool is not None and flaw is None:
        return answers.Said(None, tool=tool)
    return answers.say(_wanted(body), asked.prompt, settings, dice, max_output=asked.max_output, flaw=flaw)


def _wanted(body: dict[str, Any]) -> dict[str, Any] | None:
    """The format as chat completions have it."""
    wanted: dict[str, Any] | None = (body.get("text") or {}).get("format")
    return {"type": "json_schema", "json_schema": wanted} if wanted and wanted["type"] == "json_schema" else wanted


def _ending(said: answers.Said) -> dict[str, Any]:
    if said.finish_reason == "stop":
        return {"status": "completed", "incomplete_details": None}
    reason = "max_output_tokens" if said.finish_reason == "length" else said.finish_reason
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _thinking(model: str, dice: random.Random) -> list[dict[str, Any]]:
    if not checks.REASONING.match(model):
        return []
    return [{"type": "reasoning", "id": f"rs_simulated{dice.getrandbits(64):016x}", "summary": []}]


def _output(said: answers.Said, asked: Asked, dice: random.Random) -> list[dict[str, Any]]:
    number = f"simulated{dice.getrandbits(64):016x}"
    if said.tool is not None:
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
        return [{**call, "name": said.tool.name, "arguments": said.tool.arguments}]
    if said.finish_reason == "length" and not said.text:
        return []
    if said.refusal is not None:
        part: dict[str, Any] = {"type": "refusal", "refusal": said.refusal}
    else:
        logprobs = _logprobs(said.text or "", asked, dice)
        part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": logprobs}
    status = "completed" if said.finish_reason == "stop" else "incomplete"
    message = {"type": "message", "id": f"msg_{number}", "status": status, "role": "assistant", "content": [part]}
    return [message]


def _logprobs(text: str, asked: Asked, dice: random.Random) -> list[dict[str, Any]]:
    if LOGPROBS not in (asked.body.get("include") or ()):
        return []
    top = asked.body.get("top_logprobs") or 0
    tokens: list[dict[str, Any]] = logprobs_of(text, asked.prompt, _wanted(asked.body), top, dice)["content"]
    return tokens


RESPONSES = Endpoint("/v1/responses", read, answer)
