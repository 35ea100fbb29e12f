"""Reading responses, for every endpoint."""

from __future__ import annotations

import base64
import itertools
import math
import random
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_openai._records import Usage
from parallel_openai._requests.endpoints import CHAT, ENDPOINTS, Endpoint, endpoint, endpoint_at, is_simulated, usage_of
from parallel_openai._requests.endpoints.embeddings import vector_of
from parallel_openai._requests.template import BadPromptError
from parallel_openai.errors import InvalidInputError

FIELDS = (
    "choices message content usage prompt_tokens refusal finish_reason model text logprobs tokens top_logprobs "
    "tool_calls output type status incomplete_details reason data embedding index results"
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS.split()),
            inner,
        )
    ),
    max_leaves=30,
)


@given(st.sampled_from(list(ENDPOINTS.values())), JSON.filter(lambda value: isinstance(value, dict)))
def test_a_response_of_any_shape_can_be_read(where: Endpoint, response: Any) -> None:
    answers = where.read_all(response)
    assert answers[0] == where.read(response)
    for answer in answers:
        assert (answer.text is None) or isinstance(answer.text, str)
        assert (answer.finish_reason is None) or isinstance(answer.finish_reason, str)
        assert (answer.error is None) == (answer.error_code is None)
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
def test_a_response_without_an_answer_has_an_error_code(response: Any, code: str | None) -> None:
    answer = CHAT.read(response)
    assert answer.error_code == code
    assert (answer.error is None) == (code is None)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("model_length", "truncated"),  # Mistral
        ("max_tokens", "truncated"),  # Anthropic
        ("MAX_TOKENS", "truncated"),  # Gemini, Cohere
        ("FinishReason.MAX_TOKENS", "truncated"),
        ("model_context_window_exceeded", "truncated"),  # Anthropic, Zhipu
        ("incomplete", "truncated"),  # gateways to the Responses API
        ("sensitive", "content_filter"),  # Zhipu
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("content_filter: IMAGE_SAFETY", "content_filter"),
        ("guardrail_intervened", "content_filter"),  # Bedrock
        ("refusal", "content_filter"),  # Anthropic
        ("STOP", None),
        ("end_turn", None),
        ("eos_token", None),
        ("COMPLETE", None),
    ],
)
def test_half_an_answer_is_known_by_the_finish_reasons_of_other_makers(reason: str, code: str | None) -> None:
    assert CHAT.read(choice({"content": "Half"}, reason)).error_code == code
    assert COMPLETIONS.read({"choices": [{"text": "Half", "finish_reason": reason}]}).error_code == code


def test_a_cap_used_up_by_reasoning_is_distinguished_from_a_long_answer() -> None:
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
        ({"prompt_tokens": -1, "completion_tokens": 2**64}, Usage(0, 2**60)),
        ({"prompt_tokens_details": [], "completion_tokens": "2"}, Usage(0, 2)),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_with_chat_and_with_responses_names(usage: Any, expected: Usage | None) -> None:
    assert usage_of({"usage": usage}) == expected


@pytest.mark.parametrize("response", [None, [], "text", 5, {}], ids=repr)
def test_an_invalid_response_has_no_usage_and_is_not_simulated(response: Any) -> None:
    assert usage_of(response) is None
    assert not is_simulated(response)


def test_a_simulated_answer_is_marked_in_its_models_name() -> None:
    answer = CHAT.read(choice({"content": "Hi."}, model="m", system_fingerprint="simulated"))
    assert answer.model == "m (simulated)"


def test_an_unknown_endpoint_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"No endpoint 'images'; there are: chat\.completions, responses"):
        endpoint("images")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chat.completions"),
        ("/openai/deployments/completions/chat/completions", "chat.completions"),
        ("/v1/completions/", "completions"),
        ("/openai/v1/responses", "responses"),
        ("embeddings", "embeddings"),
        ("/v1/moderations", "moderations"),
    ],
)
def test_an_endpoint_is_recognised_by_the_end_of_its_path(path: str, name: str) -> None:
    found = endpoint_at(path)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("path", ["/v1", "/v1/chat", "/my-embeddings", ""])
def test_any_other_path_is_no_endpoint(path: str) -> None:
    assert endpoint_at(path) is None


RESPONSES, EMBEDDINGS, COMPLETIONS, MODERATIONS = (
    endpoint(name) for name in ("responses", "embeddings", "completions", "moderations")
)


