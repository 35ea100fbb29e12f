"""Validation of request bodies, before limits are charged; each check raises the API's own error as a `Refusal`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import orjson

from parallel_openai.local.simulator.checks.strict_mode import strict_schema
from parallel_openai.local.simulator.refusals import Refusal

REASONING = re.compile(r"^(o[1-9](-|$)|gpt-[5-9](?!.*chat))")
TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
}


def json_object(raw: bytes) -> dict[str, Any]:
    """The body, which must be a JSON object.

    >>> json_object(b'{"model": "m"}')
    {'model': 'm'}
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        ) from error
    if not isinstance(body, dict):
        raise Refusal(
            400, f"Invalid type for the body: expected an object, but got {_name(body)} instead.", code="invalid_type"
        )
    return body


def known_parameters(body: dict[str, Any], known: Collection[str]) -> None:
    unknown = [name for name in body if name not in known]
    if unknown:
        raise Refusal(400, f"Unknown parameter: '{unknown[0]}'.", code="unknown_parameter", param=unknown[0])


def model(body: dict[str, Any], known: Collection[str] | None) -> str:
    name = body.get("model")
    if name is None:
        raise Refusal(400, "you must provide a model parameter")
    if not isinstance(name, str):
        raise wrong_type("model", "a string", name)
    if known is not None and name not in known:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(404, message, code="model_not_found")
    return name


def messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = body.get("messages")
    if found is None:
        raise missing("messages")
    if not isinstance(found, list):
        raise wrong_type("messages", "an array of objects", found)
    if not found:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        raise Refusal(400, message, code="empty_array", param="messages")
    for at, message in enumerate(found):
        _message(message, f"messages[{at}]")
    return found


def _message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(where, "an object", message)
    role, content = message.get("role"), message.get("content")
    if role is None:
        raise missing(f"{where}.role")
    roles = ("system", "developer", "user", "assistant", "tool", "function")
    if role not in roles:
        raise invalid_value(role, roles, f"{where}.role")
    if content is None and role != "assistant":
        message = f"Invalid value for 'content': expected a string, got null. ({where}.content)"
        raise Refusal(400, message, param=f"{where}.content")
    if content is not None and not isinstance(content, (str, list)):
        raise wrong_type(f"{where}.content", "one of a string or array of objects", content)
    if isinstance(content, list):
        for at, part in enumerate(content):
            if not isinstance(part, dict) or "type" not in part:
                raise wrong_type(f"{where}.content[{at}]", "an object with a type", part)


def number(body: dict[str, Any], name: str, low: float, high: float | None, *, whole: bool = False) -> None:
    """Refuse a number of the wrong type or outside its bounds.

    >>> number({"n": 200}, "n", 1, 128, whole=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    parallel_openai.local.simulator.refusals.Refusal: Invalid 'n': integer above ...
    """
    value, kind = body.get(name), "integer" if whole else "decimal"
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise wrong_type(name, "an integer" if whole else "a decimal", value)
    if value < low:
        message = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead."
        raise Refusal(400, message, code=f"{kind}_below_min_value", param=name)
    if high is not None and value > high:
        message = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead."
        raise Refusal(400, message, code=f"{kind}_above_max_value", param=name)


def logprobs(body: dict[str, Any]) -> None:
    number(body, "top_logprobs", 0, 20, whole=True)
    if not isinstance(body.get("logprobs"), (bool, type(None))):
        raise wrong_type("logprobs", "a boolean", body["logprobs"])
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        message = "Invalid value for 'top_logprobs': 'logprobs' must be true when it is given."
        raise Refusal(400, message, param="top_logprobs")


def metadata(body: dict[str, Any]) -> None:
    pairs = body.get("metadata")
    if pairs is None:
        return
    if not isinstance(pairs, dict):
        raise wrong_type("metadata", "an object", pairs)
    if len(pairs) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16 properties, but got {len(pairs)}."
        raise Refusal(400, message, code="object_above_max_properties", param="metadata")
    for name, value in pairs.items():
        if not isinstance(value, str):
            raise wrong_type(f"metadata.{name}", "a string", value)


