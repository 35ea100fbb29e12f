"""The grants of the shared account, on a fake clock."""

from __future__ import annotations

import pytest

from parallel_openai._ray.cluster import AccountActor, SealedClient
from parallel_openai._ray.shared_account import Account, Given, KnownLimit, Refusal, Report


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def moments(account: Account, clock: Clock, workers: int, seconds: float) -> list[float]:
    """When what was granted may be sent, where each worker asks again as soon as it has spent its slots."""
    sends: list[float] = []
    due = {f"worker {number}": clock.now for number in range(workers)}
    end = clock.now + seconds
    while clock.now < end:
        worker = min(due, key=due.__getitem__)
        clock.now = max(clock.now, due[worker])
        grant = account.lease(worker, 1000)
        begin = clock.now + grant.start
        sends += [begin + number * grant.duration / grant.requests for number in range(grant.requests)]
        due[worker] = begin + grant.duration
    return sends


def test_workers_never_exceed_the_shared_limit_and_nearly_use_it_up() -> None:
    clock = Clock()
    sends = moments(Account(max_requests_per_minute=60_000, clock=clock), clock, workers=4, seconds=10)
    fullest = max(sum(at <= each < at + 1 for each in sends) for at in sends[:: len(sends) // 50])
    assert fullest <= 1000
    assert len(sends) >= 0.9 * 10_000


def test_a_dead_workers_slots_expire() -> None:
    clock = Clock()
    account = Account(max_requests_per_minute=6000, clock=clock)
    dead = account.lease("dead", 1000)
    clock.now += 3.0
    assert dead.requests > 1
    assert account.lease("alive", 1000).start == 0.0


def test_a_limit_shown_to_one_worker_applies_to_all() -> None:
    clock = Clock()
    account = Account(clock=clock)
    first = account.lease("one", 100)
    assert (first.requests, first.expires) == (4, False)  # a few, to learn from
    assert account.lease("other", 100).requests == 0
    account.take_in(Report(answered=4, shown={"requests": KnownLimit(600, 60.0)}))
    assert account.limits == (600, None)
    assert account.lease("other", 100).requests == 1


def test_a_rate_limit_holds_back_all_workers_for_as_long_as_the_server_says() -> None:
    clock = Clock()
    account = Account(max_requests_per_minute=600, clock=clock)
    account.take_in(Report(refusals=[Refusal("requests", 0.1, 5.0)]))
    grant = account.lease("another", 10)
    assert (grant.requests, grant.start, grant.cause) == (0, 5.0, "refused")


def test_tokens_are_paced_and_usage_beyond_the_estimate_is_charged() -> None:
    clock = Clock()
    account = Account(max_requests_per_minute=60_000, max_tokens_per_minute=60_000, clock=clock)
    grant = account.lease("one", 10, tokens=1000)
    assert grant.requests == 1
    before = account.lease("one", 1, tokens=95).start
    account.take_in(Report(over=950))
    assert account.lease("one", 1, tokens=95).start >= before + 1.0


def test_a_limit_shown_for_one_model_does_not_apply_to_others() -> None:
    account = AccountActor(None, None)
    small = Report(answered=4, shown={"requests": KnownLimit(60, 60.0), "tokens": KnownLimit(1200, 60.0)})
    account.lease("small", "one", 4, 0.0, Report())
    account.lease("small", "one", 4, 0.0, small)
    account.lease("large", "one", 4, 0.0, Report(answered=4, shown={"requests": KnownLimit(6000, 60.0)}))
    limits = account.look("run", SealedClient({}), None)[1]
    assert limits == {"small": (60, 1200), "large": (6000, None)}


def test_a_given_limit_applies_to_all_models_of_an_account_together() -> None:
    clock = Clock()
    given = Given(6000, None, clock.now)
    models = [Account(clock=clock, given=given) for _ in range(2)]
    sends = []
    due = [clock.now, clock.now]
    while clock.now < 110.0:
        number = min((0, 1), key=due.__getitem__)
        clock.now = max(clock.now, due[number])
        grant = models[number].lease("one", 1000)
        begin = clock.now + grant.start
        sends += [begin + each * grant.duration / grant.requests for each in range(grant.requests)]
        due[number] = begin + grant.duration
    assert max(sum(at <= each < at + 1 for each in sends) for at in sends[::20]) <= 100
    assert len(sends) >= 0.9 * 1000


@pytest.mark.parametrize(("left", "share"), [(0.9, 1.0), (0.015, 1.0), (0.005, 0.95), (None, 0.95)])
def test_the_whole_limit_is_granted_while_the_server_shows_capacity(left: float | None, share: float) -> None:
    clock = Clock()
    account = Account(max_requests_per_minute=6000, clock=clock)
    account.take_in(Report(shown={"requests": KnownLimit(6000, 60.0, left)}))
    sends = moments(account, clock, workers=2, seconds=20)
    assert share <= len(sends) / 2000 < share + 0.03


def test_unused_slots_are_made_up_for_while_the_server_shows_capacity() -> None:
    clock = Clock()
    account = Account(max_requests_per_minute=6000, clock=clock)
    account.take_in(Report(shown={"requests": KnownLimit(6000, 60.0, 0.9)}))
    used = passed = 0
    while clock.now < 120.0:
        grant = account.lease("one", 1000, report=Report(unused=passed))
        clock.now += grant.start + grant.duration
        passed = grant.requests // 10  # as where the worker's loop was busy
        used += grant.requests - passed
    assert 0.98 <= used / 2000 <= 1.02


def test_a_request_goes_out_each_half_minute_however_often_unknown_tokens_are_refused() -> None:
    clock = Clock()
    account = Account(clock=clock)
    for _ in range(4):
        account.lease("one", 10, tokens=2500, report=Report(answered=4))
        clock.now += 1.0
    account.take_in(Report(refusals=[Refusal("tokens", 0.0, None)]))
    clock.now += 1.0
    starts = []
    for _ in range(20):
        starts.append(account.lease("one", 1, tokens=250).start)
        account.take_in(Report(refusals=[Refusal("tokens", 0.0, None)]))
        clock.now += 31.0
    assert max(starts) < 31.0


def test_the_pauses_grow_while_a_server_refuses_all_and_names_no_wait_until_it_answers() -> None:
    clock = Clock()
    account = Account(clock=clock)

    def pause(refused: int, answered: int = 0) -> float:
        for _ in range(refused):
            clock.now += 100.0
            account.take_in(Report(answered=1 + answered, refusals=[Refusal("requests", 0.0, None)]))
        return account.lease("one", 1).start

    assert pause(1) == pytest.approx(0.5)
    assert pause(100) == pytest.approx(2.0)  # twice as long after each fifty
    assert pause(1000) == pytest.approx(60.0)
    assert pause(1, answered=1) == pytest.approx(0.5)


def test_once_a_server_was_only_full_the_account_grants_without_a_rate_again() -> None:
    clock = Clock()
    account = Account(clock=clock)
    account.take_in(Report(answered=4))
    for _ in range(3):
        account.lease("one", 100)
        clock.now += 1.0
        account.take_in(Report(answered=4, refusals=[Refusal("requests", 0.1, 30.0)]))
    assert account.lease("other", 100).requests == 0
    account.take_in(Report(was_full=True))
    grant = account.lease("other", 100)
    assert grant.requests > 0
    assert not grant.expires