def said(*parts: Any, status: str = "completed", reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A response of the Responses API; a reasoning model's, whose thinking stands before its message."""
    message = {"type": "message", "role": "assistant", "content": list(parts)}
    output = [{"type": "reasoning", "summary": []}, *([message] if parts else [])]
    details = {"reason": reason} if reason else None
    return {"status": status, "output": output, "incomplete_details": details, "model": "m", **fields}


def text_part(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, **fields}


CALL = {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"}


@pytest.mark.parametrize(
    ("response", "text", "finish_reason", "code"),
    [
        (said(text_part("Hi, "), text_part("you.")), "Hi, you.", "stop", None),
        ({"status": "completed", "output": [CALL]}, None, "tool_calls", None),
        (said({"type": "refusal", "refusal": "No."}), None, "stop", "refused"),
        (said(text_part("H"), status="incomplete", reason="max_output_tokens"), "H", "length", "truncated"),
        (said(status="incomplete", reason="max_output_tokens"), None, "length", "truncated"),
        (
            said(text_part("H"), status="incomplete", reason="content_filter"),
            "H",
            "content_filter",
            "content_filter",
        ),
        (said(), None, "stop", "empty"),
        (said(status="queued"), None, "queued", "empty"),
        ({}, None, None, "empty"),
    ],
    ids=str,
)
def test_an_answer_of_the_responses_api_is_read(
    response: Any, text: str | None, finish_reason: str | None, code: str | None
) -> None:
    answer = RESPONSES.read(response)
    assert (answer.text, answer.finish_reason, answer.error_code) == (text, finish_reason, code)


def test_a_cap_used_up_by_reasoning_is_recognised_in_the_responses_api_too() -> None:
    usage = {"input_tokens": 9, "output_tokens": 64, "output_tokens_details": {"reasoning_tokens": 64}}
    answer = RESPONSES.read(said(status="incomplete", reason="max_output_tokens", usage=usage))
    assert "All 64 tokens went into reasoning" in str(answer.error)
    assert "Raise max_output_tokens" in str(answer.error)


TOKENS = [{"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -0.1}]}]


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("chat.completions", {"choices": [{"message": {"content": "Hi"}, "logprobs": {"content": TOKENS}}]}),
        ("responses", said(text_part("Hi", logprobs=TOKENS))),
        ("completions", {"choices": [{"text": "Hi", "logprobs": {"content": TOKENS}}]}),
        (
            "completions",
            {
                "choices": [
                    {
                        "text": "Hi",
                        "logprobs": {"tokens": ["Hi"], "token_logprobs": [-0.1], "top_logprobs": [{"Hi": -0.1}]},
                    }
                ]
            },
        ),
    ],
    ids=["chat", "responses", "completions as llama.cpp has them", "completions"],
)
def test_logprobs_of_all_endpoints_have_the_same_form(name: str, response: Any) -> None:
    assert endpoint(name).read(response).logprobs == TOKENS


def test_tool_calls_are_read_in_every_format() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    older = {"name": "look_up", "arguments": "{}"}
    assert CHAT.read(choice({"content": None, "tool_calls": [call]})).tool_calls == [call]
    assert CHAT.read(choice({"function_call": older})).tool_calls == [{"type": "function", "function": older}]
    assert RESPONSES.read({"status": "completed", "output": [CALL]}).tool_calls == [CALL]


def test_each_choice_is_read_separately() -> None:
    choices = [choice({"content": "A"})["choices"][0], choice({"content": "B"}, "length")["choices"][0]]
    answers = CHAT.read_all({"choices": choices})
    assert [(answer.text, answer.error_code) for answer in answers] == [("A", None), ("B", "truncated")]


@pytest.mark.parametrize("whole", [False, True], ids=["of doubles", "of floats made longer"])
def test_base64_of_64_bit_floats_is_recognised(whole: bool) -> None:
    chance = random.Random(3)
    numbers = array("f" if whole else "d", (chance.gauss(0, 0.03) for _ in range(256)))
    embedding = base64.b64encode(array("d", numbers)).decode()
    assert vector_of(embedding) == array("f", numbers)


def test_a_vector_with_nan_is_not_mistaken_for_64_bit_floats() -> None:
    for position, odd in itertools.product(range(4), (math.inf, math.nan)):
        numbers = array("f", [0.5, 3.0, -0.25, 7.0] * 16)
        numbers[position] = odd
        assert vector_of(base64.b64encode(numbers).decode()) is None


@pytest.mark.parametrize("embedding", [[1.0, -2.0], "AACAPwAAAMA="], ids=["numbers", "base64"])
def test_a_vector_is_read_from_a_list_and_from_base64(embedding: Any) -> None:
    assert EMBEDDINGS.read({"data": [{"index": 0, "embedding": embedding}]}).value.tolist() == [1.0, -2.0]


@pytest.mark.parametrize("embedding", [[], "", "AAA", "no base64!", ["a"], None, {}, [10**400]], ids=repr)
def test_an_invalid_vector_is_an_error(embedding: Any) -> None:
    assert EMBEDDINGS.read({"data": [{"embedding": embedding}]}).error_code == "malformed_response"


def test_vectors_are_ordered_by_their_index() -> None:
    data = [{"index": 1, "embedding": [1]}, {"index": 0, "embedding": [0]}]
    assert [answer.value.tolist() for answer in EMBEDDINGS.read_all({"data": data})] == [[0.0], [1.0]]


def test_the_value_of_a_moderation_is_its_result() -> None:
    result = {"flagged": False, "categories": {}, "category_scores": {}}
    assert MODERATIONS.read({"results": [result], "model": "m"}).value == result
    assert MODERATIONS.read({"results": []}).error_code == "empty"


@pytest.mark.parametrize(
    ("text", "reason", "code"),
    [
        ("Hi", "stop", None),
        ("H", "length", "truncated"),
        ("", "stop", "empty"),
        ("H", "content_filter", "content_filter"),
    ],
)
def test_a_legacy_completion_is_read(text: str, reason: str, code: str | None) -> None:
    answer = COMPLETIONS.read({"choices": [{"text": text, "finish_reason": reason}]})
    assert (answer.text, answer.finish_reason, answer.error_code) == (text or None, reason, code)


WORDS = [1, 2, 3]
ITEM = {"type": "function_call_output", "call_id": "c1", "output": "4"}
ASKED = [
    ("responses", "Hi.", None, {"input": "Hi."}),
    ("responses", "Hi.", "Be brief.", {"instructions": "Be brief.", "input": "Hi."}),
    ("responses", ITEM, None, {"input": [ITEM]}),
    ("responses", np.array([ITEM], dtype=object), None, {"input": [ITEM]}),
    ("responses", {"input": "Hi.", "seed": 1}, "Be brief.", {"instructions": "Be brief.", "input": "Hi.", "seed": 1}),
    ("responses", {"input": "Hi.", "instructions": "No."}, "Yes.", {"instructions": "No.", "input": "Hi."}),
    ("embeddings", "Hi.", None, {"input": "Hi."}),
    ("embeddings", np.array(WORDS), None, {"input": WORDS}),
    ("embeddings", {"input": "Hi."}, None, {"input": "Hi."}),
    ("completions", "Hi", None, {"prompt": "Hi"}),
    ("completions", WORDS, None, {"prompt": WORDS}),
    ("completions", {"prompt": "Hi"}, None, {"prompt": "Hi"}),
    ("moderations", "Hi.", None, {"input": "Hi."}),
    ("moderations", {"type": "text", "text": "Hi."}, None, {"input": [{"type": "text", "text": "Hi."}]}),
    ("moderations", [{"type": "text", "text": "Hi."}], None, {"input": [{"type": "text", "text": "Hi."}]}),
    ("moderations", {"input": "Hi."}, None, {"input": "Hi."}),
]


@pytest.mark.parametrize(("name", "prompt", "system", "asked"), ASKED, ids=[f"{a[0]} {a[1]!r:.30}" for a in ASKED])
def test_a_rows_prompt_becomes_its_part_of_the_body(name: str, prompt: Any, system: Any, asked: Any) -> None:
    assert endpoint(name).ask(prompt, system) == asked


@pytest.mark.parametrize("name", list(ENDPOINTS))
@pytest.mark.parametrize("prompt", ["", "  ", 5, b"Hi.", [], ["a"], {"stream": True}, [1.5], [True]], ids=repr)
def test_a_prompt_that_an_endpoint_does_not_support_is_an_error(name: str, prompt: Any) -> None:
    with pytest.raises(BadPromptError) as bad:
        endpoint(name).ask(prompt, None)
    assert bad.value.code == ("empty_prompt" if isinstance(prompt, str) else "invalid_prompt")


def test_response_format_becomes_text_format_in_the_responses_api() -> None:
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    asked = {"type": "json_schema", "json_schema": schema}
    assert RESPONSES.format_params(asked, {"text": {"verbosity": "low"}}) == {
        "text": {"verbosity": "low", "format": {"type": "json_schema", **schema}}
    }
    with pytest.raises(InvalidInputError, match="Both response_format= and text="):
        RESPONSES.format_params(asked, {"text": {"format": {"type": "text"}}})
    with pytest.raises(InvalidInputError, match=r"embeddings takes no response_format\."):
        EMBEDDINGS.format_params(asked, {})


def test_a_repair_appends_what_is_wrong_after_the_answer() -> None:
    question, answer, fault = ({"role": "user", "content": "2 + 2?"}, "5", "No, it is not.")
    told = [question, {"role": "assistant", "content": answer}, {"role": "user", "content": fault}]
    assert CHAT.repair_body({"messages": [question]}, answer, fault) == {"messages": told}
    assert RESPONSES.repair_body({"input": "2 + 2?"}, answer, fault) == {"input": told}
    assert RESPONSES.repair_body({"input": [question]}, None, fault) == {"input": [question, told[-1]]}
    assert CHAT.repair_body({}, answer, fault) is None
    assert RESPONSES.repair_body({"input": None}, answer, fault) is None
    assert EMBEDDINGS.repair_body({"input": "Hi."}, answer, fault) is None


def test_few_shot_examples_precede_the_prompt() -> None:
    shot = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    question = {"role": "user", "content": "2 + 2?"}
    assert CHAT.with_examples({"messages": [question]}, shot) == {"messages": [*shot, question]}
    assert RESPONSES.with_examples({"input": "2 + 2?"}, shot) == {"input": [*shot, question]}
    with pytest.raises(InvalidInputError, match="takes no examples"):
        COMPLETIONS.with_examples({"prompt": "2 + 2 ="}, shot)
