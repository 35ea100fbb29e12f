"""Local image files in prompts."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.frames.conftest import Verb, asked, codes
from tests.frames.published import check_body

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.fixture
def pictures(tmp_path: Path) -> pd.DataFrame:
    (tmp_path / "lamp.png").write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("no picture")
    return pd.DataFrame({"file": [tmp_path / "lamp.png", tmp_path / "gone.png", tmp_path / "notes.txt"]})


def chat(row: Any) -> Any:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": row.file}]
    return [{"role": "user", "content": parts}]


def test_a_path_in_a_chat_message_is_sent_as_a_data_url(ask: Verb, pictures: pd.DataFrame) -> None:
    out = ask(pictures.head(1), chat)
    [body] = asked(out)
    check_body("chat.completions", body)
    assert body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": URL}}


def test_other_fields_of_an_image_are_kept(ask: Verb, pictures: pd.DataFrame) -> None:
    def low(row: Any) -> Any:
        part = {"type": "image_url", "image_url": {"url": row.file, "detail": "low"}}
        return {"messages": [{"role": "user", "content": [part]}]}

    [body] = asked(ask(pictures.head(1), low))
    assert body["messages"][0]["content"][0]["image_url"] == {"url": URL, "detail": "low"}


def test_a_path_in_a_responses_item_is_sent_as_a_data_url(ask: Verb, pictures: pd.DataFrame) -> None:
    def item(row: Any) -> Any:
        return [{"role": "user", "content": [{"type": "input_image", "image_url": row.file, "detail": "auto"}]}]

    [body] = asked(ask(pictures.head(1), item, endpoint="responses"))
    check_body("responses", body)
    assert body["input"][0]["content"][0]["image_url"] == URL


def test_an_image_can_be_moderated(ask: Verb, pictures: pd.DataFrame) -> None:
    def part(row: Any) -> Any:
        return [{"type": "image_url", "image_url": row.file}]

    [body] = asked(ask(pictures.head(1), part, endpoint="moderations", model="omni-moderation-latest"))
    assert body["input"] == [{"type": "image_url", "image_url": {"url": URL}}]


def test_a_missing_or_invalid_image_fails_only_its_row(ask: Verb, pictures: pd.DataFrame) -> None:
    out = ask(pictures, chat)
    assert codes(out) == [None, "missing_file", "invalid_prompt"]
    assert "gone.png' cannot be read: No such file or directory." in out["error"][1]
    assert "notes.txt' is not that of an image" in out["error"][2]


def test_a_changed_image_under_the_same_name_is_sent_again(ask: Verb, pictures: pd.DataFrame) -> None:
    first = ask(pictures.head(1), chat)
    pictures["file"][0].write_bytes(PNG + b"more")
    assert ask(pictures.head(1), chat)["request_key"][0] != first["request_key"][0]
