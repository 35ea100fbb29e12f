"""Decides what to do after a failed send: send again, fail the request, or stop the run; and informs the limiter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from parallel_openai._limits.admission import Admission
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import TOO_MANY_FILES, APIRequest, Response, Verdict
from parallel_openai._run.job import Job
from parallel_openai._run.response_verdict import RESOURCE_UNAVAILABLE, RetryPolicy
from parallel_openai.errors import AuthenticationError, PermissionDeniedError, RateLimitedError

_TOO_LARGE = "The request is larger than the account's token limit ever lets through. The server said: "
#: If this many different requests are denied without an answer in between, the key is denied, and not the requests.
_MOST_DENIED = 20
#: A request refused more often than this may itself be the cause, so it is no evidence of how much the server can take.
_TELLING_REFUSALS = 2
#: Seconds without an answer after which what seems to be a daily limit is treated as one.
LASTING = 60.0
_LATER = "Run the same again when it begins anew: what was finished is kept."


class Denials:
    """Tells a key without permission from the denial of single requests, as by a firewall or a gateway's mistake.

    Args:
        answered: the number of requests answered at the start. Only later answers show that the key is permitted.
    """

    def __init__(self, answered: int = 0) -> None:
        self._first, self._answered = answered, answered
        # Keys of the requests denied since the last answer; a request denied again proves nothing.
        self._denied: set[str] = set()

    def is_of_request(self, verdict: Verdict, request: APIRequest, answered: int) -> bool:
        """Whether a denial concerns this request only, since others are answered; `answered` is their number so far."""
        if verdict.stop not in (PermissionDeniedError, AuthenticationError):
            return False
        if answered != self._answered:
            self._denied.clear()
        self._answered = answered
        self._denied.add(request.key)
        return answered > self._first and len(self._denied) < _MOST_DENIED


class FailedSends:
    """Decides after each failed send of a run."""

    def __init__(self, retry: RetryPolicy, status: StatusTracker, clock: Callable[[], float]) -> None:
        self._retry = retry
        self._status = status
        self._clock = clock
        self._denials = Denials()
        self.answered = 0  # requests answered so far

    def decide(self, job: Job, lease: Any, response: Response, verdict: Verdict) -> float | Verdict:
        """The seconds after which to send the request again, or the verdict if it has failed for good.

        Raises:
            RunStoppedError: no request of the run can succeed now.
        """
        self._count(response, verdict)
        job.errors.append(verdict.message or "")
        if self._denials.is_of_request(verdict, job.request, self.answered):
            verdict = replace(verdict, kind="fail" if verdict.stop is PermissionDeniedError else "retry")
        if verdict.kind == "stop":
            inform(job.limiter, lease, response, verdict)
            assert verdict.stop is not None
            raise verdict.stop(_advice(verdict))
        if verdict.kind == "hold":
            return self._held(job, lease, response, verdict)
        # Its parts are sent at once instead, but not before the time that the server asked for.
        hold = min(verdict.wait or 0.0, self._retry.max_wait) if job.request.may_be_too_large else 0.0
        was_full = self._inform(job, lease, response, verdict, hold)
        job.failures += 1
        if verdict.kind == "fail" or job.failures >= self._retry.max_attempts:
            return verdict
        wait = 0.0 if was_full else verdict.wait or 0.0
        if wait > self._retry.max_wait:
            return self._waited_enough(verdict)
        return max(wait, self._retry.backoff(job.failures))

    def _held(self, job: Job, lease: Any, response: Response, verdict: Verdict) -> float | Verdict:
        """Decide about a request that is held by a limit or an outage, which is not its fault."""
        now = self._clock()
        delay = self._hold_back(job, lease, response, verdict)
        if job.held_since is None:
            job.held_since, job.answered_then = now, self.answered
        if verdict.dimension == "tokens":
            job.refusals += 1
            held = now - job.held_since
            if job.limiter.seems_too_large(job.size, job.refusals, held, response.headers):
                return replace(verdict, code="request_too_large", message=_TOO_LARGE + (verdict.message or ""))
        is_limit = response.status == 429 and verdict.code != RESOURCE_UNAVAILABLE
        is_final = bool(delay) or verdict.lasts  # else the limiter is testing whether the server is only full
        if is_limit and is_final and (verdict.wait or 0.0) > self._retry.max_wait:  # every request would wait as long
            raise RateLimitedError(
                f"{_sentence(verdict)} It asks to wait {verdict.wait:,.0f} s, and nothing waits longer than max_wait, "
                f"{self._retry.max_wait:,.0f} s. Run the same again then, what was finished is kept; or wait with "
                "Client(max_wait=...)."
            )
        if verdict.lasts and now - job.held_since > LASTING and job.answered_then == self.answered:
            waited = f"Nothing was answered for {now - job.held_since:,.0f} s."
            raise RateLimitedError(f"{_sentence(verdict)} {waited} {_LATER}")
        if now + ((verdict.wait or delay) if is_final else 0.0) - job.held_since > self._retry.max_wait:
            return self._waited_enough(verdict)
        return delay

    def _hold_back(self, job: Job, lease: Any, response: Response, verdict: Verdict) -> float:
        """Inform the limiter, and return the seconds that this request has to wait by itself."""
        backoff, hold = self._retry.backoff(1), 0.0
        if verdict.code == "slow_down":
            delay = 0.0  # the limiter makes it wait, in its turn with all others
        elif verdict.code == RESOURCE_UNAVAILABLE or verdict.overload:
            job.refusals += 1
            backoff = 0.5 + self._retry.backoff(job.refusals)
            delay = max(verdict.wait or 0.0, backoff)
        elif response.status == 429:
            delay = verdict.wait if verdict.wait is not None else backoff  # the limiter may let all others go on
            if len(job.attempts) > _TELLING_REFUSALS:  # the server may state too short a wait each time
                delay = max(delay, backoff)
        else:
            delay = hold = max(verdict.wait or 0.0, 0.5 + backoff)
        was_full = self._inform(job, lease, response, verdict, hold)
        if was_full:  # without a backoff, a request that is always refused would always go first
            return backoff if verdict.overload and job.refusals > 1 else 0.0
        return delay

    def _inform(self, job: Job, lease: Any, response: Response, verdict: Verdict, hold: float) -> bool:
        was_full_before, refusals = job.limiter.overrules_waits, job.refusals + job.failures
        was_full = inform(job.limiter, lease, response, verdict, hold=hold, refusals=refusals)
        is_told = verdict.overload and bool(verdict.wait) and not hold and not was_full
        job.waits_for_full = is_told and not was_full_before  # else it was told to wait for something else
        return was_full

    def _waited_enough(self, verdict: Verdict) -> Verdict:
        asks = f" It asks to wait {verdict.wait:,.0f} s more." if verdict.wait else ""
        why = f"{verdict.message}{asks} No request waits longer than max_wait, {self._retry.max_wait:,.0f} s."
        return replace(verdict, message=why)

    def _count(self, response: Response, verdict: Verdict) -> None:
        status = self._status
        if response.error_code == TOO_MANY_FILES:
            status.note_open_requests()
        elif response.status != 429 and (verdict.overload or verdict.kind == "hold"):
            status.num_busy_errors += 1
        if response.status == 429:
            status.num_rate_limit_errors += 1
            status.time_of_last_rate_limit_error = time.time()
        elif response.status:
            status.num_api_errors += 1
        else:
            status.num_other_errors += 1


def inform(
    limiter: Admission, lease: Any, response: Response, verdict: Verdict, *, hold: float = 0.0, refusals: int = 0
) -> bool:
    """Inform the limiter of a failed send. With `hold`, the server is assumed to be away for that many seconds.

    Returns whether the request may be sent again as soon as the limiter permits, whatever wait the server asks for.
    """
    is_overload = verdict.overload and verdict.kind in ("hold", "retry") and not hold
    if is_overload and refusals <= _TELLING_REFUSALS:
        return limiter.overloaded(lease, verdict.wait)
    if is_overload or verdict.kind == "stop" or verdict.code == RESOURCE_UNAVAILABLE:
        limiter.unanswered(lease)
        return is_overload and limiter.overrules_waits
    if verdict.code == "slow_down":
        limiter.slow_down(lease, verdict.wait)
    elif response.status == 429:
        return bool(limiter.refused(lease, response.headers, verdict.dimension, verdict.wait))
    elif response.status and not hold:
        limiter.answered(lease, response.headers, worked=response.status == 200)
    else:
        limiter.unanswered(lease, hold=hold)
    return False


def _advice(verdict: Verdict) -> str:
    advice = {
        "AuthenticationError": "Check the API key (OPENAI_API_KEY or Client(api_key=...)).",
        "PermissionDeniedError": "Check what this key, project and country may use.",
        "QuotaExceededError": "Add credit or raise the limit, then run the same again: what was finished is kept.",
        "RateLimitedError": _LATER,
        "RunStoppedError": "Run it again later, what was finished is kept; Client(give_up_after=...) waits longer.",
        "ServerUnreachableError": "Nothing was charged.",
    }
    assert verdict.stop is not None
    if verdict.code == "connection_closed":
        return f"{_sentence(verdict)} What was sent may be charged."
    return f"{_sentence(verdict)} {advice[verdict.stop.__name__]}"


def _sentence(verdict: Verdict) -> str:
    said = verdict.message or ""
    return said if said.endswith((".", "!", "?")) else f"{said}."
