"""How sure a model was of a label: the probability of each label, from the log probabilities of the answer's tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The most alternatives to a token that the API tells.
MOST_ALTERNATIVES = 20

_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer.

    Attributes:
        token: its bytes.
        probability: that of this token, after those before it.
        listed: the likeliest tokens at this place with theirs, as many as the server tells.
    """

    token: bytes
    probability: float
    listed: Mapping[bytes, float]


@dataclass(frozen=True, slots=True)
class LabelProbabilities:
    """What the tokens say about the labels.

    Attributes:
        whole: the probability of each label, in the order of the labels; they add up to 1.
        first: the probability that the answer begins as the chosen label does, looking at its first token only.
    """

    whole: tuple[float, ...]
    first: float


def logprob_params(endpoint: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ask an endpoint for the tokens' probabilities, beside those that a call has anyway.

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
    """An answer's tokens as the API gives them; None where the server did not send them, or others than it should.

    >>> steps_of([{"token": "Hi", "logprob": 0.0, "bytes": [72, 105], "top_logprobs": []}])
    [Step(token=b'Hi', probability=1.0, listed={})]
    """
    if not tokens:
        return None
    try:
        return [Step(_bytes(each), _probability(each), _listed(each.get("top_logprobs") or ())) for each in tokens]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):  # a server of another kind
        return None


def _bytes(token: Mapping[str, Any]) -> bytes:
    raw = token.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(token["token"]).encode()


def _probability(token: Mapping[str, Any]) -> float:
    return math.exp(min(0.0, float(token["logprob"])))


def _listed(tokens: Iterable[Mapping[str, Any]]) -> dict[bytes, float]:
    return {_bytes(each): _probability(each) for each in tokens}


def find_values(steps: Sequence[Step], answer: Mapping[str, Any]) -> dict[str, int] | None:
    """Where the value of each field begins in the bytes of the tokens; None where the answer is not found in them.

    Looked for in the tokens and not in the message, since servers cut off what stands around the JSON.

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
            return {name: len(text[:at].encode()) for name, at in _value_places(text, start)}
        start = text.find("{", start + 1)
    return None


def _value_places(text: str, at: int) -> Iterable[tuple[str, int]]:
    """The names of an object's fields, and where their values begin; `at` is its brace."""
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
    """The probability of each label, from the tokens at which the answer could have become another one.

    The labels are walked token by token. At each place the probabilities of the tokens that lead to a label still
    possible are divided by their sum, so that what is no label does not count:

        q(token) = p(token) / (sum of p over the listed tokens that lead to a label + u)

    A label's probability is the sum over the ways to it of the products of the q along the way; of the ways that
    leave the answer's own, only the first step is known, and where it leads to several labels they share it in
    proportion to what they have for themselves. `u` stands for the labels that no listed token leads to: for each of
    them the probability of the least likely listed token, and for all together at the most what the list leaves of 1.
    So the chosen label's probability is rather too low than too high.

    Args:
        steps: the answer's tokens.
        start: where the value begins, in bytes; of a text its quote.
        choices: the labels as JSON.
        chosen: the number of the label that was answered.

    Returns:
        None where the tokens do not lead to the chosen label, or a probability among them is 0.

    >>> steps = [Step(b'{"label": "', 1.0, {}), Step(b"ham", 0.375, {b"ham": 0.375, b"spam": 0.125, b"?": 0.5})]
    >>> label_probabilities(steps, 10, ['"ham"', '"spam"'], 0).whole
    (0.75, 0.25)
    """
    quoted = choices[0].startswith('"')  # by tradition a token of its own, which says nothing about the label
    walk = _Walk([choice[quoted:].encode() for choice in choices], chosen)
    start += quoted
    end = 0
    for step in steps:
        begin, end = end, end + len(step.token)
        if end > start and not walk.take(step, step.token[: max(0, start - begin)]):
            break
    return walk.result()


class _Walk:
    """Along the tokens of an answer's value, with the labels that are still possible."""

    def __init__(self, choices: list[bytes], chosen: int) -> None:
        self._choices, self._chosen = choices, chosen
        self._possible = frozenset(range(len(choices)))
        self._written = b""
        self._reached = 1.0  # the product of the q so far
        self._masses: dict[frozenset[int], float] = {}
        self._first: float | None = None

    def take(self, step: Step, head: bytes) -> bool:
        """Go on by a token, whose first bytes (`head`) stand before the value. Gives whether there is more to see."""
        ways = {token: self._leads_to(token, head) for token in {*step.listed, step.token}}
        own = ways[step.token]
        if self._chosen not in own:
            self._reached = 0.0
            return False
        groups: dict[frozenset[int], float] = {}
        for token, labels in ways.items():
            if labels and token != step.token:
                groups[labels] = groups.get(labels, 0.0) + step.listed[token]
        for label, mass in self._unlisted(step, ways):
            groups[frozenset({label})] = groups.get(frozenset({label}), 0.0) + mass
        whole = step.probability + sum(groups.values())
        if whole <= 0:
            self._reached = 0.0
            return False
        for labels, mass in groups.items():
            self._masses[labels] = self._masses.get(labels, 0.0) + self._reached * mass / whole
        if self._first is None:
            begins_so = step.probability + sum(mass for labels, mass in groups.items() if self._chosen in labels)
            self._first = begins_so / whole
        self._reached *= step.probability / whole
        self._written += step.token[len(head) :]
        self._possible = own
        return len(own) > 1

    def _leads_to(self, token: bytes, head: bytes) -> frozenset[int]:
        if not token.startswith(head):
            return frozenset()
        written = self._written + token[len(head) :]
        return frozenset(each for each in self._possible if _goes_with(self._choices[each], written))

    def _unlisted(self, step: Step, ways: Mapping[bytes, frozenset[int]]) -> list[tuple[int, float]]:
        """What the labels may have that no listed token leads to."""
        unseen = self._possible.difference(*ways.values())
        if not unseen:
            return []
        rest = max(0.0, 1.0 - sum({**step.listed, step.token: step.probability}.values()))
        least = min(step.listed.values(), default=1.0)
        return [(label, min(least, rest / len(unseen))) for label in sorted(unseen)]

    def result(self) -> LabelProbabilities | None:
        if self._reached <= 0 or self._first is None:
            return None
        alone = [self._masses.get(frozenset({label}), 0.0) for label in range(len(self._choices))]
        alone[self._chosen] += self._reached
        whole = list(alone)
        for labels, mass in self._masses.items():
            if len(labels) > 1:
                known = sum(alone[label] for label in labels)
                for label in labels:
                    whole[label] += mass * (alone[label] / known if known else 1 / len(labels))
        total = sum(whole)
        return LabelProbabilities(tuple(each / total for each in whole), min(1.0, self._first))


def _goes_with(choice: bytes, written: bytes) -> bool:
    """Whether what is written may become the choice, or is it and has gone on; 1 has not gone on in 10."""
    if choice.startswith(written):
        return True
    ended = choice.endswith(b'"') or written[len(choice) : len(choice) + 1] not in b"0123456789.eE"
    return written.startswith(choice) and ended
