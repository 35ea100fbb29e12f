"""Several accounts as one: all their limits are used, and an account that fails loses no rows."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._client.pool import LONGEST_BACKOFF, Member, PoolLimiter
from parallel_openai._limits.limiter import Limiter
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import Response, Result, Size, Usage, Verdict
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.errors import AuthenticationError, InvalidInputError, QuotaExceededError, RunStoppedError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.settings import Settings
from tests.conftest import wait_until_sent
from tests.limits.virtual import Rehearsal, VirtualLoop, run_virtually

DF = pd.DataFrame({"text": [f"Row {number}." for number in range(120)]})


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with simulator.serve(refusal_latency=0.0) as one, simulator.serve(refusal_latency=0.0) as other:
        for server in (one, other):
            server.set(max_requests_per_minute=None, max_tokens_per_minute=None, latency=0.01)
        yield [one, other]


def ask(client: Client, df: pd.DataFrame = DF, **options: Any) -> pd.DataFrame:
    return po.process_dataframe(df, "text", model="gpt-5-mini", client=client, progress=False, **options)


def received(server: Server) -> int:
    return int(server.stats(charged=False)["received"])


def report() -> po.RunReport:
    last = po.last_run()
    assert last is not None
    return last


def test_where_providers_have_different_prices_the_highest_counts() -> None:
    urls = ["https://openrouter.ai/api/v1", "https://api.groq.com/openai/v1"]
    clients = [Client(url, "sk-none") for url in urls]
    low, high = (client.price("openai/gpt-oss-120b", Usage(10**6), None) for client in clients)
    assert low < high == Client.pool(clients).price("openai/gpt-oss-120b", Usage(10**6), None)
    assert math.isnan(Client.pool(clients).price("my-own", Usage(10), None))


# The limits, in virtual time.


class Bank:
    """Accounts in virtual time, and a run over all of them."""

    def __init__(self, *settings: dict[str, Any], sizes: list[Size]) -> None:
        self.accounts = [Rehearsal(Settings(**each), sizes, seed=number) for number, each in enumerate(settings)]
        self.sizes = sizes

    def run(self, **limiter_options: Any) -> Bank:
        loop = VirtualLoop()
        run_virtually(self._run(loop, limiter_options), loop)
        return self

    async def _run(self, loop: VirtualLoop, options: dict[str, Any]) -> None:
        for each in self.accounts:
            each._loop, each._random = loop, random.Random(each.seed)
            each._account = Account(each.settings, now=0.0)
            each._account.record(0.0)
        gate = PoolLimiter(
            [Member(str(n), Limiter(clock=loop.time, **options), each._send) for n, each in enumerate(self.accounts)],
            clock=loop.time,
        )
        results: list[Result] = []
        processor = Runner(
            send=gate.send,
            limiter=gate,
            on_result=results.append,
            retry=RetryPolicy(max_wait=1e5, random=random.Random(1).random),
            max_concurrent_requests=1500,
            clock=loop.time,
        )
        await processor.run(self.accounts[0]._requests())
        assert {result.status for result in results} == {"succeeded"}
        assert len(results) == len(self.sizes)

    @property
    def utilisation(self) -> float:
        """What was accepted by all, as a share of what all allowed from the first send to the last."""
        first = min(each.first for each in self.accounts if each.first is not None)
        last = max(each.last for each in self.accounts)
        accepted = allowed = 0.0
        for each in self.accounts:
            each._account.record(last)
            requests = each._account.allowed(first, last)["requests"]
            assert requests is not None
            accepted, allowed = accepted + each.accepted, allowed + requests
        return accepted / allowed


SMALL = Size(20, 80, 16, 1)


@pytest.mark.parametrize("known", [True, False], ids=["limits shown", "limits not shown"])
def test_the_sum_of_the_limits_is_used_without_refusals(known: bool) -> None:
    limits = [{"max_requests_per_minute": limit, "max_tokens_per_minute": None} for limit in (60, 300, 1200)]
    shown: dict[str, Any] = {} if known else {"headers": "none"}
    bank = Bank(*({**each, "burst_seconds": 1.0, **shown} for each in limits), sizes=[SMALL] * 3_000).run()
    refused = sum(each.refused for each in bank.accounts)
    assert bank.utilisation >= 0.95
    assert refused <= (15 if known else 90)  # what finding three windows costs


# One that is refused for good, over sockets.


def test_rows_go_to_every_account_and_the_report_counts_for_each(servers: list[Server]) -> None:
    pool = Client.pool([{"base_url": servers[0].base_url}, Client(servers[1].base_url)])
    out = ask(pool)
    assert out["status"].eq("succeeded").all()
    assert all(received(server) > 20 for server in servers)
    assert [each["answered"] for each in report().members] == [received(server) for server in servers]
    assert out.attrs["parallel_openai"]["members"][0]["name"] == f"1. {servers[0].base_url}"
    assert "Accounts of the pool" in report()._repr_html_()


def test_an_account_with_a_wrong_key_is_excluded_and_the_others_take_over(
    servers: list[Server], caplog: pytest.LogCaptureFixture
) -> None:
    servers[0].set(required_api_key="sk-right-0123")
    pool = Client.pool([Client(server.base_url, "sk-wrong-0123") for server in servers])
    out = ask(pool)
    assert out["status"].eq("succeeded").all()
    assert received(servers[1]) == len(DF)
    [note] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "is excluded from the pool, 1 of 2 remain: HTTP 401" in note.getMessage()
    assert f"put out of the pool: 1. {servers[0].base_url}" in str(report())
    assert "sk-wrong" not in caplog.text + str(report()) + report()._repr_html_() + repr(pool)


def test_an_account_whose_key_function_fails_is_excluded(servers: list[Server]) -> None:
    def give() -> str:
        raise OSError("the identity service is away")

    out = ask(Client.pool([Client(servers[0].base_url, give), Client(servers[1].base_url)]))
    assert out["status"].eq("succeeded").all()
    assert (received(servers[0]), received(servers[1])) == (0, len(DF))
    assert "api_key= raised OSError" in report().members[0]["out"]


def test_the_next_run_tries_every_account_again(servers: list[Server]) -> None:
    pool = Client.pool([Client(server.base_url) for server in servers])
    servers[0].set(insufficient_quota_after=0)
    ask(pool, DF[:60])
    servers[0].set(insufficient_quota_after=None)
    before = received(servers[0])
    ask(pool, DF[60:])
    assert received(servers[0]) > before
    assert [each["out"] for each in report().members] == [None, None]


def test_an_account_that_runs_out_of_credit_loses_no_row(servers: list[Server]) -> None:
    servers[0].set(insufficient_quota_after=20)
    out = ask(Client.pool([Client(server.base_url) for server in servers]))
    assert out["status"].eq("succeeded").all()
    assert out["attempts"].eq(1).all()
    charged = [server.stats()["charged"] for server in servers]
    assert sum(sum(each.values()) for each in charged) == len(DF)


def test_a_denial_of_one_row_excludes_no_account(servers: list[Server]) -> None:
    for server in servers:
        server.script([{"status": 403, "message": "Blocked by rule 942100."}], matching="Row 77.")
        server.script([401], matching="Row 99.")
    with Client.pool([Client(server.base_url, max_concurrent_requests=2) for server in servers]) as pool:
        out = ask(pool)
    assert out.index[out["status"].eq("failed")].tolist() == [77]
    assert all(member["out"] is None for member in report().members)


def test_a_server_that_dies_during_a_run_loses_no_row(servers: list[Server]) -> None:
    servers[0].set(latency=0.1)
    servers[1].set(latency=0.1, max_requests_per_minute=6000)
    pool = Client.pool([Client(server.base_url, max_concurrent_requests=10) for server in servers])
    killer = threading.Thread(target=lambda: (wait_until_sent(servers[0], 20), servers[0].stop()))
    killer.start()
    out = ask(pool)
    killer.join()
    assert out["status"].eq("succeeded").all()
    assert received(servers[1]) >= len(DF) - 60


def test_an_account_that_always_fails_fails_no_row(servers: list[Server]) -> None:
    servers[0].set(fault_502=1.0)
    servers[1].set(max_requests_per_minute=2400, burst_seconds=1.0)  # so that the broken one always has more room
    pool = Client.pool([Client(server.base_url, max_attempts=4, max_concurrent_requests=8) for server in servers])
    out = ask(pool)
    assert out["status"].eq("succeeded").all()
    assert received(servers[0]) < 25


def test_the_run_stops_when_no_account_is_left_with_the_reason_of_each(servers: list[Server]) -> None:
    servers[0].set(required_api_key="sk-right-0123")
    servers[1].set(insufficient_quota_after=30)
    pool = Client.pool([Client(server.base_url) for server in servers])
    with pytest.raises(RunStoppedError, match="No account of the pool is left") as error:
        ask(pool)
    assert isinstance(error.value, (QuotaExceededError, AuthenticationError))
    assert "HTTP 401" in str(error.value)
    assert "HTTP 429" in str(error.value)
    assert error.value.partial["status"].eq("succeeded").sum() == 30


def test_requests_do_not_depend_on_the_account(servers: list[Server]) -> None:
    pool = Client.pool([Client(server.base_url) for server in servers])
    ask(pool)
    before = [received(server) for server in servers]
    assert ask(Client(servers[0].base_url))["status"].eq("succeeded").all()
    assert ask(Client.pool([Client(servers[0].base_url)]))["status"].eq("succeeded").all()
    assert [received(server) for server in servers] == before


def test_each_account_keeps_its_max_concurrent_requests(servers: list[Server]) -> None:
    servers[0].set(latency=0.05)
    ask(Client.pool([Client(servers[0].base_url, max_concurrent_requests=2), Client(servers[1].base_url)]))
    assert servers[0].stats()["max_in_flight"] == 2


def test_files_and_single_requests_go_through_a_pool_too(servers: list[Server]) -> None:
    pool = Client.pool([Client(server.base_url) for server in servers])
    request = APIRequest({"model": "m", "messages": [{"role": "user", "content": "Hi."}]})
    statuses = [asyncio.run(request.call_api(pool)).status for _ in range(4)]
    assert statuses == [200] * 4
    assert [received(server) for server in servers] == [2, 2]
    pool.close()


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "at least one client"),
        (["sk-key"], "made of clients or their arguments, not of 'sk-key'"),
        ([Client("http://h/v1"), Client("http://h/v1", loop="running")], "with the same loop="),
        ([Client("http://h/v1")] * 2, "must be different ones"),
        ([Client.pool([Client("http://h/v1")])], "made of clients"),
        ([Client("https://api.openai.com/v1", "")], None),
    ],
    ids=["none", "no client", "two loops", "twice the same", "a pool", "no key"],
)
def test_an_invalid_pool_is_refused_with_the_reason(members: list[Any], sentence: str | None) -> None:
    if sentence is None:
        with pytest.raises(AuthenticationError):
            Client.pool(members).check_key()
        return
    with pytest.raises(InvalidInputError, match=sentence):
        Client.pool(members)


def test_a_request_too_large_for_one_account_goes_to_another(servers: list[Server]) -> None:
    for server, limit in zip(servers, (100, 100_000), strict=True):
        server.set(max_tokens_per_minute=limit)
    pool = Client.pool(
        [
            Client(servers[0].base_url, max_tokens_per_minute=100),
            Client(servers[1].base_url, max_tokens_per_minute=100_000),
        ]
    )
    out = ask(pool, pd.DataFrame({"text": ["word " * 500, "word " * 200_000]}))
    assert out["status"].tolist() == ["succeeded", "failed"]
    assert "100,000 tokens per minute" in out["error"][1]
    assert received(servers[0]) == 0


def test_an_account_that_always_fails_backs_off_exponentially() -> None:
    now = [0.0]
    limiter = Limiter(clock=lambda: now[0])

    async def post(request: APIRequest) -> Response:
        raise AssertionError

    member = Member("1", limiter, post)
    broken, done = Response(502, {}, b"", None, 0.1), Response(200, {}, b"{}", {}, 0.1)
    rests = []
    for _ in range(12):
        member.record(broken, Verdict("retry"), now[0], now[0])
        rests.append(0.0 if member.has_room(now[0]) else member.seconds_until_room(now[0]))
        now[0] += rests[-1] if rests[-1] else 0.1
    assert rests == pytest.approx(
        [0, 0, 1, 2, 4, 8, 16, 32, LONGEST_BACKOFF, LONGEST_BACKOFF, LONGEST_BACKOFF, LONGEST_BACKOFF]
    )
    member.record(done, Verdict("done"), now[0], now[0])
    assert member.has_room(now[0])
    assert member.counts["other_errors"] == 12


def test_a_pool_shows_the_sum_of_the_limits(servers: list[Server]) -> None:
    pool = Client.pool([Client("http://h/v1", max_requests_per_minute=n) for n in (60, 600)])
    assert (pool.max_requests_per_minute, pool.max_tokens_per_minute) == (660.0, None)
    assert repr(pool).startswith("Client.pool([Client('http://h/v1', max_requests_per_minute=60)")
    status = StatusTracker()
    assert status.members == []