def reasoning(body: dict[str, Any], model: str) -> None:
    """Refuse parameters that reasoning models do not support.

    >>> reasoning({"max_tokens": 5}, "gpt-4o-mini")
    >>> reasoning({"max_tokens": 5}, "o4-mini")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    parallel_openai.local.simulator.refusals.Refusal: Unsupported parameter: 'max_tokens' ...
    """
    if not REASONING.match(model):
        return
    if body.get("max_tokens") is not None:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Refusal(400, message, code="unsupported_parameter", param="max_tokens")
    if body.get("logprobs") and body.get("reasoning_effort") != "none":
        message = "Unsupported parameter: 'logprobs' is not supported with this model."
        raise Refusal(400, message, code="unsupported_parameter", param="logprobs")
    if body.get("temperature") not in (None, 1):
        message = (
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. "
            "Only the default (1) value is supported."
        )
        raise Refusal(400, message, code="unsupported_value", param="temperature")


def response_format(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    wanted = body.get("response_format")
    if wanted is None:
        return
    if not isinstance(wanted, dict):
        raise wrong_type("response_format", "an object", wanted)
    kind = format_kind(wanted, "response_format.type")
    if kind == "json_object" and "json" not in str(messages).casefold():
        message = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        )
        raise Refusal(400, message, param="messages")
    if kind == "json_schema":
        json_schema(wanted.get("json_schema"), "response_format.json_schema")


def format_kind(given: Any, where: str) -> str:
    kind: Any = given.get("type") if isinstance(given, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        message = f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'."
        raise Refusal(400, message, code="invalid_value", param=where)
    return str(kind)


def json_schema(given: Any, where: str) -> None:
    for name in ("name", "schema"):
        if not isinstance(given, dict) or given.get(name) is None:
            raise missing(f"{where}.{name}")
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", given["name"]):
        message = (
            f"Invalid '{where}.name': string does not match pattern. Expected a string that matches '^[a-zA-Z0-9_-]+$'."
        )
        raise Refusal(400, message, code="invalid_value", param=f"{where}.name")
    if given.get("strict"):
        strict_schema(given["name"], given["schema"])


def tools(body: dict[str, Any]) -> None:
    """Refuse invalid `tools` of chat completions."""
    given = body.get("tools")
    if given is None:
        return
    if not isinstance(given, list):
        raise wrong_type("tools", "an array of objects", given)
    for at, each in enumerate(given):
        function = each.get("function") if isinstance(each, dict) else None
        if isinstance(each, dict) and each.get("type") not in ("function", "custom"):
            message = f"Invalid value: '{each.get('type')}'. Supported values are: 'function' and 'custom'."
            raise Refusal(400, message, code="invalid_value", param=f"tools[{at}].type")
        if not isinstance(each, dict) or (each["type"] == "function" and not (function or {}).get("name")):
            raise missing(f"tools[{at}].function.name")


def no_stream(body: dict[str, Any]) -> None:
    """Refuse `stream` on endpoints where the simulator does not support it."""
    if body.get("stream"):
        raise Refusal(400, "The simulator streams chat completions only.", param="stream")


def context_length(prompt_tokens: int, limit: int) -> None:
    if prompt_tokens > limit:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages."
        )
        raise Refusal(400, message, code="context_length_exceeded", param="messages")


def missing(name: str) -> Refusal:
    return Refusal(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def invalid_value(value: Any, supported: Iterable[str], name: str) -> Refusal:
    choices = ", ".join(f"'{each}'" for each in supported)
    message = f"Invalid value: '{value}'. Supported values are: {choices}."
    return Refusal(400, message, code="invalid_value", param=name)


def wrong_type(name: str, expected: str, value: Any) -> Refusal:
    message = f"Invalid type for '{name}': expected {expected}, but got {_name(value)} instead."
    return Refusal(400, message, code="invalid_type", param=name)


def _name(value: Any) -> str:
    return "null" if value is None else TYPE_NAMES.get(type(value), "a value")
