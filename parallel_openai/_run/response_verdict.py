"""Judges an answer: is the request done, to be sent again now or later, or failed, or must the whole run stop?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai._http.error_body import (
    body_summary,
    code_of,
    error_of,
    is_about_content,
    is_about_day,
    is_about_money,
    is_overload,
    is_page,
    is_tokens_a_minute,
    may_hold_answer,
    status_of,
    wait_in,
    without_page,
)
from parallel_openai._limits.headers import Allowance, allowance, day_used_up, retry_after, sent_at
from parallel_openai._records import DONE, TOO_MANY_FILES, Dimension, Response, Result, Usage, Verdict
from parallel_openai._requests.endpoints import Endpoint, endpoint_at, usage_of
from parallel_openai.errors import (
    AuthenticationError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    ServerUnreachableError,
)

#: In lower-case letters. The last seven are Groq's, Moonshot's, Alibaba's and Volcengine's.
QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
        "budget_exceeded",
        "blocked_api_access",
        "exceeded_current_quota_error",
        "arrearage",
        "prepaidbilloverdue",
        "postpaidbilloverdue",
        "commoditynotpurchased",
        "allocationquota.freetieronly",
        "setlimitexceeded",
    }
)
TOO_LONG = "context_length_exceeded"
FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
#: Statuses below 500 that are retried: a 200 with an error inside, a conflict, and what gateways send if the server is
#: busy or gone.
_AGAIN = frozenset({200, 408, 409, 423, 424, 425, 429, 498, 499})
#: Statuses of a server that is overloaded or away, or of a gateway in front of one. Not 500, which a single request
#: that breaks the server gets too.
_OVERLOADED = frozenset({423, 424, 425, 429, 498, 499, 502, 503, 504, *range(520, 531)})
#: Statuses of a prompt that is refused for its content. Those above 403 are Portkey's and Cohere's, 451 aside.
_MAY_FILTER = frozenset({200, 400, 403, 412, 424, 446, 451, 498})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: The flex tier has no capacity at the moment. This is no limit of the account, and nothing is charged.
RESOURCE_UNAVAILABLE = "resource_unavailable"
#: Errors after which nothing was sent, so nothing was charged and the row is not to blame.
UNSENT_CODES = frozenset(
    {"connection_refused", "connect_timeout", "dns_error", "tls_error", "proxy_error", "wrong_protocol", TOO_MANY_FILES}
)


def judge(response: Response, *, reached: bool, path: str = "") -> Verdict:
    """Judge an answer by its status first, then by `error.code`, then by `error.type`, as the API documents them.

    The message only decides what some servers say nowhere else: which limit was reached, that the account is out of
    money, or that a prompt is refused for its content.

    Args:
        reached: whether the server has answered any request of this run before.
        path: the request's path. Its endpoint knows whether a response of status 200 holds an answer.

    >>> judge(Response(200, {}, b"{}", {}, 0.1), reached=True).kind
    'done'
    >>> verdict = judge(Response(429, {"retry-after": "2"}, b"", {"error": {"code": "rate_limit_exceeded"}}, 0.1),
    ...                 reached=True)
    >>> verdict.kind, verdict.code, verdict.wait
    ('hold', 'rate_limit_exceeded', 2.0)
    """
    if response.status == 0:
        return _no_answer(response, reached)
    error = error_of(response.data, response.status)
    if response.status == 200 and error is None:
        verdict = _good(response, path)
        error = None if verdict is DONE else error_of(response.data, 400)  # some say in words alone what is wrong
        if error is None or (
            verdict.kind == "fail" and may_hold_answer(response.data) and status_of(error, 200) == 200
        ):
            return verdict
    code = code_of(error) if error else ""
    message, wait = _sentence(response, error), retry_after(response.headers)
    status = status_of(error, response.status) if error else response.status
    if error and wait is None and response.status != 429:  # of a 429, the limiter measures the wait better
        wait = wait_in(error, sent_at(response.headers))
    # Some servers write plain text instead of JSON. A web page is ignored, since it may mention anything.
    words = error or ({} if is_page(response.body) else {"message": message})
    # First of all, since it may repeat what the row asked, and say that nothing was charged.
    if code in FILTER_CODES or (error and status in _MAY_FILTER and is_about_content(error)):
        return Verdict("fail", "content_filter", message)
    if status == 402 or _is_out_of_money(status, code, words, wait):
        return Verdict("stop", code or "insufficient_quota", message, stop=QuotaExceededError)
    if status == 429 and wait is None and _is_out_for_today(response, words):
        return Verdict("stop", "rate_limit_exceeded", message, stop=RateLimitedError)
    if response.status == 429:
        return _refused(response, words, code, message, wait)
    if status == 404 and response.error is not None and not reached:
        said = (
            f" The server says: {without_page(str(error['message']))[:500]}" if error and error.get("message") else ""
        )
        return Verdict("stop", code or "http_404", f"{response.error}{said}", stop=ServerUnreachableError)
    if status == 401:
        return Verdict("stop", code or "unauthorized", message, stop=AuthenticationError)
    if status == 403 and (error is not None or not reached) and code != TOO_LONG:
        return Verdict("stop", code or "forbidden", message, stop=PermissionDeniedError)
    if status in _REDIRECTS:
        return _redirected(response, reached)
    return _of_one_request(response, error, status, code, message, wait)


def _of_one_request(
    response: Response, error: Mapping[str, Any] | None, status: int, code: str, message: str, wait: float | None
) -> Verdict:
    """The verdict on an error that concerns this request only, as far as one answer can show."""
    hint = response.headers.get("x-should-retry")
    code = code or ("rate_limit_exceeded" if status == 429 else f"http_{status}")
    # Some servers report a prompt that is too long with a 500.
    if code == TOO_LONG or (hint == "false" and status != 200):
        return Verdict("fail", code, message)
    if status in _AGAIN or (status >= 500 and status != 501) or hint == "true":
        overload = status in _OVERLOADED or (error is not None and is_overload(error))
        broke = status >= 500 or (status == 200 and usage_of(response.data) is None)
        return Verdict("retry", code, message, wait, overload=overload, broke=broke and not overload)
    return Verdict("fail", code, message)


def _good(response: Response, path: str) -> Verdict:
    if not isinstance(response.data, dict):
        return _malformed(response)
    endpoint = endpoint_at(path)
    # A billed answer is never requested again automatically, even if it is empty.
    if endpoint is None or endpoint.has_answer(response.data) or (usage_of(response.data) or Usage()).total_tokens:
        return DONE
    if response.data and endpoint.answers[0] not in response.data:  # as of JSON of another form, see `_malformed`
        return Verdict("fail", "malformed_response", _without_answer(endpoint))
    return Verdict("retry", "empty", _without_answer(endpoint))


def failed_if_empty(result: Result) -> Result:
    """The result for a file run, in which a billed answer without content counts as failed, so that the next call sends
    its line again."""
    endpoint = endpoint_at(result.request.path)
    if result.status == "failed" or endpoint is None or endpoint.has_answer(result.response):
        return result
    return result._replace(
        status="failed", raw=None, error_code="empty", error=_without_answer(endpoint), restored=False
    )


def _without_answer(endpoint: Endpoint) -> str:
    """The message for a response of status 200 that holds no answer."""
    return f"The server answered HTTP 200 without an answer: there is nothing in {endpoint.answers[0]!r}."


def _is_out_of_money(status: int, code: str, error: Mapping[str, Any], wait: float | None) -> bool:
    """Whether the error's code says so, or its text without a wait after which it would change."""
    if is_tokens_a_minute(error):
        return False
    if code.lower() in QUOTA_CODES:
        return True
    is_worded = status in (200, 400, 403, 412, 429) and is_about_money(error, may_be_rows=status in (400, 412))
    return is_worded and wait is None and wait_in(error) is None


