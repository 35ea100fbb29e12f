"""The calls of `/files` and `/batches`, each until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parallel_openai._batch.disk_errors import TooLongError, TooSlowError, download_to
from parallel_openai._batch.part_failures import LostError, NotNowError
from parallel_openai._batch.server_batch import ServerBatch, plain_id
from parallel_openai._client.client import Client
from parallel_openai._json import dumps
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._records import Response
from parallel_openai._run.response_verdict import UNSENT_CODES, RetryPolicy, judge

Sleep = Callable[[float], Awaitable[None]]
#: The name of our entry in a batch's metadata.
MARK = "parallel_openai"
#: Batches on one page of their list, and pages that are read at the most.
PAGE, MOST_PAGES = 100, 200
#: Seconds that the server may take to say how a batch stands, since the others wait for it meanwhile.
LONGEST_LOOK = 60.0
#: Seconds before each look at the list for a batch that may have been made just now: it may show it a little later.
LOOKS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)


class BatchAPI:
    """The Batch API of an account.

    Each call raises LostError where the server refuses it, NotNowError where it does not do it in some attempts, and
    another RunStoppedError where no call can succeed.

    Args:
        client: the account; each call waits for its turn within the account's limit of requests.
        sleep: waits so many seconds.
        looks_once: what can as well be asked later, how a batch stands and what a file holds, is asked once.
    """

    def __init__(self, client: Client, *, sleep: Sleep = asyncio.sleep, looks_once: bool = False) -> None:
        self._client = client
        self._sleep = sleep
        self._looks = 1 if looks_once else client.max_attempts
        self._retry = RetryPolicy(client.max_attempts, max_wait=client.max_wait)
        self._reached = False
        self.has_worked = False  # some call was answered as it should be

    async def upload(self, file: Path, filename: str, size: int) -> str:
        """The file's id. A file of that name and size that an earlier try brought there is taken."""
        transport = self._client.transport()

        async def send() -> Response:
            return await transport.upload("files", file, filename=filename, fields={"purpose": "batch"})

        async def find() -> dict[str, Any] | None:
            with suppress(LostError, NotNowError):  # to bring it there once more costs nothing
                return await self._find_file(filename, size)
            return None

        file_id = plain_id((await self._until_answered("upload a file", send, find=find)).get("id"))
        if file_id is None:
            raise NotNowError("The Batch API took a file and did not say by what id.")
        return file_id

    async def create(
        self, file_id: str, path: str, mark: str, former: Collection[str], on_send: Callable[[], None]
    ) -> ServerBatch:
        """Submit a file as a batch, once: where a try may have gone through, the server's list is looked at first.

        Args:
            former: batches of the same file that are known already.
            on_send: called before each send.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": f"/v1/{path}",
            "completion_window": "24h",
            "metadata": {MARK: mark},
        }
        found: list[ServerBatch] = []

        async def send() -> Response:
            on_send()
            return await self._client.transport().call("POST", "batches", body=dumps(body))

        async def find() -> dict[str, Any] | None:
            batch = await self.find(file_id, mark.rpartition(".")[0], former, LOOKS)
            found.extend([] if batch is None else [batch])
            return None if batch is None else {}

        told = await self._until_answered("create a batch", send, find=find)
        batch = found[0] if found else ServerBatch.of(told, MARK)
        if batch.id is None and await find() is None:
            raise NotNowError("The Batch API made a batch and did not say by what id.")
        return found[0] if found else batch

    async def find(
        self, file_id: str | None, name: str, former: Collection[str], looks: Collection[float]
    ) -> ServerBatch | None:
        """The batch that has our file, or a mark that begins with our name; None where there is none.

        Args:
            looks: seconds to wait before each look at the list.

        Raises:
            NotNowError: the list cannot be seen.
        """
        for wait in looks:
            await self._sleep(wait)
            try:
                async for batch in self._batches():
                    ours = (batch.mark or "").rpartition(".")[0] == name or batch.input_file_id == file_id is not None
                    if ours and batch.id is not None and batch.id not in former:
                        return batch
            except LostError as error:
                sentence = f"A batch was asked for, and whether it was made cannot be seen. {error}"
                raise NotNowError(sentence) from error
        return None

    async def get(self, batch_id: str) -> ServerBatch:
        path = f"batches/{quote(batch_id, safe='')}"
        told = await self._call(f"show {batch_id}", "GET", path, attempts=self._looks)
        batch = ServerBatch.of(told, MARK)
        if not batch.status:
            raise NotNowError(f"The Batch API told of {batch_id} without its status.")
        return batch

    async def cancel(self, batch_id: str) -> ServerBatch:
        """Raises LostError where it has come to its end already."""
        path = f"batches/{quote(batch_id, safe='')}/cancel"
        return ServerBatch.of(await self._call(f"cancel {batch_id}", "POST", path, final=(409,)), MARK)

    async def download(self, file_id: str, place: Path, most: int) -> bool:
        """The file's content at that place; False where it is longer than it may be, and only its beginning is there.

        Raises:
            JournalWriteError: the disk refuses.
        """

        async def send() -> Response:
            with download_to(place, most, self._client.timeout) as into:
                return await self._client.transport().download(f"files/{quote(file_id, safe='')}/content", into)

        try:
            await self._until_answered(f"give the file {file_id}", send, attempts=self._looks)
        except TooLongError:
            return False
        except TooSlowError as error:
            raise NotNowError(f"The file {file_id} came too slowly.") from error
        return True

    async def _batches(self) -> AsyncIterator[ServerBatch]:
        """All of them, the newest first."""
        after: str | None = None
        for _ in range(MOST_PAGES):
            query = {"limit": str(PAGE), **({"after": after} if after else {})}
            page = await self._call("list the batches", "GET", "batches", query=query)
            found = [ServerBatch.of(each, MARK) for each in _listed(page)]
            for batch in found:
                yield batch
            if not page.get("has_more") or not found:
                return
            if found[-1].id in (None, after):
                break
            after = found[-1].id
        raise NotNowError("The Batch API's list of batches has no end.")

    async def _find_file(self, filename: str, size: int) -> dict[str, Any] | None:
        query = {"purpose": "batch", "limit": "100"}
        page = await self._call("list the files", "GET", "files", query=query)
        fitting = (each for each in _listed(page) if each.get("filename") == filename)
        return next((dict(each) for each in fitting if each.get("bytes") == size), None)

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
        timeout = min(LONGEST_LOOK, self._client.timeout)

        async def send() -> Response:
            return await self._client.transport().call(method, path, query=query, timeout=timeout)

        return await self._until_answered(what, send, final=final, attempts=attempts)

    async def _until_answered(
        self,
        what: str,
        send: Callable[[], Awaitable[Response]],
        *,
        find: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
        final: Collection[int] = (),
        attempts: int | None = None,
    ) -> dict[str, Any]:
        """Send until there is an answer.

        Args:
            find: looks whether a send that seemed to fail has done its work.
            final: statuses after which it is of no use to ask again.
            attempts: how often it is sent; None: as often as the client says, and refusals of the account's limit do
                not count.
        """
        failures, began, most = 0, time.monotonic(), attempts or self._client.max_attempts
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
                raise verdict.stop(f"{verdict.message} (The Batch API was to {what}.)")
            failures += 1
            sentence = f"The Batch API would not {what}: {verdict.message}"
            if verdict.kind == "fail" or response.status in final:
                raise LostError(sentence)
            if find is not None and _may_have_worked(response) and (found := await find()) is not None:
                return found
            counts = verdict.kind == "retry" or attempts is not None
            wait = max(verdict.wait or 0.0, self._retry.backoff(failures))
            if (counts and failures >= most) or time.monotonic() + wait - began > self._retry.max_wait:
                raise NotNowError(sentence)
            await self._sleep(wait)

    async def _send(self, send: Callable[[], Awaitable[Response]]) -> Response:
        limiter = self._client.limiter.of(None)  # of no model
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
