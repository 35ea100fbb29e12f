"""Packs many rows into one request, parts its result, and splits it if it is refused."""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from parallel_openai._json import dumps
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._records import APIRequest, Attempt, Result, Size, Usage
from parallel_openai._requests.endpoints import PLACES, Answer, Packing, bill_of, usage_of

#: The most rows in flight: answers with vectors are large, and more of them at once are not faster.
MOST_ON_THE_WAY = 16 * 2048


@dataclass(slots=True)
class Split:
    """A refused pack that was cut in two."""

    good: int = 0  # the halves that were answered


class Pack:
    """Several rows' requests for embeddings as one. They differ only in their `input`.

    Attributes:
        request: the one request, whose context is the pack.

    >>> rows = [APIRequest({"model": "m", "input": text}, path="embeddings") for text in ("a", "b", "c")]
    >>> Pack(rows).request.request_json
    {'model': 'm', 'input': ['a', 'b', 'c']}
    >>> [len(part.rows) for part in Pack(rows).halves()]
    [2, 1]
    """

    __slots__ = ("attempts", "request", "rows", "split")

    def __init__(
        self, rows: Sequence[APIRequest], attempts: tuple[Attempt, ...] = (), split: Split | None = None
    ) -> None:
        inputs = [row.request_json["input"] for row in rows]
        # A single text is sent without a list around it, which every server accepts.
        body = {**rows[0].request_json, "input": inputs if len(inputs) > 1 else inputs[0]}
        self.request = request = APIRequest(body, path=rows[0].path)
        request.request_json, request.context, request.asks_for = body, self, len(rows)
        sizes = [row.size or NO_SIZE for row in rows]
        request.size = Size(sum(each.prompt_tokens for each in sizes), sum(each.characters for each in sizes), None, 1)
        self.rows = rows  # the requests
        self.attempts = attempts  # the failed attempts of larger packs with these rows
        self.split = split  # the larger pack that this is a half of; None for a whole one

    def halves(self) -> tuple[Pack, Pack]:
        """Two packs of its rows, which know what they are halves of."""
        first, second = self.cut((len(self.rows) + 1) // 2)
        first.split = second.split = Split()
        return first, second

    def cut(self, size: int) -> list[Pack]:
        """Packs of up to `size` of its rows each; the first has what was billed in vain."""
        rest = _without_bills(self.attempts)
        return [
            Pack(self.rows[start : start + size], rest if start else self.attempts)
            for start in range(0, len(self.rows), size)
        ]


class Queue(Iterator[APIRequest | None]):
    """The requests to send, halves of refused ones first. It may go on after it has been empty.

    It is also empty while too many rows are in flight, and while it is found out for how many rows in a request the
    server returns vectors that can be matched: one at first, and then twice as many each time.

    >>> queue = Queue(iter([APIRequest({"model": "m"})]))
    >>> len(list(queue)), len(list(queue))
    (1, 0)
    """

    def __init__(self, fresh: Iterator[APIRequest | None]) -> None:
        self.most_matched = 0  # rows of the largest pack whose vectors could be matched to their texts
        self._fresh = fresh
        self._ready: deque[Pack] = deque()
        self._held: list[Pack] = []
        self._on_the_way = 0  # rows in flight
        self._doubted: list[Pack] = []
        self._too_many: float = math.inf  # rows of the smallest pack whose vectors could not be matched
        self._probe: Pack | None = None  # in flight

    def ended(self, pack: Pack) -> None:
        """Note that a pack is no longer in flight."""
        self._on_the_way -= len(pack.rows)
        if pack is self._probe:
            self._probe = None

    def put(self, pack: Pack) -> None:
        """Send a pack next."""
        self._ready.appendleft(pack)

    def hold(self, pack: Pack) -> None:
        """Keep a pack until it is released."""
        self._held.append(pack)

    def doubt(self, pack: Pack, *, is_too_large: bool = True) -> None:
        """Keep a pack whose vectors could not be matched, or which may be too large for the server, until it is known
        how many rows may be sent."""
        self._doubted.append(pack)
        if is_too_large:
            self._too_many = min(self._too_many, len(pack.rows))

    @property
    def most_inputs(self) -> float:
        """The most rows of a pack, as far as that was found out."""
        return self.most_matched if 2 * self.most_matched >= self._too_many else math.inf

    def doubted(self) -> list[Pack]:
        """Hand over the packs that were doubted."""
        given_up, self._doubted = self._doubted, []
        return given_up

    def release(self, *, everything: bool) -> None:
        """Send all packs that are held, or the latest of them."""
        for _ in range(len(self._held) if everything else min(1, len(self._held))):
            self._ready.appendleft(self._held.pop())

    def __next__(self) -> APIRequest | None:
        if self._on_the_way >= MOST_ON_THE_WAY:
            raise StopIteration
        if self._doubted:
            self._find_size()
        request = self._ready.popleft().request if self._ready else next(self._fresh)
        if request is not None:
            self._on_the_way += request.asks_for
            request.may_be_too_large = request.asks_for > max(1, self.most_matched)
        return request

    def _find_size(self) -> None:
        """Send a probe next; or all rows, in packs that are small enough, once the size is known."""
        if self.most_inputs < math.inf or self.most_matched >= max(len(pack.rows) for pack in self._doubted):
            self._ready.extend(part for pack in self.doubted() for part in pack.cut(self.most_matched))
            return
        if self._probe is not None:
            raise StopIteration
        size, pack = max(1, 2 * self.most_matched), self._doubted.pop()
        self._probe, rest = Pack(pack.rows[:size], pack.attempts), pack.rows[size:]
        if rest:
            self._doubted.append(Pack(rest, _without_bills(pack.attempts)))
        self._ready.appendleft(self._probe)


class Packer:
    """Packs rows in their order, as many as one request may hold."""

    def __init__(
        self, packing: Packing, most_inputs: int | None = None, room: Callable[[APIRequest], float] | None = None
    ) -> None:
        self.room = room  # returns the tokens that the budget has left for a request that begins with this row
        self._left = math.inf
        # The most of one request; both may be lowered later.
        self.most_inputs = min(packing.inputs, most_inputs or packing.inputs)
        self.most_tokens: float = packing.tokens
        self._rows: list[APIRequest] = []
        self._tokens = 0

    def fit(self, largest: float | None) -> None:
        """Keep below the largest prompt that the account's limits allow, if it is known."""
        self.most_tokens = min(self.most_tokens, largest or self.most_tokens)

    def add(self, row: APIRequest) -> Iterator[Pack]:
        """Add a row; yields the pack that it does not fit into."""
        tokens = row.size.prompt_tokens if row.size else 1
        full = len(self._rows) >= self.most_inputs or self._tokens + tokens > min(self.most_tokens, self._left)
        if self._rows and (full or not _are_alike(self._rows[0], row)):
            yield from self.rest()
        if not self._rows and self.room is not None:
            self._left = self.room(row)
        self._rows.append(row)
        self._tokens += tokens

    def rest(self) -> Iterator[Pack]:
        """The last pack, if any rows are left."""
        if self._rows:
            yield Pack(self._rows)
            self._rows, self._tokens = [], 0


def _are_alike(one: APIRequest, other: APIRequest) -> bool:
    """Whether two requests can travel together: texts with texts, and nothing else may differ."""
    bodies = [one.request_json, other.request_json]
    if isinstance(bodies[0]["input"], str) is not isinstance(bodies[1]["input"], str):
        return False
    first, second = ({name: value for name, value in body.items() if name != "input"} for body in bodies)
    return first == second


def results_of_rows(pack: Pack, result: Result, answers: Sequence[Answer]) -> Iterator[Result]:
    """Each row's own result of a pack's, as if it had been sent by itself; failed if there is no vector.

    Vectors become base64, and the tokens are divided by the length of the texts, so that they add up.
    """
    response: Mapping[str, Any] = result.response
    head = {name: value for name, value in response.items() if name not in ("data", *PLACES)}
    usage = usage_of(response)
    shares = _shares(usage.total_tokens, pack.rows) if usage is not None else [None] * len(pack.rows)
    for row, answer, tokens, sends in zip(pack.rows, answers, shares, attempts_of_rows(pack, result), strict=True):
        own = head if tokens is None else {**head, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        if answer.value is None:
            code, sentence = answer.error_code or "error", answer.error or ""
            yield Result(row, "failed", own, code, sentence, (sentence,), billed_in_vain(sends, own, code))
            continue
        embedding = base64.b64encode(answer.value).decode()
        own = {**own, "data": [{"object": "embedding", "index": 0, "embedding": embedding}]}
        taken = None if tokens is None else Usage(tokens)
        yield Result(row, "succeeded", own, errors=result.errors, attempts=sends, raw=dumps(own), usage=taken)


def billed_in_vain(attempts: tuple[Attempt, ...], response: Mapping[str, Any], code: str) -> tuple[Attempt, ...]:
    """The attempts, the last of which had an unusable answer that was billed."""
    *before, last = attempts
    return (*before, last._replace(error_code=code, bill=bill_of(response)))


def attempts_of_rows(pack: Pack, result: Result) -> Iterator[tuple[Attempt, ...]]:
    """Each row's attempts; what was billed in vain is only among those of the first row."""
    attempts = (*pack.attempts, *result.attempts)
    yield attempts
    yield from repeat(_without_bills(attempts), len(pack.rows) - 1)


def _without_bills(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    return tuple(each._replace(bill=None) for each in attempts)


def _shares(total: int, rows: Sequence[APIRequest]) -> list[int]:
    """A number of tokens, divided among rows by their length.

    >>> rows = [APIRequest({"input": text}) for text in "abc"]
    >>> _shares(10, rows)
    [3, 4, 3]
    """
    lengths = [max(1, row.size.prompt_tokens) if row.size else 1 for row in rows]
    whole = sum(lengths)
    shares, reached, given = [], 0, 0
    for length in lengths:
        reached += length
        upto = (2 * total * reached + whole) // (2 * whole)  # rounded, in whole numbers of any size
        shares.append(upto - given)
        given = upto
    return shares