def _is_out_for_today(response: Response, error: Mapping[str, Any]) -> bool:
    """Whether a daily limit is used up, by the headers, or by the text if nothing shows another wait."""
    is_stated = is_about_day(error) and wait_in(error) is None
    return day_used_up(response.headers) == math.inf or (is_stated and not _used_up(response))


def _used_up(response: Response) -> list[Allowance]:
    """The limits that the headers show as used up, with the time of their reset."""
    shown = (allowance(response.headers, name) for name in ("requests", "tokens"))
    return [each for each in shown if each is not None and each.remaining < 1.0 and each.reset is not None]


def _no_answer(response: Response, reached: bool) -> Verdict:
    code, message = response.error_code or "connection_error", response.error
    if code in ("response_too_large", "response_unreadable"):
        return Verdict("fail", code, message)
    if code in UNSENT_CODES or code == "connection_closed":
        if not reached and code != TOO_MANY_FILES:  # connections that are open may serve one after another
            return Verdict("stop", code, message, stop=ServerUnreachableError)
        return Verdict("hold", code, message)
    # If nothing was ever answered, it need not be overload: perhaps this address never answers.
    return Verdict("retry", code, message, overload=reached and code == "connection_error")


def _refused(response: Response, error: Mapping[str, Any], code: str, message: str, wait: float | None) -> Verdict:
    if code == "slow_down":
        return Verdict("hold", code, message, wait)
    if code.lower() == RESOURCE_UNAVAILABLE or _says_unavailable(error):
        return Verdict("hold", RESOURCE_UNAVAILABLE, message, wait)
    day, used_up = day_used_up(response.headers), _used_up(response)
    if wait is None or (day is not None and wait < day < math.inf):
        wait = (_long_wait(error, sent_at(response.headers)) or _next_of(used_up)) if day is None else day
    lasts = is_about_day(error) or any(map(_is_long, used_up))
    return Verdict("hold", "rate_limit_exceeded", message, wait, _refused_dimension(response, error), lasts=lasts)


