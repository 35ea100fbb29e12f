"""Templates and messages by themselves; tests/frames tests them in a run."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_openai._requests.endpoints import CHAT
from parallel_openai._requests.template import BadPromptError, parse_template, to_messages
from parallel_openai.errors import TemplateError


@given(st.text(), st.text())
def test_a_template_without_fields_renders_as_its_text(before: str, after: str) -> None:
    text = (before + after).replace("{", "{{").replace("}", "}}")
    assert parse_template(text, []).fill([]) == before + after


@given(st.text(), st.text(string.ascii_letters, min_size=1))
def test_any_value_is_filled_in_unchanged(value: str, name: str) -> None:
    assert parse_template(f"<{{{name}}}>", [name]).fill([value]) == f"<{value}>"


@given(st.text())
def test_any_text_is_a_template_or_a_template_error(text: str) -> None:
    try:
        template = parse_template(text, ["a"])
    except TemplateError:
        return
    assert set(template.columns) <= {"a"}


def test_the_columns_are_listed_once_each() -> None:
    assert parse_template("{b} {a} {b}", ["a", "b"]).columns == ("b", "a")


def test_an_error_lists_no_more_than_twenty_columns() -> None:
    with pytest.raises(TemplateError, match=r"c19, \.\.\.\."):
        parse_template("{x}", [f"c{n}" for n in range(30)])


def test_an_error_says_that_there_are_no_columns() -> None:
    with pytest.raises(TemplateError, match="the columns are: none"):
        parse_template("{x}", [])


HI = {"role": "user", "content": "Hi."}
RULES = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("Hi.", [HI]),
        (HI, [HI]),
        ([HI, HI], [HI, HI]),
        ((HI,), [HI]),
        (np.array([HI, HI], dtype=object), [HI, HI]),
        (np.str_("Hi."), [HI]),
    ],
    ids=["text", "message", "list", "tuple", "array", "numpy text"],
)
def test_a_prompt_becomes_messages(prompt: Any, messages: Any) -> None:
    assert to_messages(prompt, None) == messages
    assert to_messages(prompt, "Be brief.") == [RULES, *messages]


@pytest.mark.parametrize("messages", [[HI], (HI,), np.array([HI], dtype=object), None], ids=str)
def test_the_system_message_is_put_first_in_a_body(messages: Any) -> None:
    asked = CHAT.ask({"messages": messages, "seed": 1}, "Be brief.")
    assert asked == {"messages": [RULES, *([HI] if messages is not None else [])], "seed": 1}


def test_a_body_without_a_system_message_is_unchanged() -> None:
    body = {"messages": [HI], "seed": 1}
    assert CHAT.ask(body, None) is body


@pytest.mark.parametrize(
    ("prompt", "system"),
    [(5, None), ({"messages": "Hi."}, "Be brief."), ("Hi.", 5), ([{"content": "Hi."}], None), (b"Hi.", None)],
    ids=repr,
)
def test_any_other_value_is_an_invalid_prompt(prompt: Any, system: Any) -> None:
    with pytest.raises(BadPromptError) as bad:
        CHAT.ask(prompt, system)
    assert bad.value.code == "invalid_prompt"
