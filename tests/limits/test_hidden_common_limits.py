"""Several models at a server that shows no limits: is there one for all of them, or one for each? In virtual time."""

from __future__ import annotations

import pytest

from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai.local.simulator.settings import Settings
from tests.limits.several_models import SMALL, ModelRun, SeveralModels
from tests.limits.virtual import Rehearsal

TWO = [ModelRun(600), ModelRun(600)]


def at_keys(*rates: float, models: list[ModelRun], mixed: bool = False, seed: int = 1, **more: object) -> SeveralModels:
    settings = {"burst_seconds": 10.0, "headers": "none", **more}
    servers = [Rehearsal(Settings(max_requests_per_minute=rate, **settings), []) for rate in rates]  # type: ignore[arg-type]
    return SeveralModels(servers, models, mixed, seed=seed)


def limiters_of(run: SeveralModels) -> list[Limiter]:
    return [limiter for _, limiter in run.limiters]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("models", "mixed"),
    [
        pytest.param(TWO, False, id="two"),
        pytest.param([ModelRun(400)] * 3, False, id="three"),
        pytest.param([ModelRun(700), ModelRun(350), ModelRun(150)], True, id="three-in-one-run"),
        pytest.param([ModelRun(900), ModelRun(300)], False, id="one-ends-early"),
    ],
)
def test_models_of_a_key_with_one_limit_for_all_use_it_without_a_storm(
    models: list[ModelRun], mixed: bool, seed: int
) -> None:
    run = at_keys(600.0, models=models, mixed=mixed, seed=seed).run()
    assert run.utilisation >= 0.93
    assert run.refused <= 0.02 * run.accepted


def test_a_model_that_comes_later_is_let_into_the_limit_that_the_first_one_uses() -> None:
    run = at_keys(600.0, models=[ModelRun(900), ModelRun(400, starts=40.0)]).run()
    assert run.utilisation >= 0.95
    assert run.refused <= 0.05 * run.accepted  # it searches first, as if it had a limit of its own
    first, other = limiters_of(run)
    assert first.requests is other.requests


def test_what_is_left_by_a_model_that_has_ended_is_used_by_the_other_at_once() -> None:
    run = at_keys(60.0, models=[ModelRun(200), ModelRun(500)], burst_seconds=1.0, seed=3).run()
    assert run.utilisation >= 0.85


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("rates", [(60.0, 600.0), (600.0, 600.0), (600.0, 6000.0)], ids=str)
@pytest.mark.parametrize("retry_after", ["seconds", "none"])
def test_models_with_limits_of_their_own_do_not_share_one(
    rates: tuple[float, float], retry_after: str, seed: int
) -> None:
    models = [ModelRun(int(rate)) for rate in rates]
    run = at_keys(*rates, models=models, seed=seed, retry_after=retry_after).run()
    assert not any(limiter.shares for limiter in limiters_of(run))
    assert run.utilisation >= 0.93


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_refusals_by_chance_are_not_taken_for_a_common_limit(share: float) -> None:
    run = at_keys(600.0, 600.0, models=TWO, fault_429=share).run()
    assert not any(limiter.shares for limiter in limiters_of(run))


def test_a_common_limit_of_tokens_is_found_too() -> None:
    run = at_keys(60_000.0, models=TWO, max_tokens_per_minute=12_000.0, counting="prompt_plus_max_output").run()
    first, other = limiters_of(run)
    assert first.tokens is other.tokens
    assert first.requests is not other.requests
    assert run.refused <= 0.03 * run.accepted


def test_a_limit_that_the_server_begins_to_show_is_not_the_common_one() -> None:
    run = at_keys(600.0, models=TWO).run()
    first, other = limiters_of(run)
    first.clock = lambda: run.wall + 100.0
    lease = first.take(SMALL)
    assert lease is not None
    first.answered(lease, {f"x-ratelimit-{part}-requests": "60" for part in ("limit", "remaining")})
    assert first.requests is not other.requests
    assert (first.requests.limit, other.requests.limit) == (60.0, None)


def test_a_common_limit_is_told_once_and_not_for_each_model() -> None:
    run = at_keys(600.0, models=TWO).run()
    level = run.limiters.level("requests", ["model 0", "model 1"])
    assert 9.0 < level.rate < 12.0
    assert level is limiters_of(run)[0].requests


def test_nothing_is_remembered_of_a_single_models_sends() -> None:
    limiters = ModelLimiters(clock=lambda: 0.0)
    assert limiters.of("a").common is None
    limiters.of("b")
    assert limiters.of("a").common is limiters.of("b").common is not None


def test_models_whose_limits_turn_out_to_differ_part_again() -> None:
    """As at a gateway that stops limiting the key: from then on each model meets its own limit."""
    run = at_keys(600.0, 6000.0, models=[ModelRun(1500), ModelRun(9000)])
    run.parts_at = 40.0
    run.run()
    assert run.refused <= 0.01 * run.accepted
    assert run.wall < 250
    assert not any(limiter.shares for limiter in limiters_of(run))