def _next_of(used_up: list[Allowance]) -> float | None:
    """Seconds until used-up limits per hour or day have refilled by one request, if that is over a minute."""
    longest = max((each.period / each.limit for each in used_up), default=0.0)
    return longest if longest > 60.0 else None


def _is_long(used_up: Allowance) -> bool:
    """Whether the reset is so late that a gradually refilling limit does not explain it."""
    return used_up.period == 60.0 and (used_up.reset or 0.0) > 2 * 60.0


def _long_wait(error: Mapping[str, Any], now: float | None = None) -> float | None:
    """Seconds that the body asks to wait, if over a minute. (A pace within a minute is better measured.)

    >>> _long_wait({"message": "Limit 50 per day reached. Please try again in 23h59m12.5s."})
    86352.5
    >>> _long_wait({"message": "Please retry after 900 milliseconds."})
    """
    seconds = wait_in(error, now)
    return seconds if seconds is not None and seconds > 60.0 else None


def _says_unavailable(error: Mapping[str, Any]) -> bool:
    """Whether it is a refusal of the flex tier, for which only these words are documented."""
    return str(error.get("message") or "").lower().startswith("resource unavailable")


def _refused_dimension(response: Response, error: Mapping[str, Any]) -> Dimension | None:
    kind = error.get("type")
    if kind in ("requests", "tokens"):
        return "requests" if kind == "requests" else "tokens"
    text = str(error.get("message") or "").lower()
    if "tokens per" in text or "(tpm)" in text or "(tpd)" in text or is_tokens_a_minute(error):
        return "tokens"
    if "requests per" in text or "(rpm)" in text or "(rpd)" in text:
        return "requests"
    spent = [name for name in ("requests", "tokens") if response.headers.get(f"x-ratelimit-remaining-{name}") == "0"]
    return spent[0] if len(spent) == 1 else None  # type: ignore[return-value]  # one of the two names above


def _redirected(response: Response, reached: bool) -> Verdict:
    target = mask_url((response.headers.get("location") or "nowhere").partition("?")[0])  # the query may hold a secret
    message = f"The server redirects to {target} (HTTP {response.status}). Keys are not sent on; set base_url to it."
    if reached:
        return Verdict("retry", "redirected", message)
    return Verdict("stop", "redirected", message, stop=ServerUnreachableError)


def _malformed(response: Response) -> Verdict:
    """JSON of another form may be an answer, and would be billed again as that; what is cut off or a page may not."""
    kind = response.headers.get("content-type", "no content type")
    sentence = f"The server answered HTTP 200 with {kind!r} that is no JSON object."
    page = f" It is {body_summary(response.body, response.headers)}." if is_page(response.body) else ""
    return Verdict("fail" if response.data else "retry", "malformed_response", sentence + page)


def _sentence(response: Response, error: Mapping[str, Any] | None) -> str:
    if error and error.get("message"):
        return f"HTTP {response.status}: {without_page(str(error['message']))[:2000]}"
    text = body_summary(response.body, response.headers)
    return f"HTTP {response.status}: {text}" if text else f"HTTP {response.status} with an empty body."


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to send again, and when to give up. Times are in seconds."""

    max_attempts: int = 5  # attempts of a request that may count against it
    # The wait before retry k is uniform between 0 and min(max_backoff, first_backoff × 2^(k-1)): full jitter, as in
    # AWS's "Exponential Backoff and Jitter".
    first_backoff: float = 1.0
    max_backoff: float = 60.0
    max_wait: float = 3600.0  # how long one request may wait for refusals that are not its fault (429s, outages)
    give_up_after: float = 1800.0  # the run stops after this long without any answer
    random: Callable[[], float] = random.random

    def backoff(self, failures: int) -> float:
        """Seconds to wait after a number of failures of one request.

        >>> RetryPolicy(random=lambda: 0.5).backoff(3)
        2.0
        """
        return self.random() * min(self.max_backoff, self.first_backoff * 2.0 ** min(failures - 1, 30))
