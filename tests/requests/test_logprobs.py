"""Probabilities of labels, checked against calculations by hand and against a model with known probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from parallel_openai._json import dumps
from parallel_openai._requests.logprobs import LabelProbabilities, Step, find_values, label_probabilities, steps_of


def step(token: str, probability: float, **others: float) -> Step:
    """A token, and others that stood beside it; `_` stands for a quote in their names."""
    listed = {token: probability, **{name.replace("_", '"'): share for name, share in others.items()}}
    return Step(token.encode(), probability, {each.encode(): share for each, share in listed.items()})


def told(labels: list[Any], chosen: Any, *steps: Step, before: str = '{"label": ') -> LabelProbabilities:
    choices = [dumps(label).decode() for label in labels]
    whole = [Step(before.encode(), 1.0, {}), *steps]
    found = label_probabilities(whole, len('{"label": '), choices, labels.index(chosen))
    assert found is not None
    return found


def test_probabilities_of_single_token_labels_are_normalised_over_the_labels() -> None:
    # 0.5 + 0.3 + 0.1 lead to a label; 0.1 does not count.
    found = told(["good", "bad", "mixed"], "good", step('"', 1), step("good", 0.5, bad=0.3, mixed=0.1, Well=0.1))
    assert found.whole == pytest.approx([5 / 9, 3 / 9, 1 / 9])
    assert found.first == pytest.approx([5 / 9, 3 / 9, 1 / 9])
    assert found.low == pytest.approx(found.whole)
    assert found.high == pytest.approx(found.whole)


def test_labels_with_a_common_prefix_are_distinguished_at_the_first_differing_token() -> None:
    labels = ["very good", "very bad", "neutral"]
    found = told(
        labels, "very good", step('"very', 0.8, _neutral=0.2), step(" good", 0.3, **{" bad": 0.1, " odd": 0.6})
    )
    assert found.first == pytest.approx([0.8, 0.8, 0.2])
    # In the second place only good and bad lead to a label: 0.3 of 0.4.
    assert found.whole == pytest.approx([0.8 * 0.75, 0.8 * 0.25, 0.2])


def test_the_probability_of_a_token_that_leads_to_several_labels_is_shared_among_them() -> None:
    found = told(["very good", "very bad", "neutral"], "neutral", step('"neutral', 0.6, _very=0.4))
    assert found.whole == pytest.approx([0.2, 0.2, 0.6])
    assert (found.low, found.high) == (pytest.approx([0, 0, 0.6]), pytest.approx([0.4, 0.4, 0.6]))


def test_other_tokens_for_the_same_label_count_for_it() -> None:
    found = told(["good", "bad"], "good", step('"good', 0.5, _go=0.25, _ba=0.25))
    assert found.whole == pytest.approx([0.75, 0.25])
    assert found.first == pytest.approx([0.75, 0.25])


def test_an_ambiguous_tokens_probability_is_shared_in_proportion_to_the_labels_others() -> None:
    found = told(["negative", "neutral"], "negative", step('"neg', 0.4, _neu=0.1, _ne=0.5))
    assert found.whole == pytest.approx([0.8, 0.2])


def test_tokens_that_hold_more_than_the_label_count_for_it() -> None:
    assert told(["a", "b"], "a", step('"a"}', 0.6, **{'"b"\n': 0.2})).whole == pytest.approx([0.75, 0.25])


def test_a_label_that_is_a_prefix_of_another_is_recognised_by_its_end() -> None:
    found = told(["pos", "positive"], "pos", step('"pos', 0.9), step('"}', 0.7, itive=0.3))
    assert found.whole == pytest.approx([0.7, 0.3])
    assert found.first == pytest.approx([1, 1])


def test_the_label_1_is_not_mistaken_for_10() -> None:
    found = told([1, 2, 10], 1, step("1", 0.8, **{"2": 0.2}), step("}", 0.25, **{"0": 0.25, "5": 0.5}))
    assert found.whole == pytest.approx([0.4, 0.2, 0.4])


def test_a_number_that_ends_with_the_last_token_has_a_probability() -> None:
    found = told([1, 10], 1, step("1", 1.0))
    assert (found.whole, found.low, found.high) == ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0))


def test_booleans_have_probabilities_like_any_label() -> None:
    assert told([True, False], False, step("false", 0.6, true=0.4)).whole == pytest.approx([0.4, 0.6])


def test_a_token_that_begins_before_the_value_is_compared_from_there_on() -> None:
    found = told(["a", "b"], "a", step(' "a', 0.6, **{' "b': 0.1, " null": 0.1, '"b': 0.1}), before='{"label":')
    assert found.whole == pytest.approx([0.75, 0.25])


def test_an_unlisted_label_has_at_most_the_probability_of_the_last_listed_token() -> None:
    # The list leaves 0.2, and the least of it has 0.1: c and d may have 0.1 each.
    found = told(["a", "b", "c", "d"], "a", step('"a', 0.5, _b=0.2, _x=0.1))
    assert found.whole == pytest.approx([5 / 9, 2 / 9, 1 / 9, 1 / 9])
    assert found.low == pytest.approx([5 / 9, 2 / 9, 0, 0])
    assert found.high == pytest.approx([5 / 7, 2 / 7, 1 / 8, 1 / 8])


def test_unlisted_labels_together_have_at_most_the_remaining_probability() -> None:
    found = told(["a", "b", "c", "d"], "a", step('"a', 0.5, _b=0.46))
    assert found.whole == pytest.approx([0.5, 0.46, 0.02, 0.02])
    assert found.high[2:] == pytest.approx([0.04, 0.04])


def test_without_top_logprobs_the_other_labels_share_the_rest() -> None:
    alone = Step(b'"a', 0.7, {})
    assert told(["a", "b", "c"], "a", alone).whole == pytest.approx([0.7, 0.15, 0.15])


def test_a_chosen_token_missing_from_top_logprobs_still_counts() -> None:
    drawn = Step(b'"b', 0.1, {b'"a': 0.9})
    assert told(["a", "b"], "b", drawn).whole == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("drawn", [Step(b'"a', 0.0, {b'"a': 0.0}), Step(b'"x', 1.0, {})], ids=["no chance", "other"])
def test_there_are_no_probabilities_if_the_tokens_do_not_lead_to_the_label(drawn: Step) -> None:
    assert label_probabilities([drawn], 0, ['"a"', '"b"'], 0) is None


def test_a_single_token_label_is_not_counted_for_a_shorter_token() -> None:
    labels = ["1", "10", "2"]
    first = {"1": 0.3, "10": 0.6, "2": 0.1}
    ten = told(labels, "10", step('"', 1), step("10", 0.6, **first), step('"}', 1))
    one = told(labels, "1", step('"', 1), step("1", 0.3, **first), step('"}', 1.0, **{"0": 1e-9}))
    two = told(labels, "2", step('"', 1), step("2", 0.1, **first), step('"}', 1))
    for found in (ten, one, two):
        assert found.whole == pytest.approx([0.3, 0.6, 0.1], abs=1e-6)
    # It could be: what follows a token that was not drawn is not known.
    assert (ten.low[:2], ten.high[:2]) == (pytest.approx([0, 0.6]), pytest.approx([0.3, 0.9]))


@pytest.mark.parametrize("opening", [['"'], [' "'], [" ", '"'], ["\n", ' "']], ids=repr)
def test_a_token_that_holds_the_quote_and_more_is_another_label(opening: list[str]) -> None:
    others = {'"f': 0.6, " _": 0.2} if opening[-1] == '"' else {'"f': 0.6, '"': 0.2}
    steps = [step(each, 1) for each in ['{"label":', *opening[:-1]]]
    steps += [step(opening[-1], 0.2, **others), step('true"', 1)]
    start = len('{"label":' + "".join(opening)) - 1
    found = label_probabilities(steps, start, ['"true"', '"false"'], 0)
    assert found is not None
    assert found.whole == found.first == pytest.approx([0.4, 0.6])


def test_the_colon_before_a_number_may_hold_another_one() -> None:
    steps = [step('{"label"', 1), step(":", 0.5, **{":2": 0.25}), step("1", 0.5, **{"2": 0.5}), step("}", 1)]
    found = label_probabilities(steps, len('{"label":'), ["1", "2"], 0)
    assert found is not None
    assert found.whole == pytest.approx([1 / 3, 2 / 3])


class Toy:
    """A model of few tokens, whose chance of each depends on all that is written; everything about it is known."""

    def __init__(self, seed: int, tokens: list[str], labels: list[str], shown: int, opening: str) -> None:
        self.seed, self.tokens, self.shown, self.opening = seed, tokens, shown, opening
        self.ends = [f'{"" if opening else chr(34)}{label}"' for label in labels]

    @cache  # noqa: B019  # it lives as long as the test
    def raw(self, written: str) -> dict[str, float]:
        dice = random.Random(f"{self.seed} {written}")
        weights = [dice.random() ** 3 for _ in self.tokens]
        return {token: weight / sum(weights) for token, weight in zip(self.tokens, weights, strict=True)}

    def held(self, written: str) -> dict[str, float]:
        fits = {t: p for t, p in self.raw(written).items() if any(e.startswith(written + t) for e in self.ends)}
        return {token: share / sum(fits.values()) for token, share in fits.items()}

    def ways(self, written: str = "", steps: tuple[Step, ...] = ()) -> Iterator[tuple[int, float, list[Step]]]:
        """Each way to a label: its number, its probability, and what the server tells along it."""
        if written in self.ends:
            yield self.ends.index(written), 1.0, [*([step(self.opening, 1)] if self.opening else ()), *steps]
            return
        raw = self.raw(written)
        listed = dict(sorted(raw.items(), key=lambda pair: -pair[1])[: self.shown])
        for token, share in self.held(written).items():
            told = Step(token.encode(), raw[token], {each.encode(): listed[each] for each in listed})
            for label, rest, whole in self.ways(written + token, (*steps, told)):
                yield label, share * rest, whole


TOYS = {
    "letters": (list('abcd"?'), ["abc", "abd", "ac", "b", "bad"], 6),
    "begin alike": ([*"abdly?", '"'], ["bad", "badly", "b", "a"], 7),
    "words": (["bad", "ly", "b", "adly", "bold", "old", '"', "?", 'bad"'], ["bad", "badly", "bold", "old"], 9),
    "numbers": ([*"012", "10", '"', "11", "?"], ["1", "10", "11", "2", "0"], 7),
    "few shown": (list('abcdef"?'), ["a", "b", "c", "d", "e", "f"], 4),
    "few shown, alike": (list('abcdef"?'), ["a", "ab", "abc", "d", "de", "f"], 4),
}


OPEN = {"a quote with a letter": (["a", "b", "d", '"', '"b', '"ad', "?"], ["bad", "bd", "ad", "a"], 7)}


@pytest.mark.parametrize("toy", [*TOYS, *OPEN])
def test_bounds_contain_the_true_probability_whichever_label_was_drawn(toy: str) -> None:
    tokens, labels, shown = {**TOYS, **OPEN}[toy]
    exact = 0
    for seed in range(8):
        model = Toy(seed, tokens, labels, shown, '"' if toy in TOYS else "")
        truth = [0.0] * len(labels)
        for label, share, _ in model.ways():
            truth[label] += share
        assert sum(truth) == pytest.approx(1)
        for label, share, steps in model.ways():
            if share < 1e-6:
                continue
            found = label_probabilities(steps, 0, [f'"{each}"' for each in labels], label)
            assert found is not None
            assert sum(found.whole) == pytest.approx(1)
            for low, whole, high, right in zip(found.low, found.whole, found.high, truth, strict=True):
                assert low - 1e-9 <= right <= high + 1e-9
                assert low - 1e-9 <= whole <= high + 1e-9
                assert whole > 0 or right < 1e-6
                exact += high - low < 1e-9
    assert exact or shown < len(tokens)


def test_tokens_are_read_with_their_alternatives() -> None:
    token = {"token": "ä", "logprob": -0.5, "bytes": [195, 164], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    assert steps_of([token]) == [Step("ä".encode(), math.exp(-0.5), {b"b": math.exp(-1.0)})]


@pytest.mark.parametrize(
    "tokens", [None, [], [{"token": "a"}], [{"token": "a", "logprob": None}], ["a"], [{"logprob": -1.0}]], ids=str
)
def test_a_response_without_logprobs_has_no_probabilities(tokens: Any) -> None:
    assert steps_of(tokens) is None


@pytest.mark.parametrize(
    ("text", "answer", "places"),
    [
        ('{"label":"a"}', {"label": "a"}, {"label": '"a"}'}),
        ('```json\n{\n "label" : "a"\n}\n```', {"label": "a"}, {"label": '"a"\n}\n```'}),
        ('{x} {"label": "b"} {"label": "a"}', {"label": "a"}, {"label": '"a"}'}),
        (
            '{"reason":"It says \\"label\\": \\"b\\" – ü", "label": "a", "n": 10}',
            {"reason": 'It says "label": "b" – ü', "label": "a", "n": 10},
            {"label": '"a", "n": 10}', "n": "10}"},
        ),
        ('{"label": "a"', {"label": "a"}, None),
    ],
    ids=["plain", "fenced", "later", "reason", "cut"],
)
def test_the_values_are_found_in_the_tokens(text: str, answer: Any, places: Any) -> None:
    raw = text.encode()
    steps = [Step(raw[at : at + 3], 1.0, {}) for at in range(0, len(raw), 3)]
    found = find_values(steps, answer)
    if places is None:
        assert found is None
    else:
        assert found is not None
        assert {name: raw[found[name] :].decode() for name in places} == places


def test_tokens_that_are_not_utf_8_give_no_values() -> None:
    assert find_values([Step(b"\xff", 1.0, {})], {"label": "a"}) is None
