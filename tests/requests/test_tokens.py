"""Counting tokens of texts and of whole requests."""

import json

import pytest

from parallel_openai._records import Size
from parallel_openai._requests import tokens
from parallel_openai._requests.tokens import count_tokens, request_size

# Counts


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
@pytest.mark.parametrize(
    ("text", "at_least"),
    [("a" * 1_000_000, 100_000), (" " * 1_000_000, 5_000), ("中" * 300_000, 300_000), ("\n" * 1_000_000, 5_000)],
    ids=["letters", "spaces", "chinese", "newlines"],
)
@pytest.mark.timeout(20)
def test_a_megabyte_of_one_character_is_counted(text: str, at_least: int, name: str) -> None:
    assert count_tokens(text, name) >= at_least


def test_counting_a_long_text_in_slices_is_exact() -> None:
    text = ("word " * 3 + "  \n ") * 10_000

    assert "".join(text[start:end] for start, end in tokens._slices(text)) == text


# Requests


def chat(*messages: object, **parameters: object) -> "dict[str, object]":
    return {"model": "gpt-5-mini", "messages": list(messages), **parameters}


def user(content: object, **more: object) -> "dict[str, object]":
    return {"role": "user", "content": content, **more}


HELLO = "hello world"  # two tokens
SCHEMA = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"type": "object"}}}
SCHEMA_TOKENS = count_tokens(json.dumps(SCHEMA, separators=(",", ":")), "o200k_base")


@pytest.mark.parametrize(
    ("body", "prompt_tokens"),
    [
        (chat(user(HELLO)), 3 + 1 + 2 + 3),
        (chat({"role": "system", "content": HELLO}, user(HELLO)), 2 * (3 + 1 + 2) + 3),
        (chat(user(HELLO, name="Ann")), 3 + 1 + 2 + (1 + 1) + 3),
        (chat(user(None)), 3 + 1 + 3),
        (chat(user([{"type": "text", "text": HELLO}, {"type": "text", "text": HELLO}])), 3 + 1 + 4 + 3),
        (chat(user([HELLO])), 3 + 1 + 2 + 3),
        (chat(user([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])), 3 + 1 + 765 + 3),
        (chat(user([{"type": "image_url", "image_url": {"url": "u", "detail": "low"}}])), 3 + 1 + 85 + 3),
        (chat(user([{"type": "input_audio", "input_audio": {"data": "A" * 5_000}}])), 3 + 1 + 11 + 3),
        (chat(user([{"type": "file", "file": {"file_data": "A" * 5_000}}])), 3 + 1 + 501 + 3),
        (chat(user([{"type": "file", "file": {"file_id": "file-1"}}])), 3 + 1 + 765 + 3),
        (chat(user(HELLO), response_format=SCHEMA), 9 + SCHEMA_TOKENS),
        (chat(user(HELLO), tools=[]), 9),
        ({"model": "gpt-5", "input": HELLO}, 9),
        ({"model": "gpt-5", "input": [user(HELLO)], "instructions": HELLO}, 9 + 6),
        ({"model": "gpt-5", "input": [user([{"type": "input_text", "text": HELLO}])]}, 9),
        (
            {"model": "gpt-5", "input": [user([{"type": "input_image", "detail": "low", "image_url": "u"}])]},
            3 + 1 + 85 + 3,
        ),
        ({"model": "gpt-5", "input": [{"type": "function_call_output", "call_id": HELLO, "output": HELLO}]}, 3 + 4 + 3),
        ({"model": "davinci-002", "prompt": HELLO}, 2),
        ({"model": "davinci-002", "prompt": [HELLO, HELLO]}, 4),
        ({"model": "davinci-002", "prompt": [1, 2, 3]}, 3),
        ({"model": "davinci-002", "prompt": [[1, 2, 3], [4]]}, 4),
        ({"model": "text-embedding-3-small", "input": HELLO}, 2),
        ({"model": "text-embedding-3-small", "input": [HELLO] * 3}, 6),
        ({"model": "text-embedding-3-small", "input": [[1, 2], [3]]}, 3),
        ({"model": "omni-moderation-latest", "input": [{"type": "text", "text": HELLO}]}, 2),
    ],
    ids=lambda value: json.dumps(value)[:70] if isinstance(value, dict) else None,
)
def test_prompt_tokens_of_a_request_are_counted(body: "dict[str, object]", prompt_tokens: int) -> None:
    assert request_size(body, "o200k_base").prompt_tokens == prompt_tokens


@pytest.mark.parametrize(
    ("parameters", "max_output_tokens", "choices"),
    [
        ({}, None, 1),
        ({"max_tokens": 16}, 16, 1),
        ({"max_completion_tokens": 16, "max_tokens": 8}, 16, 1),
        ({"max_completion_tokens": 8, "max_tokens": 16}, 16, 1),  # an older server knows only the latter
        ({"max_output_tokens": 16}, 16, 1),
        ({"max_tokens": None, "n": None}, None, 1),
        ({"max_tokens": 16.0, "n": 3}, 16, 3),
        ({"n": 2, "best_of": 5}, None, 5),
        ({"max_tokens": "16", "n": -1}, None, 1),
        ({"max_tokens": float("nan"), "n": float("inf")}, None, 1),
    ],
)
def test_the_cap_and_the_number_of_choices_are_read(
    parameters: "dict[str, object]", max_output_tokens: "int | None", choices: int
) -> None:
    size = request_size(chat(user(HELLO), **parameters), "o200k_base")

    assert (size.max_output_tokens, size.choices) == (max_output_tokens, choices)


def test_documents_beside_the_messages_are_counted() -> None:
    body = chat(user("Hi."), documents=[{"title": "Manual", "text": "word " * 1000}])
    assert request_size(body, "o200k_base").prompt_tokens > 1000


def test_several_legacy_prompts_count_as_several_choices() -> None:
    assert request_size({"prompt": [HELLO, HELLO], "n": 3}, "o200k_base").choices == 6


def test_characters_of_the_prompt_are_counted() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_999}}
    size = request_size(chat(user([{"type": "text", "text": HELLO}, picture])), "o200k_base")

    assert size.characters == len(HELLO)


def test_a_long_system_message_is_counted_too() -> None:
    text = "word " * 10_000

    assert request_size(chat({"role": "system", "content": text}), "o200k_base").prompt_tokens > 10_000


def nested(depth: int) -> "list[object]":
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None, "input": None, "prompt": None},
        {"messages": HELLO},
        {"messages": 5},
        {"messages": [None, 5, HELLO, [HELLO], {}, {"role": None}, {"role": 7, "content": 7}]},
        {"messages": [{"role": "user", "content": [None, 5, {"type": None}, {"type": []}, {"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": {"text": HELLO}}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        {"messages": [{"role": "user", "content": nested(100_000)}]},
        {"messages": [], "tools": {1, 2}, "response_format": object(), "n": [], "max_tokens": {}},
        {"messages": [{("a", "tuple"): HELLO, "content": {("a", "tuple"): 1}}]},
        {"input": [None, 5, {}]},
        {"input": {"text": HELLO}, "model": ["gpt-5"]},
        {"input": []},
        {"prompt": {"id": "pmpt_1", "variables": {"city": "Rome"}}},
        {"prompt": [None, HELLO, [1]]},
    ],
    ids=lambda body: str(list(body))[:40],
)
def test_no_malformed_request_crashes_the_counter(body: "dict[str, object]") -> None:
    size = request_size(body, "o200k_base")

    assert isinstance(size, Size)
    assert size.prompt_tokens >= 0
