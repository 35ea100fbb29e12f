"""A worker's part of the timeline, without a cluster."""

from __future__ import annotations

from parallel_openai._limits.admission import model_of
from parallel_openai._limits.limiter import Limiter
from parallel_openai._progress.timeline import Timeline
from parallel_openai._ray.worker import RemoteTimeline, TimelinePiece, numbered
from parallel_openai._records import APIRequest, Response, Size, Usage
from parallel_openai._run.response_verdict import judge

SIZE = Size(30, 120, 50, 1)
REQUESTS = {number: APIRequest({"model": "m", "max_tokens": 50, "messages": []}, sample=number) for number in range(40)}
for request in REQUESTS.values():
    request.size = SIZE


def live(timeline: Timeline) -> None:
    """Some seconds of a run: every fourth send is refused, every tenth fails."""
    for number, request in REQUESTS.items():
        sent = 100.0 + number / 4
        came = sent + 0.5 + number / 64
        timeline.sent(sent)
        if number % 4 == 1:
            refused = Response(429, {}, b"", {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, 0.25)
            timeline.failed(came, refused.status, judge(refused, reached=True))
        elif number % 10 == 0:
            broken = Response(500, {}, b"", None, 0.25)
            timeline.failed(came, broken.status, judge(broken, reached=True))
        else:
            timeline.answered(
                sent, came, numbered(number, request), model_of(request), SIZE, came - sent, Usage(30, number)
            )


def begun() -> tuple[Timeline, Limiter]:
    timeline, limiter = Timeline(), Limiter(600, 60_000, clock=lambda: 100.0)
    timeline.begin(limiter, 100.0)
    return timeline, limiter


def test_a_replayed_timeline_equals_a_direct_one() -> None:
    tape, (replayed, _), (seen, _) = RemoteTimeline(), begun(), begun()
    live(tape)
    tape.take(now=5000.0).replay(replayed, REQUESTS, now=5000.0)
    live(seen)
    for timeline in (replayed, seen):
        timeline.end(120.0, max_concurrent_requests=10)
    assert replayed.slices == seen.slices
    assert replayed.refusals == seen.refusals == {"tokens": 10}
    assert vars(replayed.latency) == vars(seen.latency)
    assert replayed.utilisation() == seen.utilisation()
    assert set(seen.utilisation()) == {"requests", "tokens"}


def test_the_clocks_of_a_worker_and_its_caller_need_not_agree() -> None:
    tape, timeline = RemoteTimeline(), Timeline()
    tape.sent(7.25)
    tape.take(now=8.0).replay(timeline, {}, now=103.0)
    timeline.sent(104.5)
    assert [each.sent for each in timeline.slices] == [1, 0, 1]  # at 102.25 and 104.5


def test_each_event_is_taken_once() -> None:
    tape = RemoteTimeline()
    live(tape)
    assert len(tape.take(now=200.0).sends) == len(REQUESTS)
    assert tape.take(now=200.0) == TimelinePiece([], [], [])


def test_a_timeline_that_is_not_kept_stores_nothing() -> None:
    tape = RemoteTimeline(keeps=False)
    live(tape)
    assert tape.take(now=200.0) == TimelinePiece([], [], [])
    assert (tape.slices, tape.latency.count, dict(tape.refusals)) == ([], 0, {})
