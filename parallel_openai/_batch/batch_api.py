"""Calls to `/files` and `/batches`, with retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parallel_openai._batch.disk_writes import TooLongError, TooSlowError, download_to
from parallel_openai._batch.part_failures import LostError, UnavailableError
from parallel_openai._batch.server_batch import TAG_KEY, ServerBatch, plain_id
from parallel_openai._client.client import Client
from parallel_openai._json import dumps
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._records import Response
from parallel_openai._run.response_verdict import UNSENT_CODES, RetryPolicy, judge
from parallel_openai.errors import PermissionDeniedError

Sleep = Callable[[float], Awaitable[None]]
#: Batches per page of the list, and the most pages that are read.
PAGE_SIZE, MAX_PAGES = 100, 200
#: The timeout of a status request in seconds; the other batches wait meanwhile.
STATUS_TIMEOUT = 60.0
#: Seconds before each look at the list for a batch just created, since the list may lag behind.
LIST_DELAYS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)


class BatchAPI:
    """The Batch API of an account.

    Each call raises LostError if the server refuses it, UnavailableError if it fails after all attempts, and another
    RunStoppedError if no call can succeed.

    Args:
        client: the account; each call counts against its request limit.
        sleep: waits for this many seconds.
        read_once: make a single attempt at calls that can be repeated later: a batch's status and a file's content.
    """

    def __init__(self, client: Client, *, sleep: Sleep = asyncio.sleep, read_once: bool = False) -> None:
        self._client = client
        self._sleep = sleep
        self._read_attempts = 1 if read_once else client.max_attempts
        self._retry = RetryPolicy(client.max_attempts, max_wait=client.max_wait)
        self._reached = False
        self.has_worked = False  # whether any call has succeeded

    async def upload(self, file: Path, filename: str, size: int) -> str:
        """Upload a file and return its id. A file of that name and size from an earlier attempt is reused."""
        transport = self._client.transport()

        async def send() -> Response:
            return await transport.upload("files", file, filename=filename, fields={"purpose": "batch"})

        async def find() -> dict[str, Any] | None:
            with suppress(LostError, PermissionDeniedError, UnavailableError):  # uploading it again costs nothing
                return await self._find_file(filename, size)
            return None

        file_id = plain_id((await self._until_answered("upload a file", send, find=find)).get("id"))
        if file_id is None:
            raise UnavailableError("The Batch API accepted a file but returned no id.")
        return file_id

    async def create(
        self, file_id: str, path: str, tag: str, former: Collection[str], on_send: Callable[[], None]
    ) -> ServerBatch:
        """Submit a file as exactly one batch: after an attempt that may have succeeded, search the server's list first.

        Args:
            tag: the part's name and submission, as `name.2`; stored in the batch's metadata.
            former: ids of earlier batches of the same file.
            on_send: called before each attempt.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": f"/v1/{path}",
            "completion_window": "24h",
            "metadata": {TAG_KEY: tag},
        }
        found: list[ServerBatch] = []

        async def send() -> Response:
            on_send()
            return await self._client.transport().call("POST", "batches", body=dumps(body))

        async def find() -> dict[str, Any] | None:
            batch = await self.find(file_id, tag.rpartition(".")[0], former, LIST_DELAYS)
            found.extend([] if batch is None else [batch])
            return None if batch is None else {}

        answer = await self._until_answered("create a batch", send, find=find)
        batch = found[0] if found else ServerBatch.of(answer)
        if batch.id is None and await find() is None:
            raise UnavailableError("The Batch API created a batch but returned no id.")
        return found[0] if found else batch

    async def find(
        self, file_id: str | None, name: str, former: Collection[str], delays: Collection[float]
    ) -> ServerBatch | None:
        """The batch with this input file, or whose tag begins with this name; None if there is none.

        Args:
            delays: seconds to wait before each look at the list.

        Raises:
            UnavailableError: the list is not available.
        """
        for wait in delays:
            await self._sleep(wait)
            try:
                async for batch in self._batches():
                    is_ours = (batch.tag or "").rpartition(".")[0] == name or batch.input_file_id == file_id is not None
                    if is_ours and batch.id is not None and batch.id not in former:
                        return batch
            except (LostError, PermissionDeniedError) as error:
                raise UnavailableError(f"Whether a batch was created cannot be determined. {error}") from error
        return None

    async def get(self, batch_id: str) -> ServerBatch:
        path = f"batches/{quote(batch_id, safe='')}"
        batch = ServerBatch.of(await self._call(f"show {batch_id}", "GET", path, attempts=self._read_attempts))
        if not batch.status:
            raise UnavailableError(f"The Batch API returned {batch_id} without a status.")
        return batch

    async def cancel(self, batch_id: str) -> ServerBatch:
        """Cancel a batch. Raises LostError if it has already ended."""
        path = f"batches/{quote(batch_id, safe='')}/cancel"
        return ServerBatch.of(await self._call(f"cancel {batch_id}", "POST", path, final=(409,)))

    async def download(self, file_id: str, target: Path, max_bytes: int) -> bool:
        """Write a file's content to `target`. Returns False if it is longer than allowed and was cut off.

        Raises:
            JournalWriteError: writing failed.
        """

        async def send() -> Response:
            with download_to(target, max_bytes, self._client.timeout) as into:
                return await self._client.transport().download(f"files/{quote(file_id, safe='')}/content", into)

        try:
            await self._until_answered(f"return the file {file_id}", send, attempts=self._read_attempts)
        except TooLongError:
            return False
        except TooSlowError as error:
            raise UnavailableError(f"The download of the file {file_id} was too slow.") from error
        return True

    async def _batches(self) -> AsyncIterator[ServerBatch]:
        """The account's batches, newest first."""
        after: str | None = None
        for _ in range(MAX_PAGES):
            query = {"limit": str(PAGE_SIZE), **({"after": after} if after else {})}
            page = await self._call("list the batches", "GET", "batches", query=query)
            found = [ServerBatch.of(each) for each in _listed(page)]
            for batch in found:
                yield batch
            if not page.get("has_more") or not found:
                return
            if found[-1].id in (None, after):
                break
            after = found[-1].id
        raise UnavailableError("The Batch API's list of batches does not end.")

    async def _find_file(self, filename: str, size: int) -> dict[str, Any] | None:
        query = {"purpose": "batch", "limit": "100"}
        page = await self._call("list the files", "GET", "files", query=query)
        same = (each for each in _listed(page) if (each.get("filename"), each.get("bytes")) == (filename, size))
        return next(map(dict, same), None)

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        final: Collection[int] = (),
        attempts: int | None = None,
    ) -> dict[str, Any]:
        timeout = min(STATUS_TIMEOUT, self._client.timeout)

        async def send() -> Response:
            return await self._client.transport().call(method, path, query=query, timeout=timeout)

        return await self._until_answered(what, send, final=final, attempts=attempts)

    async def _until_answered(
        self,
        what: str,
        send: Callable[[], Awaitable[Response]],
        *,
        # After a failed attempt, returns the result if the server has done the work all the same.
        find: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
        final: Collection[int] = (),  # statuses that are not retried
        # The most attempts; None: the client's `max_attempts`, not counting rate-limit refusals.
        attempts: int | None = None,
    ) -> dict[str, Any]:
        """Send until the server answers; returns the answer's JSON."""
        failures, began, max_attempts = 0, time.monotonic(), attempts or self._client.max_attempts
        while True:
            response = await self._send(send)
            verdict = judge(response, reached=self._reached)
            if response.status:
                self._reached = True
            if verdict.kind == "done":
                self.has_worked = True
                answer: dict[str, Any] = response.data
                return answer
            if verdict.stop is not None:
                raise verdict.stop(f"{verdict.message} (The Batch API was asked to {what}.)")
            failures += 1
            sentence = f"The Batch API did not {what}: {verdict.message}"
            if verdict.kind == "fail" or response.status in final:
                raise LostError(sentence)
            if find is not None and _may_have_worked(response) and (found := await find()) is not None:
                return found
            counts = verdict.kind == "retry" or attempts is not None
            wait = max(verdict.wait or 0.0, self._retry.backoff(failures))
            if (counts and failures >= max_attempts) or time.monotonic() + wait - began > self._retry.max_wait:
                raise UnavailableError(sentence)
            await self._sleep(wait)

    async def _send(self, send: Callable[[], Awaitable[Response]]) -> Response:
        limiter = self._client.limiter.of(None)  # these calls have no model
        lease = await limiter.acquire(NO_SIZE)
        try:
            return await send()
        finally:
            limiter.unanswered(lease)


def _may_have_worked(response: Response) -> bool:
    if response.status == 0:
        return response.error_code not in UNSENT_CODES
    return response.status >= 500 or response.status in (200, 408, 409)


def _listed(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = page.get("data")
    return [each for each in data if isinstance(each, Mapping)] if isinstance(data, list) else []
