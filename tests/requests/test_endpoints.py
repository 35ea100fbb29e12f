"""What a response says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_openai.errors import InvalidInputError
from parallel_openai.records import Usage
from parallel_openai.requests.endpoints import CHAT, endpoint, is_simulated, usage_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "usage", "prompt_tokens", "refusal", "finish_reason", "model"]
            ),
            inner,
        )
    ),
    max_leaves=30,
)


@given(JSON.filter(lambda value: isinstance(value, dict)))
def test_a_response_of_any_shape_can_be_read(response: Any) -> None:
    answer = CHAT.read(response)
    assert (answer.text is None) or isinstance(answer.text, str)
    assert (answer.finish_reason is None) or isinstance(answer.finish_reason, str)
    usage_of(response)


def choice(message: Any, reason: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], **fields}


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (choice({"content": "Hi."}), None),
        (choice({"content": None, "tool_calls": [{}]}, "tool_calls"), None),
        (choice({"content": None, "function_call": {"name": "f"}}, "function_call"), None),
        (choice({"content": None, "refusal": "No."}), "refused"),
        (choice({"content": "Hi", "refusal": "No."}), "refused"),
        (choice({"content": "H"}, "content_filter"), "content_filter"),
        (choice({"content": "H"}, "length"), "truncated"),
        (choice({"content": ""}, "length"), "truncated"),
        (choice({"content": ""}), "empty"),
        (choice({"content": None}), "empty"),
        (choice({}), "empty"),
        ({}, "empty"),
    ],
)
def test_an_answer_that_is_none_has_a_name(response: Any, code: str | None) -> None:
    answer = CHAT.read(response)
    assert answer.error_code == code
    assert (answer.error is None) == (code is None)


def test_thinking_that_left_nothing_to_say_is_told_from_a_long_answer() -> None:
    details = {"reasoning_tokens": 64}
    usage = {"prompt_tokens": 9, "completion_tokens": 64, "completion_tokens_details": details}
    assert "went into reasoning" in str(CHAT.read(choice({"content": ""}, "length", usage=usage)).error)
    assert "cut off after 64 tokens" in str(CHAT.read(choice({"content": "A"}, "length", usage=usage)).error)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(9, 2)),
        ({"input_tokens": 9, "output_tokens": 2}, Usage(9, 2)),
        (
            {
                "input_tokens": 9,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(9, 5, 3, 4),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 2**64}, Usage(0, 0)),
        ({"prompt_tokens_details": [], "completion_tokens": "2"}, Usage(0, 0)),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_in_both_spellings(usage: Any, expected: Usage | None) -> None:
    assert usage_of({"usage": usage}) == expected


@pytest.mark.parametrize("response", [None, [], "text", 5, {}], ids=repr)
def test_what_is_no_response_has_no_usage_and_is_not_simulated(response: Any) -> None:
    assert usage_of(response) is None
    assert not is_simulated(response)


def test_a_simulated_answer_says_so_in_its_models_name() -> None:
    answer = CHAT.read(choice({"content": "Hi."}, model="m", system_fingerprint="simulated"))
    assert answer.model == "m (simulated)"


def test_an_endpoint_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"No endpoint 'images'; there are: chat\.completions"):
        endpoint("images")
