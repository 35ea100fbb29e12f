"""Tells a server that is overloaded or away from a request that is itself the cause, and says when to try again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from parallel_openai._records import DONE, TOO_MANY_FILES, Verdict
from parallel_openai._run.job import Job
from parallel_openai._run.response_verdict import UNSENT_CODES, RetryPolicy
from parallel_openai.errors import RunStoppedError

#: After this many refusals in a row, without any answer in between, requests are sent one at a time.
AWAY_AFTER = 3
#: The minimum wait before the next probe, in seconds.
LEAST_WAIT = 0.5
#: A server that breaks at so many requests, and for no longer than so many seconds, with no answer in between, is taken
#: for one that is away; otherwise it is rather the requests that break it.
BROKEN_AT, BROKEN_FOR = 10, 120.0
#: The code of an error about a model that nobody serves.
NO_MODEL = "model_not_found"


@dataclass(slots=True)
class _Model:
    """The requests of a model since it was first overloaded."""

    # How many were answered and refused.
    good: int = 0
    refused: int = 0
    good_sent_at: float = float("-inf")  # when the latest answered request was sent
    # Whether a request without failures of its own was refused since the last answer.
    refuses_any: bool = False


class Outages:
    """Judges the refusals of an overloaded server.

    Such a refusal counts against its request only if most others were answered since its previous refusal. While
    nothing is answered, requests are sent one at a time, at growing intervals. An answer to a request that was sent
    before the refusals does not end this if more than three in four of those sent since were refused: it shows how the
    server was, and they show how it is. A server that breaks (HTTP 500) is overloaded if ten requests without failures
    of their own break it, with no answer in between.

    Args:
        retry: how long to wait, and when to give up.
        now: the time at which the run begins.
    """

    def __init__(self, retry: RetryPolicy, now: float) -> None:
        self.is_away = False  # whether to send requests one at a time
        self.in_flight: dict[Job, float] = {}  # when each was sent; kept by the runner
        self._retry = retry
        self._models: dict[object, _Model] = {}  # the models that have been overloaded
        self._good_at = now
        self._was_answered = False
        self._broken: set[str] = set()  # the requests without failures that the server broke at since the last answer
        self._in_row = 0
        self._refused_at = now  # when the first request of those refused in a row was sent
        self._probes = 0
        self._probe_at = 0.0
        self._away_at = now  # when it was found to be away

    def next_probe(self, now: float) -> float | None:
        """Seconds until the next request may be sent; None if the one in flight has to end first."""
        probes = any(sent_at > self._away_at for sent_at in self.in_flight.values())
        return None if probes else max(0.0, self._probe_at - now)

    def judge(self, verdict: Verdict, job: Job, sent_at: float, now: float) -> Verdict:
        """The verdict, changed to `hold` if the request is not to blame, or to `stop` if it is time to give up."""
        if verdict is DONE:
            self._good_at, self._was_answered = now, True
            if not self.is_away or not self._went_away_since(sent_at):
                self._in_row, self._probes, self.is_away = 0, 0, False
            self._broken.clear()
            if self._models and (model := self._models.get(job.model)) is not None:
                model.good += 1
                model.good_sent_at, model.refuses_any = max(model.good_sent_at, sent_at), False
            return verdict
        if verdict.broke and self._breaks_at_all(job, now):
            verdict = replace(verdict, overload=True)
        if verdict.code in UNSENT_CODES and verdict.code != TOO_MANY_FILES:
            self._rest(verdict, sent_at, now)
        if verdict.overload and verdict.code == NO_MODEL and not self._was_answered:
            return replace(verdict, kind="fail")  # new-api answers 503 if nobody serves the model
        if verdict.overload:
            self._rest(verdict, sent_at, now)
            if job.request.may_be_too_large and job.overloaded is not None and self._in_row > 1:
                return replace(verdict, kind="fail")  # its caller will send it in smaller parts
            verdict = verdict if self._is_to_blame(job, now) else replace(verdict, kind="hold")
        return self._stop_if_silent_too_long(verdict, now)

    def _went_away_since(self, sent_at: float) -> bool:
        in_flight = sum(at >= self._refused_at for at in self.in_flight.values())
        return sent_at < self._refused_at and self._in_row > 3 * in_flight

    def _breaks_at_all(self, job: Job, now: float) -> bool:
        """Whether the server breaks at whatever it is asked."""
        if not job.failures:
            self._broken.add(job.request.key)
        return len(self._broken) >= BROKEN_AT and now - self._good_at <= BROKEN_FOR

    def _stop_if_silent_too_long(self, verdict: Verdict, now: float) -> Verdict:
        seconds = now - self._good_at
        if verdict.kind != "hold" or seconds <= self._retry.give_up_after:
            return verdict
        sentence = f"The server has given no good answer for {seconds:,.0f} s. The last one was: {verdict.message}"
        return replace(verdict, kind="stop", stop=RunStoppedError, message=sentence)

    def _rest(self, verdict: Verdict, sent_at: float, now: float) -> None:
        """Wait longer before the next probe, unless the request was in flight already before the last one."""
        if not self._in_row:
            self._refused_at = sent_at
        self._in_row += 1
        self.is_away = self._in_row >= AWAY_AFTER
        if self._in_row == AWAY_AFTER:
            self._away_at = now
        if self._in_row == AWAY_AFTER or (self.is_away and sent_at >= self._probe_at):
            self._probes += 1
            requested_wait = verdict.wait or 0.0
            if requested_wait > self._retry.max_wait:  # that request fails, and the others do not wait as long
                requested_wait = 0.0
            self._probe_at = now + max(requested_wait, LEAST_WAIT + self._retry.backoff(self._probes))

    def _is_to_blame(self, job: Job, now: float) -> bool:
        model = self._models.setdefault(job.model, _Model())
        before, refused = job.overloaded, model.refused
        model.refused += 1
        job.overloaded = now, model.good, model.refused
        if before is not None:
            at, good, others = before
            if model.good_sent_at > at and model.good - good > refused - others:
                return True
            if job.failures and not model.refuses_any:
                return True
        model.refuses_any = model.refuses_any or not job.failures
        return False
