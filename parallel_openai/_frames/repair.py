"""Makes the request that may repair an unusable answer: with a higher cap, or with its fault shown to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from parallel_openai._json import dumps
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import Answer, Endpoint, cut_short
from parallel_openai._requests.tokens import size_of
from parallel_openai.errors import InvalidInputError

#: Error codes that another request would not change.
HOPELESS = frozenset({"refused", "content_filter"})


class Repair(NamedTuple):
    """The context of a request that replaces another, whose answer was unusable."""

    original: APIRequest  # the row's own request, whose key this one's answer has in the journal too
    earlier: tuple[Result, ...]  # the row's results so far, in order

    def as_the_rows(self, result: Result) -> Result:
        """The repair's result as that of the row."""
        return result._replace(request=self.original, earlier=self.earlier, sent=result.request)

    def in_vain(self, result: Result) -> Result:
        """The row's result if the repair has no answer: its last one, with these attempts too. It is written to the
        journal again, since they may have been billed."""
        last = self.earlier[-1]
        attempts, raw = (*last.attempts, *result.attempts), last.raw or dumps(last.response)
        return last._replace(earlier=self.earlier[:-1], attempts=attempts, raw=raw, restored=False)


def row_of(request: APIRequest) -> APIRequest:
    """The request of the row: of a repair, the original, whose key the answer has in the journal."""
    return request.context.original if isinstance(request.context, Repair) else request


def check_tries(repair: Any) -> int:
    """How many repairs a row may have.

    >>> check_tries(True), check_tries(2)
    (1, 2)
    """
    if not isinstance(repair, int) or repair < 0:
        raise InvalidInputError(f"repair must be True, False or a number of tries, not {repair!r}.")
    return int(repair)


def make_repair(result: Result, reading: Answer, text: str | None, endpoint: Endpoint) -> APIRequest | None:
    """The request that may repair a row, with a `Repair` as its context; None if it would not help.

    Args:
        result: the row's result, with its unusable answer.
        reading: the answer as it was read, with its error.
        text: the answer's text.
    """
    if reading.error_code in HOPELESS or not reading.repairable:
        return None
    asked = (result.sent or result.request).request_json
    if cut_short(reading.finish_reason or "") == "truncated":
        body = _roomier(asked, endpoint)
    else:
        fault = f"That answer cannot be used. {reading.error} Answer again, exactly as it was asked for."
        body = endpoint.repair_body(asked, text, fault)
    if body is None:
        return None
    original = result.request
    request = APIRequest(body, original.metadata, path=original.path, sample=original.sample)
    request.size = size_of(request)
    request.context = Repair(original, (*result.earlier, result._replace(earlier=(), sent=None)))
    return request


def _roomier(asked: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any] | None:
    """The body with twice the cap; None without one, as the model's own maximum then cut the answer off."""
    caps = {name: asked[name] * 2 for name in endpoint.caps if isinstance(asked.get(name), int)}
    if not caps and endpoint.default_cap is not None:
        caps = {endpoint.caps[0]: endpoint.default_cap * 2}
    return {**asked, **caps} if caps else None
