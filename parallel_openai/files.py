"""The ancestor's face: a JSONL file of requests in, a JSONL file of results out, streamed.

Each line of the requests file is the JSON of one API call; a field `metadata` in it is the caller's own and travels
into the results. Each line of the results file is `[request, response]`, `[request, response, metadata]`, or
`[request, [errors], metadata]` for a request that failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parallel_openai.batch.faces import identity_in_files
from parallel_openai.batch.options import BatchLane, Lane, check_lane, sure_tier
from parallel_openai.batch.run import BatchRun
from parallel_openai.client import Client
from parallel_openai.engine.bounds import Bounds
from parallel_openai.engine.budget import Budget
from parallel_openai.engine.finished import FinishedRequests
from parallel_openai.engine.journal import Journal, Sync, check_sync
from parallel_openai.engine.lines import read_entries
from parallel_openai.engine.loop import Interrupted, arun
from parallel_openai.engine.loop import run as run_to_end
from parallel_openai.engine.progress import Progress
from parallel_openai.engine.resume import result_line
from parallel_openai.engine.status import StatusTracker
from parallel_openai.engine.urls import mask_url
from parallel_openai.errors import InvalidInputError, JournalWriteError, RunStoppedError
from parallel_openai.jsonl import dumps, dumps_strictly, loads
from parallel_openai.records import APIRequest, Result, request_key
from parallel_openai.requests.endpoints import endpoint_at, is_simulated
from parallel_openai.requests.tokens import get_encoding, request_size

log = logging.getLogger("parallel_openai")

#: Half of what a fresh account had when the ancestor was written.
DEFAULT_REQUESTS_PER_MINUTE = 1500.0
DEFAULT_TOKENS_PER_MINUTE = 125_000.0
#: Lines passed over as known before other work of the loop gets its turn.
_KNOWN_AT_ONCE = 1000
#: What a request's worst case hangs on, its prompt apart.
_CAPS = ("model", "n", "best_of", "max_completion_tokens", "max_tokens", "max_output_tokens")
GOES_ON = "The same call goes on from there"
_ENDINGS = {
    "finished": "Done",
    "submitted": "Submitted",
    "stopped": "Stopped",
    "interrupted": f"Interrupted. {GOES_ON}",
}


def process_api_requests_from_file(
    requests_filepath: str | os.PathLike[str],
    save_filepath: str | os.PathLike[str] | None = None,
    request_url: str | None = None,
    api_key: str | None = None,
    max_requests_per_minute: float | None = DEFAULT_REQUESTS_PER_MINUTE,
    max_tokens_per_minute: float | None = DEFAULT_TOKENS_PER_MINUTE,
    token_encoding_name: str = "cl100k_base",
    max_attempts: int = 5,
    logging_level: int = logging.INFO,
    *,
    progress: bool = True,
    client: Client | None = None,
    sync: Sync = "second",
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    lane: Lane = "online",
) -> StatusTracker:
    """Send every request of a JSONL file, within the limits, and write each result as it comes.

    Called again, it goes on where it stopped: requests that have a good answer in the results file are not sent
    again; failed ones are, after those that are new. Neither file is ever held in memory.

    Args:
        requests_filepath: one JSON object a line: the body of a call and, if wanted, a `metadata` of any kind.
            A field `extra_body` is merged into the body, for the API's own `metadata`.
        save_filepath: the results; None: beside the requests, as `..._results.jsonl`.
        request_url: the full URL of the endpoint, which says what endpoint it is. None: where `Client()` would go, and
            the endpoint that suits the first request: `messages` are for chat, an `input` is for embeddings.
        api_key: None: `OPENAI_API_KEY`.
        max_requests_per_minute, max_tokens_per_minute: the account's limits; None: read from the server's headers.
        token_encoding_name: the tiktoken encoding to count with.
        max_attempts: sends of one request that may fail.
        logging_level: of the logger `parallel_openai`; failed requests are logged at WARNING (30).
        progress: False shows no bar.
        client: an account to use in the place of `request_url`'s host, `api_key` and the limits.
        sync: how often the disk is told to keep what was written: about once a `second`, `always` or `never`.
        budget_usd, budget_tokens: what the call may spend. Before each send the most that it can come to is set aside,
            so every request needs a cap on its answer, such as `max_completion_tokens`. What has an answer is free.
        deadline: seconds after which nothing is sent any more, and what is on its way is let go.
        lane: `batch`: through the Batch API, at half the price, within a day; see `BatchLane` for what can be chosen
            there. How its batches stand is kept in the results file, on lines that begin with an empty request.

    Returns:
        The counts; their `ended` says whether all is done, or the budget or the time was used up. In that case the
        same call goes on from there.

    Raises:
        InvalidInputError: a file is missing or the same as the other; a URL or number is out of range; a budget is
            set, and a request has no cap or no known price.
        RunStoppedError: the server will refuse every request.
        JournalError: the results cannot be written.
        KeyboardInterrupt: interrupted; what was finished is in the file.

    >>> import json, tempfile, pathlib, parallel_openai as po
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "in.jsonl").write_text(json.dumps({"model": "gpt-5-mini",
    ...     "messages": [{"role": "user", "content": "Hi."}], "metadata": {"row": 1}}))
    >>> with po.local.simulator.serve() as server:
    ...     status = po.process_api_requests_from_file(folder / "in.jsonl", folder / "out.jsonl",
    ...         server.base_url + "/chat/completions", api_key="none", progress=False)
    >>> request, response, metadata = json.loads((folder / "out.jsonl").read_text())
    >>> status.num_tasks_succeeded, metadata
    (1, {'row': 1})
    """
    run = _FileRun(
        requests_filepath,
        save_filepath,
        request_url,
        api_key,
        max_requests_per_minute,
        max_tokens_per_minute,
        token_encoding_name,
        max_attempts,
        logging_level,
        client,
        sync,
        Bounds(budget_usd, budget_tokens, deadline),
        lane,
    )
    bar = Progress(run.status, run.client, show=progress, unit="request")
    try:
        run_to_end(run.work(), bar.tick)
    except Interrupted:
        bar.close(run.closing_line("interrupted"))
        raise KeyboardInterrupt from None
    except (RunStoppedError, JournalWriteError) as error:
        error.partial = run.status
        bar.close(run.closing_line("stopped"))
        raise
    except BaseException:
        bar.close()
        raise
    finally:
        if client is None:
            run.client.close()
    bar.close(run.closing_line(run.status.ended))
    return run.status


async def aprocess_api_requests_from_file(
    requests_filepath: str | os.PathLike[str],
    save_filepath: str | os.PathLike[str] | None = None,
    request_url: str | None = None,
    api_key: str | None = None,
    max_requests_per_minute: float | None = DEFAULT_REQUESTS_PER_MINUTE,
    max_tokens_per_minute: float | None = DEFAULT_TOKENS_PER_MINUTE,
    token_encoding_name: str = "cl100k_base",
    max_attempts: int = 5,
    logging_level: int = logging.INFO,
    *,
    progress: bool = True,
    client: Client | None = None,
    sync: Sync = "second",
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    lane: Lane = "online",
) -> StatusTracker:
    """`process_api_requests_from_file` for code that awaits, as the ancestor's callers do.

    Raises:
        asyncio.CancelledError: its task was cancelled, or a timeout around it ended. Nothing more is sent, the results
            file is whole and closed, and the same call goes on from there.
    """
    run = _FileRun(
        requests_filepath,
        save_filepath,
        request_url,
        api_key,
        max_requests_per_minute,
        max_tokens_per_minute,
        token_encoding_name,
        max_attempts,
        logging_level,
        client,
        sync,
        Bounds(budget_usd, budget_tokens, deadline),
        lane,
    )
    bar = Progress(run.status, run.client, show=progress, unit="request")
    line = ""
    try:
        await arun(run.work(), bar.tick)
        line = run.closing_line(run.status.ended)
    except Interrupted:
        line = run.closing_line("interrupted")
        raise asyncio.CancelledError from None
    except (RunStoppedError, JournalWriteError) as error:
        error.partial = run.status
        line = run.closing_line("stopped")
        raise
    finally:
        bar.close(line)
        if client is None:
            run.client.close()
    return run.status


def append_to_jsonl(data: Any, filename: str | os.PathLike[str]) -> None:
    """Add one value as a line of JSON to the end of a file, in a single write.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "notes.jsonl"
    >>> append_to_jsonl([{"model": "gpt-5-mini"}, {"id": "1"}], path)
    >>> path.read_text()
    '[{"model":"gpt-5-mini"},{"id":"1"}]\\n'
    """
    with open(filename, "ab", buffering=0) as file:
        file.write(dumps(data) + b"\n")


def split_url(request_url: str) -> tuple[str, str]:
    """The base URL and the path below it, of an endpoint's full URL.

    >>> split_url("https://api.openai.com/v1/chat/completions")
    ('https://api.openai.com/v1', 'chat/completions')
    >>> split_url("https://host/openai/deployments/mine/chat/completions?api-version=2024-10-21")
    ('https://host/openai/deployments/mine?api-version=2024-10-21', 'chat/completions')
    """
    parts = urlsplit(request_url)
    known = endpoint_at(parts.path)
    if known is not None:
        root = parts.path.rstrip("/").removesuffix("/" + known.path)
        return parts._replace(path=root).geturl(), known.path
    raise InvalidInputError(
        f"request_url must end in an endpoint such as /chat/completions or /embeddings, not {mask_url(request_url)!r}."
    )


class _FileRun:
    """One call: the two files, the account, and the counts."""

    def __init__(
        self,
        requests_filepath: str | os.PathLike[str],
        save_filepath: str | os.PathLike[str] | None,
        request_url: str | None,
        api_key: str | None,
        max_requests_per_minute: float | None,
        max_tokens_per_minute: float | None,
        token_encoding_name: str,
        max_attempts: int,
        logging_level: int,
        client: Client | None,
        sync: Sync,
        bounds: Bounds,
        lane: Lane,
    ) -> None:
        check_sync(sync)
        self.lane = check_lane(lane, {}, bounds.deadline, repair=False)
        if lane == "flex":
            raise InvalidInputError(
                'lane must be online or batch; for flex, write "service_tier": "flex" into the bodies.'
            )
        self.rest: str | None = None
        log.setLevel(logging_level)
        self.source = Path(requests_filepath)
        self.target = Path(save_filepath) if save_filepath is not None else _beside(self.source)
        if not self.source.is_file():
            raise InvalidInputError(f"There is no requests file {self.source} (in {Path.cwd()}).")
        if self.target.exists() and self.target.samefile(self.source):
            raise InvalidInputError(f"save_filepath is the requests file itself: {self.target}. Choose another.")
        base_url: str | None
        base_url, self.path = split_url(request_url) if request_url is not None else (None, _path_for(self.source))
        get_encoding(token_encoding_name)
        self.encoding = token_encoding_name
        self.client = client or Client(
            base_url,
            api_key,
            max_requests_per_minute=max_requests_per_minute,
            max_tokens_per_minute=max_tokens_per_minute,
            max_attempts=max_attempts,
        )
        self.client.check_key()
        self.sync = sync
        self.bounds = bounds
        self.budget = bounds.budget(self.client.base_url, sure_tier(lane))
        self.status = StatusTracker()

    async def work(self) -> None:
        began = time.monotonic()
        if self.budget is not None:
            await self._check_caps(self.budget)
        with Journal(self.target, sync=self.sync) as journal:
            if self.lane is not None:
                await self._work_in_batches(self.lane, journal)
                return
            self.status.ended = await self.client.process(
                self._requests(await self._known()),
                on_result=lambda result: self._take(result, journal),
                status=self.status,
                budget=self.budget,
                deadline=self.bounds.until(began),
            )

    async def _work_in_batches(self, lane: BatchLane, journal: Journal) -> None:
        known = await self._known()
        answers = known.copy()
        batches = BatchRun(
            self.client,
            journal,
            lane,
            on_result=lambda result: self._take(result, journal),
            status=self.status,
            record=False,
            identity=identity_in_files,
            known=answers.count,
            budget=self.budget,
        )
        try:
            self.status.ended = await batches.run(self._requests(known))
        finally:
            self.rest = batches.rest()

    def closing_line(self, ended: str) -> str:
        """How the call ended, in one line; `ended` is written into the counts too."""
        status = self.status
        status.ended = ended
        parts = [f"{status.num_tasks_succeeded:,} succeeded", f"{status.num_tasks_failed:,} failed"]
        if status.num_tasks_restored:
            parts.append(f"{status.num_tasks_restored:,} known already")
        if status.num_rate_limit_errors:
            parts.append(f"{status.num_rate_limit_errors:,} rate-limit refusals waited out")
        parts += [] if self.rest is None else [self.rest.removesuffix(".")]
        how = _ENDINGS.get(ended) or f"{self.bounds.why(ended)} {GOES_ON}"
        faster = status.timeline.advice
        advice = f" {faster}." if faster is not None else ""
        return f"{how}: {', '.join(parts)}.{advice} Results: {self.target}"

    async def _check_caps(self, budget: Budget) -> None:
        """See, before anything is sent, that a worst case can be told for each request."""
        for number, line in self._lines():
            if number % _KNOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                request = _parse_request(line, self.path, number)
            except ValueError:
                continue  # it will not be sent, and is named when its turn comes
            body = request.request_json
            caps = {name: body[name] for name in _CAPS if name in body}
            request.size = request_size(caps, self.encoding, self.path)
            if (objection := budget.objection(request)) is not None:
                raise InvalidInputError(f"Line {number} of {self.source}: {objection}")

    async def _known(self) -> FinishedRequests:
        """What the results file says of each request; the same line may stand there twice."""
        known = FinishedRequests()
        for number, (_, entry) in enumerate(read_entries(self.target)):
            if number % _KNOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
            if entry is None:
                self.status.num_damaged_lines += 1
                continue
            if not entry[0]:  # it tells of a batch
                continue
            if isinstance(entry[1], dict) and is_simulated(entry[1]) and not self.client.is_local:
                continue
            try:
                key = request_key(self.path, dumps_strictly(entry[0], sort_keys=True))
            except TypeError:  # no request of ours: it could not have been sent
                self.status.num_damaged_lines += 1
                continue
            identity = identity_in_files(key, entry[2] if len(entry) > 2 else None)
            known.put(identity, good=isinstance(entry[1], dict))
        return known

    def _requests(self, known: FinishedRequests) -> Iterator[_LineRequest | None]:
        """What must be sent: first what is new, and then, in a second reading, what failed before."""
        later: Counter[str] = Counter()
        for number, line in self._lines():
            try:
                request = _parse_request(line, self.path, number)
            except ValueError as error:
                self._reject(number, line, str(error))
                continue
            identity = identity_in_files(request.key, request.metadata)
            if known.take(identity):
                self._count_known()
                if self.status.num_tasks_restored % _KNOWN_AT_ONCE == 0:
                    yield None
            elif known.has_failed(identity):
                later[identity] += 1
            else:
                yield self._sized(request)
        if later:
            yield from self._put_off(later)

    def _put_off(self, later: Counter[str]) -> Iterator[_LineRequest]:
        for number, line in self._lines():
            try:
                request = _parse_request(line, self.path, number)
            except ValueError:
                continue
            identity = identity_in_files(request.key, request.metadata)
            if later[identity] > 0:
                later[identity] -= 1
                yield self._sized(request)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, with their numbers."""
        with open(self.source, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line

    def _sized(self, request: _LineRequest) -> _LineRequest:
        request.size = request_size(request.request_json, self.encoding, self.path)
        return request

    def _take(self, result: Result, journal: Journal) -> None:
        if result.status == "failed":
            number = getattr(result.request, "number", None)
            place = "A line" if number is None else f"Line {number}"
            log.warning("%s of %s failed (%s): %s", place, self.source, result.error_code, result.error)
        journal.append(result_line(result, record=False))

    def _count_known(self) -> None:
        self.status.num_tasks_restored += 1
        self.status.num_tasks_succeeded += 1

    def _reject(self, number: int, line: bytes, reason: str) -> None:
        """A line that is no request is named in the log and counted; there is no request to write beside it."""
        log.error("Line %d of %s is not sent: %s It begins: %r", number, self.source, reason, line[:80])
        self.status.num_tasks_failed += 1
        self.status.errors["invalid_line"] += 1


class _LineRequest(APIRequest):
    """A request that knows its line."""

    __slots__ = ("number",)

    def __init__(self, request_json: Mapping[str, Any], metadata: Any, *, path: str, number: int) -> None:
        super().__init__(request_json, metadata, path=path)
        self.number = number


def _path_for(source: Path) -> str:
    """The endpoint for requests like the first one."""
    try:
        with open(source, "rb") as file:
            first = loads(file.readline().removeprefix(b"\xef\xbb\xbf"))
    except ValueError:  # whoever reads the line next says it better
        first = None
    is_embedding = isinstance(first, dict) and "input" in first and "messages" not in first
    return "embeddings" if is_embedding else "chat/completions"


def _parse_request(line: bytes, path: str, number: int) -> _LineRequest:
    try:
        body = loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}).") from None
    if not isinstance(body, dict):
        raise ValueError(f'it holds a {_JSON_NAMES.get(type(body), "null")}, not an object such as {{"model": ...}}.')
    metadata = body.pop("metadata", None)
    extra = body.pop("extra_body", None)
    if extra is not None and not isinstance(extra, dict):
        raise ValueError("its extra_body is not an object.")
    body.update(extra or {})
    if body.get("stream"):
        raise ValueError("it says stream: true, and answers are read whole.")
    try:
        return _LineRequest(body, metadata, path=path, number=number)
    except TypeError as error:
        raise ValueError(f"it cannot be sent as JSON ({error}).") from None


_JSON_NAMES = {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}


def _beside(source: Path) -> Path:
    name = source.name.removesuffix(".jsonl")
    return source.with_name(f"{name}_results.jsonl")
