"""A single worker, without a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import parallel_openai as po
from parallel_openai._frames.repair import Repair
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.undelivered import new_undelivered, undelivered_lines
from parallel_openai._ray.cluster import AccountActor, SealedClient
from parallel_openai._ray.worker import SILENCE, Worker, numbered
from parallel_openai._records import APIRequest, Result
from parallel_openai.local import simulator
from tests.servers.recorder import recorder


class LocalAccount:
    """The account's books, in this process."""

    limits = (None, None)

    def __init__(self) -> None:
        self._actor = AccountActor(None, None)

    async def aask(self, method: str, *args: Any) -> Any:
        return getattr(self._actor, method)(*args)


def test_a_worker_that_lost_contact_with_its_run_stops_sending_until_it_returns(tmp_path: Path) -> None:
    asyncio.run(hears_nothing_for_a_while(new_undelivered(tmp_path / "answers.jsonl")))


async def hears_nothing_for_a_while(undelivered: Path) -> None:
    with simulator.serve(max_requests_per_minute=None, latency=0.1) as server:
        worker = Worker(LocalAccount())  # type: ignore[arg-type]  # all that it needs of the account
        client = po.Client(server.base_url, max_concurrent_requests=2)
        await worker.open(SealedClient(client.account()), None, undelivered, None)
        asked = [
            APIRequest({"model": "m", "messages": [{"role": "user", "content": f"{number}"}]}) for number in range(40)
        ]
        delivered = await worker.exchange([numbered(number, each) for number, each in enumerate(asked)], 0.2)
        await asyncio.sleep(SILENCE + 0.2)
        before = server.stats(charged=False)["received"]
        await asyncio.sleep(0.3)
        assert server.stats(charged=False)["received"] == before < 30
        assert len([*undelivered_lines(undelivered)]) == before  # what its run may not have any more
        results = [*delivered.results]
        while len(results) < 40:
            results += (await worker.exchange([], 0.2)).results
        await worker.drain(1.0)
        await worker.exchange([], 0.0)
        assert [*undelivered_lines(undelivered)] == []
        assert server.stats(charged=False)["received"] == 40


def test_an_unknown_parameter_is_reported_and_known_rows_keep_the_run_going() -> None:
    answer = b'{"error": {"message": "Unknown parameter: \'max_tokns\'.", "param": "max_tokns", "code": null}}'
    with recorder(lambda asked: (400, answer)) as server:
        stop, sends = asyncio.run(refused_alike(server.url, known=0))
        assert stop is not None
        assert stop[0] == "RequestRefusedError"
        assert "Check max_tokns=5. Did you mean max_tokens?" in stop[1]
        stop, sends = asyncio.run(refused_alike(server.url, known=3))
        assert (stop, sends) == (None, 20)


async def refused_alike(url: str, known: int) -> tuple[tuple[str, str] | None, int]:
    """Why a worker stopped and how many results it gave, where so many answers are known already."""
    worker = Worker(LocalAccount())  # type: ignore[arg-type]  # all that it needs of the account
    await worker.open(SealedClient(po.Client(f"{url}/v1").account()), None, Path("nowhere"), None, known)
    messages = [[{"role": "user", "content": f"{number}"}] for number in range(20)]
    asked = [APIRequest({"model": "m", "max_tokns": 5, "messages": each}) for each in messages]
    delivered = await worker.exchange([numbered(number, each) for number, each in enumerate(asked)], 1.0)
    results = [*delivered.results]
    for _ in range(20):
        if delivered.stop is not None or len(results) == 20:
            break
        delivered = await worker.exchange([], 0.5)
        results += delivered.results
    await worker.drain(1.0)
    return delivered.stop, len(results)


def test_a_repaired_answer_is_stored_as_the_rows_own(tmp_path: Path) -> None:
    row = APIRequest({"model": "m", "messages": [{"role": "user", "content": "a"}]}, {"id": 1})
    mended = {"model": "m", "messages": [{"role": "user", "content": "b"}]}
    repair = APIRequest(mended, row.metadata)
    repair.context = Repair(row, (Result(row, "succeeded", {}),))
    [line] = asyncio.run(kept_of(repair, new_undelivered(tmp_path / "answers.jsonl")))
    entry = JournalEntry.read(line)
    assert entry is not None
    assert (entry.key, entry.metadata) == (row.key, {"id": 1})
    result = entry.result(row)
    assert result.sent is not None
    assert (result.sent.request_json, len(result.earlier)) == (mended, 1)


async def kept_of(request: APIRequest, undelivered: Path) -> list[bytes]:
    with simulator.serve(max_requests_per_minute=None) as server:
        worker = Worker(LocalAccount())  # type: ignore[arg-type]  # all that it needs of the account
        await worker.open(SealedClient(po.Client(server.base_url).account()), None, undelivered, None)
        assert (await worker.exchange([numbered(1, request)], 5.0)).results
        kept = [*undelivered_lines(undelivered)]
        await worker.drain(1.0)
        return kept
