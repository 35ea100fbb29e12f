"""`gold=`: while the run goes on, it shows how many answers are right."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel

import parallel_openai as po
from parallel_openai.errors import ColumnNotFoundError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked
from tests.terminals import posix_only, terminal_as_stderr

TONES = ["positive", "negative"]


@pytest.fixture
def rows() -> pd.DataFrame:
    texts = ["A great lamp.", "Awful.", "Great value.", "Terrible."]
    return pd.DataFrame({"text": texts, "gold": ["positive", "negative", "negative", None]})


@posix_only
def test_the_bar_shows_how_many_answers_are_right(label: Verb, rows: pd.DataFrame) -> None:
    with terminal_as_stderr(100) as terminal:
        label(rows, "{text}", labels=TONES, gold="gold", progress=True)
    assert "67% right" in "\n".join(terminal.lines())


@posix_only
def test_answers_from_the_journal_count_too(label: Verb, rows: pd.DataFrame) -> None:
    label(rows, "{text}", labels=TONES)
    with terminal_as_stderr(100) as terminal:
        label(rows, "{text}", labels=TONES, gold="gold", progress=True)
    assert "67% right" in "\n".join(terminal.lines())


@posix_only
def test_without_gold_the_bar_shows_no_accuracy(label: Verb, rows: pd.DataFrame) -> None:
    with terminal_as_stderr(100) as terminal:
        label(rows, "{text}", labels=TONES, progress=True)
    assert "right" not in terminal.text


@posix_only
@pytest.mark.parametrize(
    ("options", "gold", "shown"),
    [
        ({"labels": ["a", "b"], "multi": True}, [["a"], ["a", "b"], None, ["b"]], "% right"),
        ({"scale": (1, 5)}, [5, 1, 4, 2], "% right"),
    ],
    ids=["several", "score"],
)
def test_lists_and_scores_are_compared_with_gold_too(
    label: Verb, rows: pd.DataFrame, options: Any, gold: Any, shown: str
) -> None:
    with terminal_as_stderr(100) as terminal:
        out = label(rows.assign(gold=gold), "{text}", gold="gold", progress=True, **options)
    assert f"{po.evaluate(out).accuracy_labelled:.0%} right" in "\n".join(terminal.lines())


def test_the_model_does_not_see_the_gold_labels(label: Verb, rows: pd.DataFrame) -> None:
    told, untold = label(rows, "{text}", labels=TONES, gold="gold"), label(rows, "{text}", labels=TONES)
    assert asked(told) == asked(untold)
    assert told.attrs["parallel_openai"]["journal"] == untold.attrs["parallel_openai"]["journal"]


def test_evaluate_knows_the_gold_column_of_the_run(label: Verb, rows: pd.DataFrame) -> None:
    out = label(rows, "{text}", labels=TONES, gold="gold")
    assert po.evaluate(out).gold == "gold"
    with pytest.raises(InvalidInputError, match="Pass gold="):
        po.evaluate(label(rows, "{text}", labels=TONES))


class Review(BaseModel):
    tone: Literal["positive", "negative"]


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"gold": "right"}, ColumnNotFoundError, "gold="),
        ({"gold": "text"}, InvalidInputError, "No gold label in 'text' is one of the labels"),
        ({"gold": "gold", "labels": Review}, InvalidInputError, "label='tone'"),
    ],
    ids=["missing", "other labels", "fields"],
)
def test_gold_that_cannot_be_compared_is_refused_before_anything_is_sent(
    label: Verb, rows: pd.DataFrame, server: Server, options: Any, error: Any, sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        label(rows, "{text}", **{"labels": TONES, **options})
    assert server.stats()["received"] == 0
