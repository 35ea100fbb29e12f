"""The label columns from samples and token probabilities; several fields, scores, examples and reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel, Field, field_validator

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, codes
from tests.frames.labelling import TONES, Review, Topic, cells, frame, says, tokens

# Votes


def test_the_label_is_the_majority_of_the_samples_and_confidence_its_share(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "negative"}, {"label": "positive"}, {"label": "positive"})
    out = label(frame("first", "great"), "text", labels=TONES, samples=3)
    assert out["label"].tolist() == ["positive", "positive"]
    assert out["confidence"].tolist() == [2 / 3, 1.0]
    assert sorted(out["votes"][0]) == ["negative", "positive", "positive"]
    assert isinstance(out["label"].dtype, pd.CategoricalDtype)


def ties(label: Verb, server: Server, said: list[dict[str, Any]], **options: Any) -> pd.DataFrame:
    texts = [f"row {n}." for n in range(40)]
    for text in texts:
        says(server, text, *said)
    return label(frame(*texts), "text", samples=len(said), **options)


def test_a_tie_of_votes_is_drawn_and_marked(label: Verb, server: Server) -> None:
    said = [{"label": "neutral"}, {"label": "negative"}]
    out = ties(label, server, said, labels=TONES)
    assert 8 < (out["label"] == "neutral").sum() < 32
    assert set(out["label"]) == {"neutral", "negative"}
    assert out["tie"].all()
    assert set(out["confidence"]) == {0.5}
    again = label(frame(*out["text"][::-1]), "text", labels=TONES, samples=2)
    assert again["label"].tolist() == out["label"].tolist()[::-1]


def test_a_tie_of_several_labels_or_of_scores_is_drawn_and_marked(label: Verb, server: Server) -> None:
    lists = ties(label, server, [{"labels": ["a"]}, {"labels": ["a", "b"]}], labels=["a", "b"], multi=True)
    assert 8 < sum("b" in labels for labels in lists["label"]) < 32
    assert all("a" in labels for labels in lists["label"])
    scores = ties(label, server, [{"score": 2}, {"score": 4}, {"score": 4}, {"score": 2}], scale=(1, 5))
    assert 8 < (scores["label"] == 2).sum() < 32
    assert set(scores["label"]) == {2, 4}
    assert lists["tie"].all()
    assert scores["tie"].all()


def test_a_majority_is_no_tie(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "positive"}, {"label": "negative"}, {"label": "positive"})
    assert label(frame("first"), "text", labels=TONES, samples=3)["tie"].tolist() == [False]


def test_a_sample_that_failed_counts_against_the_label_and_fails_the_row(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "positive"}, {"label": "other"}, {"label": "positive"}, {"label": "positive"})
    out = label(frame("first"), "text", labels=TONES, samples=4)
    assert (out["label"][0], out["confidence"][0], out["status"][0]) == ("positive", 0.75, "failed")
    assert codes(out) == ["off_label"]
    assert out["votes"][0].count(None) == 1


def test_a_row_without_any_answer_has_no_label_no_confidence_and_empty_votes(label: Verb, server: Server) -> None:
    server.set(fault_refusal=1)
    out = label(frame("first"), "text", labels=TONES, samples=2)
    assert cells(out["label"]) == cells(out["confidence"]) == [None]
    assert out["votes"][0] == [None, None]


def test_multi_label_samples_keep_labels_with_a_majority(label: Verb, server: Server) -> None:
    says(server, "first", *({"labels": labels} for labels in (["a", "b"], ["a"], ["c", "b", "a"], ["a"], ["a"])))
    out = label(frame("first"), "text", labels=["a", "b", "c"], multi=True, samples=5)
    # All five say a; two of five say b, and that is agreed on least.
    assert (out["label"][0], out["confidence"][0], out["tie"][0]) == (["a"], 0.6, False)


def test_samples_of_scores_give_the_median(label: Verb, server: Server) -> None:
    says(server, "first", *({"score": score} for score in (5, 1, 2, 2)))
    out = label(frame("first"), "text", scale=(1, 5), samples=4)
    assert (out["label"].tolist(), out["confidence"].tolist(), str(out["label"].dtype)) == ([2], [0.5], "Int64")


# Probabilities


def test_confidence_is_the_labels_probability_among_the_labels(label: Verb, server: Server) -> None:
    quote = ('{"label": "', {'{"label": "': 1.0})
    drawn = ("negative", {"negative": 0.5, "positive": 0.2, "neutral": 0.1, "Negative": 0.2})
    says(server, "first", tokens(quote, drawn, ('"}', {'"}': 0.4, '",': 0.6})))
    out = label(frame("first"), "text", labels=TONES, confidence="logprobs")
    assert out["label"].tolist() == ["negative"]
    assert out["confidence"][0] == pytest.approx(0.5 / 0.8)
    assert out["probabilities"][0] == pytest.approx({"positive": 0.25, "negative": 0.625, "neutral": 0.125})
    body = asked(out)[0]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)


def test_first_token_and_whole_label_confidence_can_both_be_requested(label: Verb, server: Server) -> None:
    labels = ["very good", "very bad", "fair"]
    steps = [
        ('{"label":"', {'{"label":"': 1.0}),
        ("very", {"very": 0.9, "fair": 0.1}),
        (" good", {" good": 0.7, " bad": 0.3}),
    ]
    says(server, "first", tokens(*steps, ('"}', {'"}': 1.0})))
    out = label(frame("first"), "text", labels=labels, confidence=["logprobs", "first_token"])
    assert out["confidence"][0] == pytest.approx(0.63)
    assert out["confidence_first_token"][0] == pytest.approx(0.9)


def test_votes_and_probabilities_can_both_be_requested(label: Verb, server: Server) -> None:
    def drawn(token: str) -> dict[str, Any]:
        return tokens(
            ('{"label": "', {'{"label": "': 1.0}), (token, {"positive": 0.6, "negative": 0.4}), ('"}', {'"}': 1.0})
        )

    says(server, "first", drawn("positive"), drawn("negative"), drawn("positive"), drawn("positive"))
    out = label(frame("first"), "text", labels=TONES[:2], samples=4, confidence=["votes", "logprobs"])
    assert out["confidence"].tolist() == [0.75]
    assert out["confidence_logprobs"].tolist() == pytest.approx([0.6])
    made = ["label", "confidence", "confidence_logprobs", "votes", "tie", "probabilities", "probability_bounds"]
    assert list(out.columns[1:8]) == made


def test_the_label_is_the_most_probable_one_whichever_was_drawn(label: Verb, server: Server) -> None:
    said = [('{"label": "', {'{"label": "': 1.0}), ("bad", {"bad": 0.3, "good": 0.6, "so": 0.1}), ('"}', {'"}': 1.0})]
    says(server, "first", tokens(*said))
    out = label(frame("first"), "text", labels=["good", "bad", "so"], confidence="logprobs")
    assert (out["label"][0], out["label_drawn"][0]) == ("good", "bad")
    assert out["confidence"][0] == out["probabilities"][0]["good"] == pytest.approx(0.6)
    assert out["probability_bounds"][0] is None
    assert out["label"].dtype == out["label_drawn"].dtype
    kept = label(frame("first"), "text", labels=["good", "bad", "so"], confidence="first_token")
    assert kept["label"].tolist() == ["bad"]


def test_probabilities_that_the_tokens_do_not_show_have_bounds(label: Verb, server: Server) -> None:
    said = [('{"label": "', {'{"label": "': 1.0}), ("good", {"good": 0.6, "bad": 0.4}), ('"}', {'"}': 1.0})]
    says(server, "first", tokens(*said))
    out = label(frame("first"), "text", labels=["good", "bad", "badly"], confidence="logprobs")
    assert out["probabilities"][0] == pytest.approx({"good": 0.6, "bad": 0.2, "badly": 0.2})
    assert out["probability_bounds"][0] == {"bad": [0.0, pytest.approx(0.4)], "badly": [0.0, pytest.approx(0.4)]}


def test_a_tie_goes_to_the_more_probable_label(label: Verb, server: Server) -> None:
    def drawn(token: str) -> dict[str, Any]:
        listed = {"good": 0.45, "bad": 0.55}
        return tokens(('{"label": "', {'{"label": "': 1.0}), (token, listed), ('"}', {'"}': 1.0}))

    options: dict[str, Any] = {"labels": ["good", "bad"], "confidence": ["votes", "logprobs"]}
    out = ties(label, server, [drawn("good"), drawn("bad")], **options)
    assert set(out["label"]) == {"bad"}
    assert out["tie"].all()


def test_the_most_probable_label_is_not_used_if_the_class_refuses_it(label: Verb, server: Server) -> None:
    class Picky(BaseModel):
        tone: Literal["good", "bad"]

        @field_validator("tone")
        @classmethod
        def _bad(cls, value: str) -> str:
            assert value == "bad"
            return value

    said = [('{"tone": "', {'{"tone": "': 1.0}), ("bad", {"bad": 0.3, "good": 0.7}), ('"}', {'"}': 1.0})]
    says(server, "first", tokens(*said))
    out = label(frame("first"), "text", labels=Picky, confidence="logprobs")
    assert (out["tone"][0], out["tone_drawn"][0]) == ("bad", "bad")
    assert out["tone_confidence"][0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "said", "expected"),
    [
        ({"scale": (1, 10)}, {"score": 7.0}, 7),
        ({"labels": [1, 2]}, {"label": 1}, 1),
        ({"labels": [1, 2]}, {"label": 2.0}, 2),
        ({"labels": [0.5, 1.0]}, {"label": 1}, 1.0),
        ({"labels": ["1", "2"]}, {"label": 2}, "2"),
        ({"labels": [True, False]}, {"label": False}, False),
        ({"labels": [1, 2], "multi": True}, {"labels": [2, 1.0]}, [1, 2]),
    ],
    ids=str,
)
def test_a_numeric_label_is_recognised_in_any_notation(
    label: Verb, server: Server, options: Any, said: Any, expected: Any
) -> None:
    says(server, "first", said)
    assert label(frame("first"), "text", **options)["label"].tolist() == [expected]


@pytest.mark.parametrize("said", [{"score": 7.5}, {"score": True}, {"score": "7"}, {"score": None}, {"score": 11.0}])
def test_a_value_that_is_no_label_in_any_spelling_is_off_label(label: Verb, server: Server, said: Any) -> None:
    says(server, "first", said)
    assert codes(label(frame("first"), "text", scale=(1, 10))) == ["off_label"]


def test_a_label_written_as_a_number_has_probabilities(label: Verb, server: Server) -> None:
    said = [('{"label": ', {'{"label": ': 1.0}), ("2", {"2": 0.75, "1": 0.25}), ("}", {"}": 1.0})]
    says(server, "first", tokens(*said))
    out = label(frame("first"), "text", labels=[1, 2], confidence="logprobs")
    assert out["probabilities"][0] == pytest.approx({"1": 0.25, "2": 0.75})


def test_the_simulators_probabilities_fit_its_labels(label: Verb) -> None:
    texts = frame("A wonderful lamp, great.", "It broke, terrible.", "It is a lamp.")
    out = label(texts, "text", labels=TONES, confidence="logprobs")
    assert out["label"].tolist()[:2] == ["positive", "negative"]
    assert all(out["confidence"][:2] > 0.85)
    assert 0.35 < out["confidence"][2] < 0.75
    for chosen, sure, told in zip(out["label"], out["confidence"], out["probabilities"], strict=True):
        assert sum(told.values()) == pytest.approx(1)
        assert told[chosen] == sure


def test_the_responses_api_gives_labels_and_probabilities(label: Verb, reviews: pd.DataFrame) -> None:
    options: dict[str, Any] = {
        "labels": TONES,
        "confidence": "logprobs",
        "examples": pd.DataFrame({"text": ["Fine."], "label": ["positive"]}),
    }
    out = label(reviews, "{text}", endpoint="responses", include=["reasoning.encrypted_content"], **options)
    assert out["label"].tolist() == ["positive", "negative", "positive"]
    assert out["confidence"].between(0.85, 1).all()
    body = asked(out)[0]
    assert body["text"]["format"]["schema"]["properties"]["label"]["enum"] == TONES
    assert (body["include"][1:], body["top_logprobs"]) == (["message.output_text.logprobs"], 20)
    assert [item["role"] for item in body["input"]] == ["user", "assistant", "user"]


def test_confidence_is_missing_if_the_server_returns_no_logprobs(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "positive"})
    out = label(frame("first"), "text", labels=TONES, confidence="logprobs")
    assert out["label"].tolist() == ["positive"]
    assert cells(out["confidence"]) == cells(out["probabilities"]) == [None]


def test_a_reasoning_model_without_logprobs_fails_each_row_with_the_reason(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=TONES, confidence="logprobs", model="gpt-5-mini")
    assert codes(out) == ["unsupported_parameter"] * 3
    assert "'logprobs' is not supported with this model" in out["error"][0]


def test_probabilities_survive_the_journal(label: Verb, reviews: pd.DataFrame, server: Server) -> None:
    first = label(reviews, "{text}", labels=TONES, confidence="logprobs")
    again = label(reviews, "{text}", labels=TONES, confidence="logprobs")
    assert server.stats()["received"] == len(reviews)
    pd.testing.assert_frame_equal(
        first[["label", "confidence", "probabilities"]], again[["label", "confidence", "probabilities"]]
    )


def test_a_label_below_abstain_below_is_missing(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "negative"}, {"label": "positive"}, {"label": "positive"})
    out = label(frame("first", "great"), "text", labels=TONES, samples=3, abstain_below=0.9)
    assert cells(out["label"]) == [None, "positive"]
    assert out["confidence"].tolist() == [2 / 3, 1.0]
    assert out["status"].tolist() == ["succeeded", "succeeded"]


def test_a_label_of_unknown_confidence_is_missing_with_abstain_below(label: Verb, server: Server) -> None:
    says(server, "first", {"label": "positive"})
    out = label(frame("first"), "text", labels=TONES, confidence="logprobs", abstain_below=0.5)
    assert cells(out["label"]) == [None]


# Several labels, scores, several fields


def test_several_labels_are_lists_in_the_order_of_the_labels(label: Verb, server: Server) -> None:
    says(server, "first", {"labels": ["c", "a"]})
    says(server, "second", {"labels": []})
    out = label(frame("first", "second"), "text", labels=["a", "b", "c"], multi=True)
    assert out["label"].tolist() == [["a", "c"], []]
    assert out["status"].tolist() == ["succeeded"] * 2


def test_a_scale_gives_whole_numbers_with_their_probabilities(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", scale=(1, 10), labels={1: "hated it"}, confidence="logprobs")
    assert str(out["label"].dtype) == "Int64"
    assert out["label"].between(1, 10).all()
    assert list(out["probabilities"][0]) == [str(score) for score in range(1, 11)]
    assert "- 1: hated it" in asked(out)[0]["messages"][0]["content"]


def test_each_field_of_a_class_has_its_columns(label: Verb, server: Server) -> None:
    said = {"tone": "negative", "topics": ["refund", "order"], "stars": 2, "is_spam": False, "gist": "Money back."}
    says(server, "first", said)
    out = label(frame("first"), "text", labels=Review)
    assert out["tone"].tolist() == ["negative"]
    assert out["topics"][0] == [Topic.ORDER, Topic.REFUND]
    assert (out["stars"].tolist(), str(out["stars"].dtype)) == ([2], "Int64")
    assert out["is_spam"].tolist() == [False]
    assert out["gist"].tolist() == ["Money back."]
    assert "label" not in out


def test_each_field_of_a_class_has_a_confidence_of_its_own(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews[["text"]], "{text}", labels=Review, confidence=["logprobs", "votes"], samples=2)
    made = [name for name in out.columns if "confidence" in name or "votes" in name or "probabilities" in name]
    assert made == [
        *("tone_confidence", "tone_confidence_votes", "tone_votes", "tone_probabilities"),
        *("topics_confidence", "topics_confidence_votes", "topics_votes"),
        *("stars_confidence", "stars_confidence_votes", "stars_votes", "stars_probabilities"),
        *("is_spam_confidence", "is_spam_confidence_votes", "is_spam_votes", "is_spam_probabilities"),
        "gist_votes",
    ]
    assert out["tone_confidence"].gt(0.85).all()
    assert out["is_spam_confidence"].notna().all()
    assert out["topics_confidence_votes"].tolist() == [1.0] * 3


def test_an_answer_that_the_class_itself_refuses_is_off_label(label: Verb, server: Server) -> None:
    class Even(BaseModel):
        number: Annotated[int, Field(ge=1, le=4, multiple_of=2)]

    says(server, "first", {"number": 3})
    out = label(frame("first"), "text", labels=Even)
    assert codes(out) == ["off_label"]
    assert "Even does not take the answer" in out["error"][0]


# A field of the user's own


class Doubtful(BaseModel):
    """A class whose own field is called as the column of a confidence."""

    label: Literal["good", "bad"]
    confidence: Literal["low", "high"]


DOUBTFUL_USES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "evaluate": lambda out: po.evaluate(out.assign(gold="good"), gold="gold").accuracy,
    "review": lambda out: po.review(out).item(0)["confidence"],
    "label-studio": lambda out: po.to_jsonl(out, "tasks.json", format="label-studio"),
    "argilla": lambda out: po.to_jsonl(out, "tasks.json", format="argilla"),
}


@pytest.mark.parametrize("use", DOUBTFUL_USES.values(), ids=DOUBTFUL_USES)
def test_a_field_called_confidence_is_a_label(label: Verb, use: Callable[[pd.DataFrame], Any]) -> None:
    use(label(frame("first"), "{text}", labels=Doubtful))
