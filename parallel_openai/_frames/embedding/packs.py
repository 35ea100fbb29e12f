"""Many rows in one request: how they are put together, taken apart again, and split where they are refused."""

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
from parallel_openai._requests.endpoints import PLACES, Answer, Packing, in_order, mappings, usage_of

#: Rows on their way at the most: answers with their vectors are large, and more of them at once are no faster.
MOST_ON_THE_WAY = 16 * 2048


@dataclass(slots=True)
class Split:
    """A pack that was refused and cut in two; `good` counts the halves that were answered."""

    good: int = 0


class Pack(APIRequest):
    """Several rows' requests for embeddings as one. All of them say the same but for their `input`.

    Attributes:
        rows: the requests.
        attempts: the sends in vain that these rows have been through in larger packs.
        split: the larger pack that this is a half of; None for a whole one.

    >>> rows = [APIRequest({"model": "m", "input": text}, path="embeddings") for text in ("a", "b", "c")]
    >>> Pack(rows).request_json
    {'model': 'm', 'input': ['a', 'b', 'c']}
    >>> [len(half.rows) for half in Pack(rows).halves()]
    [2, 1]
    """

    __slots__ = ("attempts", "rows", "split")

    def __init__(
        self, rows: Sequence[APIRequest], attempts: tuple[Attempt, ...] = (), split: Split | None = None
    ) -> None:
        body = {**rows[0].request_json, "input": [row.request_json["input"] for row in rows]}
        super().__init__(body, path=rows[0].path)
        self.request_json = body
        sizes = [row.size or NO_SIZE for row in rows]
        self.size = Size(sum(each.prompt_tokens for each in sizes), sum(each.characters for each in sizes), None, 1)
        self.rows = rows
        self.attempts = attempts
        self.split = split

    @property
    def asks_for(self) -> int:  # type: ignore[override]
        return len(self.rows)

    def halves(self, attempts: tuple[Attempt, ...] = ()) -> tuple[Pack, Pack]:
        """Two packs of its rows; `attempts` are those that went before, in vain."""
        middle, split = (len(self.rows) + 1) // 2, Split()
        before = (*self.attempts, *attempts)
        return Pack(self.rows[:middle], before, split), Pack(self.rows[middle:], _without_bills(before), split)


class Queue(Iterator[APIRequest | None]):
    """Requests one after another, those first that came back in halves. It may go on after it has been empty.

    It gives nothing either while too many rows are on their way.

    >>> queue = Queue(iter([APIRequest({"model": "m"})]))
    >>> len(list(queue)), len(list(queue))
    (1, 0)
    """

    def __init__(self, fresh: Iterator[APIRequest | None]) -> None:
        self._fresh = fresh
        self._ready: deque[Pack] = deque()
        self._held: list[Pack] = []
        self._on_the_way = 0  # rows

    def ended(self, pack: Pack) -> None:
        """A pack is not on its way any more."""
        self._on_the_way -= len(pack.rows)

    def split(self, pack: Pack, attempts: tuple[Attempt, ...], *, hold: bool) -> None:
        """Put the halves of a pack first; with `hold`, the second waits until it is released."""
        first, second = pack.halves(attempts)
        self._ready.appendleft(first)
        if hold:
            self._held.append(second)
        else:
            self._ready.insert(1, second)

    def release(self, *, everything: bool) -> None:
        """Let those that are held go, or the latest of them."""
        for _ in range(len(self._held) if everything else min(1, len(self._held))):
            self._ready.appendleft(self._held.pop())

    def __next__(self) -> APIRequest | None:
        if self._on_the_way >= MOST_ON_THE_WAY:
            raise StopIteration
        request = self._ready.popleft() if self._ready else next(self._fresh)
        if isinstance(request, Pack):
            self._on_the_way += len(request.rows)
        return request


class Packer:
    """Puts rows together as they come, as many as one request may hold.

    Attributes:
        most_inputs, most_tokens: what one request may hold; they may be lowered while it works.
        room: gives how many tokens the budget has left for the request that a row begins.
    """

    def __init__(
        self, packing: Packing, most_inputs: int | None = None, room: Callable[[APIRequest], float] | None = None
    ) -> None:
        self.room = room
        self._left = math.inf
        self.most_inputs = min(packing.inputs, most_inputs or packing.inputs)
        self.most_tokens: float = packing.tokens
        self._rows: list[APIRequest] = []
        self._tokens = 0

    def fit(self, largest: float | None) -> None:
        """Keep below the largest prompt that the account's limits let through, where that is known."""
        self.most_tokens = min(self.most_tokens, largest or self.most_tokens)

    def add(self, row: APIRequest) -> Iterator[Pack]:
        """Take one row in; gives a pack when the row does not fit any more."""
        tokens = row.size.prompt_tokens if row.size else 1
        full = len(self._rows) >= self.most_inputs or self._tokens + tokens > min(self.most_tokens, self._left)
        if self._rows and (full or not _are_alike(self._rows[0], row)):
            yield from self.rest()
        if not self._rows and self.room is not None:
            self._left = self.room(row)
        self._rows.append(row)
        self._tokens += tokens

    def rest(self) -> Iterator[Pack]:
        """What is left over."""
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
    """Each row's own result out of a pack's, as if it had been asked by itself.

    Vectors are written as base64 and the tokens are shared out by the length of the texts, so that they add up.
    """
    response: Mapping[str, Any] = result.response
    head = {name: value for name, value in response.items() if name not in ("data", *PLACES)}
    usage = usage_of(response)
    shares = _shares(usage.total_tokens, pack.rows) if usage is not None else [None] * len(pack.rows)
    given = in_order(mappings(response.get("data"))) or [{}]
    attempts = attempts_of_rows(pack, result)
    for row, answer, tokens, item, sends in zip(pack.rows, answers, shares, given, attempts, strict=True):
        vector = answer.value
        # What is no vector is kept as it came, since it shows what is wrong.
        embedding = base64.b64encode(vector).decode() if vector is not None else item.get("embedding")
        own = {
            **head,
            "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
            **({} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}),
        }
        taken = None if tokens is None else Usage(tokens)
        yield Result(row, "succeeded", own, errors=result.errors, attempts=sends, raw=dumps(own), usage=taken)


def attempts_of_rows(pack: Pack, result: Result) -> Iterator[tuple[Attempt, ...]]:
    """What each row has been through; what was billed in vain is told once, of the first."""
    attempts = (*pack.attempts, *result.attempts)
    yield attempts
    yield from repeat(_without_bills(attempts), len(pack.rows) - 1)


def _without_bills(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    return tuple(each._replace(bill=None) for each in attempts)


def _shares(total: int, rows: Sequence[APIRequest]) -> list[int]:
    """A number of tokens, shared out among rows by their length.

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
