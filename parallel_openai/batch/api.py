"""The calls of `/files` and `/batches`, each until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parallel_openai.client import Client
from parallel_openai.engine.retry import UNSENT_CODES, RetryPolicy, judge
from parallel_openai.engine.sizes import NO_SIZE
from parallel_openai.errors import BatchError
from parallel_openai.jsonl import dumps
from parallel_openai.records import Response

Sleep = Callable[[float], Awaitable[None]]
#: The name of our entry in a batch's metadata.
MARK = "parallel_openai"
#: Batches on one page of their list.
PAGE = 100


class BatchAPI:
    """The Batch API of an account.

    Args:
        client: the account; each call waits for its turn within the account's limit of requests.
        sleep: waits so many seconds.
    """

    def __init__(self, client: Client, *, sleep: Sleep = asyncio.sleep) -> None:
        self._client = client
        self._sleep = sleep
        self._retry = RetryPolicy(client.max_attempts, max_wait=client.max_wait)
        self._reached = False

    async def upload(self, file: Path, filename: str, size: int) -> str:
        """The file's id. A file of that name and size that an earlier try brought there is taken."""
        transport = self._client.transport()

        async def send() -> Response:
            return await transport.upload("files", file, filename=filename, fields={"purpose": "batch"})

        async def find() -> Any:
            return await self._find_file(filename, size)

        return str((await self._once("upload a file", send, find))["id"])

    async def create(self, file_id: str, path: str, mark: str) -> dict[str, Any]:
        """Submit a file as a batch, once: where a try may have gone through, the server's list is looked at first."""
        body = {
            "input_file_id": file_id,
            "endpoint": f"/v1/{path}",
            "completion_window": "24h",
            "metadata": {MARK: mark},
        }

        async def send() -> Response:
            return await self._client.transport().call("POST", "batches", body=dumps(body))

        async def find() -> dict[str, Any] | None:
            return await self.find(mark)

        return await self._once("create a batch", send, find)

    async def find(self, mark: str, since: float = 0.0) -> dict[str, Any] | None:
        """The batch that bears our mark; None where there is none of it made after a moment (seconds since 1970)."""
        async for batch in self._batches():
            if (batch.get("metadata") or {}).get(MARK) == mark:
                return batch
            if (batch.get("created_at") or 0) < since:
                break
        return None

    async def get(self, batch_id: str) -> dict[str, Any]:
        return await self._call(f"look at {batch_id}", "GET", f"batches/{batch_id}")

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Raises BatchError where it has come to its end already."""
        return await self._call(f"cancel {batch_id}", "POST", f"batches/{batch_id}/cancel", final=(409,))

    async def download(self, file_id: str, place: Path) -> None:
        """The file's content, whole, at that place."""

        async def send() -> Response:
            return await self._client.transport().download(f"files/{quote(file_id, safe='')}/content", place)

        await self._until_answered(f"download {file_id}", send, patient=True)

    async def _batches(self) -> AsyncIterator[dict[str, Any]]:
        """All of them, the newest first."""
        after: str | None = None
        while True:
            query = {"limit": str(PAGE), **({"after": after} if after else {})}
            page = await self._call("list the batches", "GET", "batches", query=query)
            found = page.get("data") or []
            for batch in found:
                yield batch
            if not page.get("has_more") or not found:
                return
            after = found[-1]["id"]

    async def _find_file(self, filename: str, size: int) -> dict[str, Any] | None:
        query = {"purpose": "batch", "limit": "100"}
        page = await self._call("list the files", "GET", "files", query=query)
        fitting = (each for each in page.get("data") or [] if each.get("filename") == filename)
        return next((each for each in fitting if each.get("bytes") == size), None)

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        final: Collection[int] = (),
    ) -> dict[str, Any]:
        async def send() -> Response:
            return await self._client.transport().call(method, path, query=query)

        return await self._until_answered(what, send, patient=True, final=final)

    async def _once(
        self, what: str, send: Callable[[], Awaitable[Response]], find: Callable[[], Awaitable[dict[str, Any] | None]]
    ) -> dict[str, Any]:
        return await self._until_answered(what, send, find=find)

    async def _until_answered(
        self,
        what: str,
        send: Callable[[], Awaitable[Response]],
        *,
        find: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
        patient: bool = False,
        final: Collection[int] = (),
    ) -> dict[str, Any]:
        """Send until there is an answer.

        Args:
            find: looks whether a send that seemed to fail has done its work.
            patient: only time ends it, as for what can be asked for at any later moment.
            final: statuses after which it is of no use to ask again.
        """
        failures, began = 0, time.monotonic()
        while True:
            response = await self._send(send)
            verdict = judge(response, reached=self._reached)
            if response.status:
                self._reached = True
            if verdict.kind == "done":
                answer: dict[str, Any] = response.data
                return answer
            if verdict.stop is not None:
                raise verdict.stop(f"{verdict.message} (The Batch API was to {what}.)")
            failures += 1
            late = time.monotonic() - began > self._retry.max_wait
            tired = verdict.kind == "retry" and not patient and failures >= self._retry.max_attempts
            if verdict.kind == "fail" or response.status in final or late or tired:
                raise BatchError(f"The Batch API would not {what}: {verdict.message}")
            await self._sleep(max(verdict.wait or 0.0, self._retry.backoff(failures)))
            if find is not None and _may_have_worked(response) and (found := await find()) is not None:
                return found

    async def _send(self, send: Callable[[], Awaitable[Response]]) -> Response:
        limiter = self._client.limiter
        lease = await limiter.acquire(NO_SIZE)
        try:
            return await send()
        finally:
            limiter.unanswered(lease)


def _may_have_worked(response: Response) -> bool:
    if response.status == 0:
        return response.error_code not in UNSENT_CODES
    return response.status >= 500 or response.status in (200, 408, 409)
