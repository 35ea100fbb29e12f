"""Compute each label's probability from the log probabilities of the answer's tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The most `top_logprobs` of the API.
MOST_ALTERNATIVES = 20

_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer."""

    token: bytes  # its bytes
    probability: float  # its conditional probability
    listed: Mapping[bytes, float]  # the server's list of the likeliest tokens at this position with their probabilities


@dataclass(frozen=True, slots=True)
class LabelProbabilities:
    """The labels' probabilities, in the order of the labels."""

    # Each label's probability, which add up to 1; a value between the bounds if only these are known.
    whole: tuple[float, ...]
    # Each label's bounds; equal if the tokens determine the probability exactly.
    low: tuple[float, ...]
    high: tuple[float, ...]
    first: tuple[float, ...]  # the probability that the answer begins like each label, by its first token alone


def logprob_params(endpoint: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that request log probabilities, in addition to a call's own.

    >>> logprob_params("chat.completions", {"top_logprobs": 5})
    {'logprobs': True, 'top_logprobs': 5}
    >>> logprob_params("responses", {})
    {'include': ['message.output_text.logprobs'], 'top_logprobs': 20}
    """
    top = {"top_logprobs": params.get("top_logprobs", MOST_ALTERNATIVES)}
    if endpoint == "responses":
        return {"include": list(dict.fromkeys([*(params.get("include") or ()), "message.output_text.logprobs"])), **top}
    return {"logprobs": True, **top}


def steps_of(tokens: Sequence[Any] | None) -> list[Step] | None:
    """Parse an answer's logprobs; None if there are none, or they are malformed.

    >>> steps_of([{"token": "Hi", "logprob": 0.0, "bytes": [72, 105], "top_logprobs": []}])
    [Step(token=b'Hi', probability=1.0, listed={})]
    """
    if not tokens:
        return None
    try:
        return [Step(_bytes(each), _probability(each), _listed(each.get("top_logprobs") or ())) for each in tokens]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):  # malformed
        return None


def _bytes(token: Mapping[str, Any]) -> bytes:
    raw = token.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(token["token"]).encode()


def _probability(token: Mapping[str, Any]) -> float:
    return math.exp(min(0.0, float(token["logprob"])))


def _listed(tokens: Iterable[Mapping[str, Any]]) -> dict[bytes, float]:
    return {_bytes(each): _probability(each) for each in tokens}


def find_values(steps: Sequence[Step], answer: Mapping[str, Any]) -> dict[str, int] | None:
    """The offset of each field's value in the tokens' bytes; None if the answer is not found in them.

    Searches the tokens instead of the message, because servers strip text around the JSON.

    >>> steps = [Step(part.encode(), 1.0, {}) for part in ("```json", "{", '"label": ', '"a"', "}")]
    >>> find_values(steps, {"label": "a"})
    {'label': 17}
    """
    raw = b"".join(step.token for step in steps)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = _DECODER.raw_decode(text, start)
        except ValueError:
            found = None
        if found == answer:
            return {name: len(text[:at].encode()) for name, at in _value_offsets(text, start)}
        start = text.find("{", start + 1)
    return None


def _value_offsets(text: str, at: int) -> Iterable[tuple[str, int]]:
    """Yield the names of an object's fields and the offsets of their values; `at` is its brace."""
    at = _skip_space(text, at + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip_space(text, _skip_space(text, at) + 1)  # beyond the colon
        yield name, at
        at = _skip_space(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def label_probabilities(
    steps: Sequence[Step], start: int, choices: Sequence[str], chosen: int
) -> LabelProbabilities | None:
    """The probability of each label, from the tokens at which the answer could have become another label.

    A label's probability is the product of its tokens' conditional probabilities, including its end (the closing
    quote, or what follows a number: if 10 is a label too, "1" may still become either). The model is assumed to be
    constrained to the labels: at each position, the probabilities of tokens that lead to a possible label are
    normalised,

        q(token) = p(token) / (sum of p over the listed tokens that lead to a label + u)

    The answer has these only along its own tokens. Another listed token that leads to a single label gives it all of
    its q, since the rest is forced; so the result does not depend on which label was drawn. Two cases are known only
    within bounds:

    - Another token that leads to several labels: each of them has from 0 to all of its q. `whole` shares it equally
      among those without a longer token in the list (next to "10", "1" is the label 1, because the tokenizer would
      write 10 as one token), or, if all have one, in proportion to their other probability.
    - A label that no listed token leads to: it has from 0 to the probability of the least likely listed token, and all
      such labels together at most what the list leaves of 1. `u` is the sum of these; `whole` has the most.

    Tokens that end at or before the value's quote say nothing about the label; a token that continues from there into
    a label does.

    The bounds hold if labels that a listed token leads to are not begun by an unlisted token as well.

    Args:
        steps: the answer's tokens.
        start: the byte offset of the value (of its quote, for strings).
        choices: the labels as JSON.
        chosen: the index of the label that was answered.

    Returns:
        The probabilities; None if the tokens do not lead to the chosen label, or one of them has probability 0.

    >>> steps = [Step(b'{"label": "', 1.0, {}), Step(b"ham", 0.375, {b"ham": 0.375, b"spam": 0.125, b"?": 0.5})]
    >>> label_probabilities(steps, 10, ['"ham"', '"spam"'], 0).whole
    (0.75, 0.25)
    """
    walk = _Walk([choice.encode() for choice in choices], chosen)
    end = 0
    for step in steps:
        begin, end = end, end + len(step.token)
        if end >= start and not walk.take(step, step.token[: max(0, start - begin)]):
            break
    return walk.result()


class _Walk:
    """Follows the tokens of an answer's value, with the labels that are still possible.

    `_reached` is the product of the q so far, `_most` the same with nothing reserved for unlisted labels (u = 0).
    """

    def __init__(self, choices: list[bytes], chosen: int) -> None:
        self._choices, self._chosen = choices, chosen
        self._openings = {b"", b'"'} if choices[0].startswith(b'"') else {b""}
        self._possible = frozenset(range(len(choices)))
        self._written = b""
        self._reached = self._most = 1.0
        self._whole, self._low, self._high = ([0.0] * len(choices) for _ in range(3))
        self._unclear: list[tuple[frozenset[int], float]] = []
        self._first = [0.0] * len(choices)
        self._begun = False

    def take(self, step: Step, head: bytes) -> bool:
        """Process a token, of which the first bytes (`head`) precede the value; returns whether to continue."""
        listed = {**step.listed, step.token: step.probability}
        texts = {token: text for token in listed if (text := self._with(token, head)) is not None}
        ways = {token: labels for token, text in texts.items() if (labels := self._leads_to(text))}
        own = ways.get(step.token, frozenset())
        if self._chosen not in own or step.probability <= 0:
            self._reached = 0.0
            return False
        opens = len(own) > 1 and texts[step.token] in self._openings
        others = {token: ways[token] for token in ways if token != step.token}
        if opens:
            others = {token: labels for token, labels in others.items() if texts[token] not in self._openings}
        mass = sum(listed[token] for token in ways.keys() - others.keys())
        unlisted = self._unlisted(step, listed, ways)
        known = mass + sum(listed[token] for token in others)
        least, most = self._reached / (known + sum(unlisted.values())), self._most / known
        if not self._begun:
            for token, labels in (others if opens else ways).items():
                _add(self._first, labels, listed[token] * least)
        for token, labels in others.items():
            self._branch(labels - _with_longer(token, ways), labels, listed[token] * least, listed[token] * most)
        for label, share in unlisted.items():
            alone = min([*step.listed.values(), share * len(unlisted)])
            _add(self._whole, [label], share * least)
            _add(self._high, [label], self._most * alone / (known + alone))
        self._reached, self._most = mass * least, mass * most
        self._written, self._possible, self._begun = texts[step.token], own, self._begun or not opens
        return len(own) > 1

    def _branch(self, likely: frozenset[int], labels: frozenset[int], least: float, most: float) -> None:
        """Distribute the probability of a token that is not the answer's among the labels that it leads to."""
        _add(self._high, labels, most)
        if len(labels) == 1:
            _add(self._low, labels, least)
        if likely:
            _add(self._whole, likely, least / len(likely))
        else:
            self._unclear.append((labels, least))

    def _with(self, token: bytes, head: bytes) -> bytes | None:
        """The value so far with the token appended; None if the token does not begin with `head`."""
        if not self._written:  # space before the value may differ
            token, head = token.lstrip(), head.lstrip()
        return self._written + token[len(head) :] if token.startswith(head) else None

    def _leads_to(self, written: bytes) -> frozenset[int]:
        return frozenset(each for each in self._possible if _goes_with(self._choices[each], written))

    def _unlisted(
        self, step: Step, listed: Mapping[bytes, float], ways: Mapping[bytes, frozenset[int]]
    ) -> dict[int, float]:
        """The most that labels can have to which no listed token leads."""
        unseen = self._possible.difference(*ways.values())
        rest = max(0.0, 1.0 - sum(listed.values()))
        return {label: min([*step.listed.values(), rest / len(unseen)]) for label in sorted(unseen)}

    def result(self) -> LabelProbabilities | None:
        if self._reached <= 0 or not self._begun:
            return None
        _add(self._whole, [self._chosen], self._reached)
        _add(self._high, self._possible, self._most)  # several if the tokens end before they differ
        if len(self._possible) == 1:
            _add(self._low, self._possible, self._reached)
        for labels, mass in self._unclear:
            held = sum(self._whole[label] for label in labels)
            for label in labels:
                share = self._whole[label] / held if held else 1 / len(labels)
                _add(self._whole, [label], mass * share)
        high = [min(each, 1.0) for each in self._high]
        return LabelProbabilities(*map(tuple, (self._whole, self._low, high, self._first)))


def _add(sums: list[float], labels: Iterable[int], mass: float) -> None:
    for label in labels:
        sums[label] += mass


def _with_longer(token: bytes, ways: Mapping[bytes, frozenset[int]]) -> frozenset[int]:
    """The labels to which longer listed tokens that begin with this one lead."""
    longer = (labels for other, labels in ways.items() if len(other) > len(token) and other.startswith(token))
    return frozenset().union(*longer)


def _goes_with(choice: bytes, written: bytes) -> bool:
    """Whether `written` is a prefix of the choice, or the choice followed by JSON; "10" does not follow "1" so."""
    return choice.startswith(written) or (written.startswith(choice) and written[len(choice) :][:1] in b" \t\r\n,}")
