"""The interface of the OpenAI Cookbook's script: a JSONL file of requests in, a JSONL file of results out, streamed.

Each line of the requests file is the body of one API call; its field `metadata` is not sent, but copied to the results.
Each line of the results file is `[request, response]`, `[request, response, metadata]`, or
`[request, [errors], metadata]` for a request that failed.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

from parallel_openai._arguments import path_of
from parallel_openai._batch.lane_options import Lane
from parallel_openai._client.client import Client
from parallel_openai._files.file_run import FileRun
from parallel_openai._frames.sync_async import Call, awaitable, blocking
from parallel_openai._journal.journal_file import repair_end_of_jsonl
from parallel_openai._json import dumps
from parallel_openai._loop.forks import fork_safe_lock
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai.errors import JournalError

#: Half the limits of a new account when the Cookbook's script was written.
DEFAULT_REQUESTS_PER_MINUTE = 1500.0
DEFAULT_TOKENS_PER_MINUTE = 125_000.0


@blocking
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
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    lane: Lane = "online",
    resubmit: bool = False,
    resume_from_anywhere: bool = False,
) -> Call[StatusTracker]:
    """Send all requests of a JSONL file within the limits, and write each result when it arrives.

    Called again, it resumes: requests with a successful answer in the results file are not sent again; failed ones
    are, after the new ones. Neither file is ever held in memory.

    Args:
        requests_filepath: one JSON object per line: the body of a call and, optionally, `metadata` of any kind. A field
            `extra_body` is merged into the body, for the API's own `metadata`. Or lines in the Batch API's format, each
            sent to its own `url`, with its `custom_id` as metadata. May be compressed by gzip or zstd.
        save_filepath: the results; None: beside the requests, as `..._results.jsonl`.
        request_url: the full URL of the endpoint. None: the default client's base URL, with the endpoint that fits
            each request: chat for `messages`, embeddings for an `input`.
        api_key: None: `OPENAI_API_KEY`.
        max_requests_per_minute: the account's limit; None: read from the server's headers.
        max_tokens_per_minute: the same for tokens.
        token_encoding_name: the tiktoken encoding for counting tokens.
        max_attempts: failed attempts of a request after which it fails.
        logging_level: of the logger `parallel_openai` during the call; failed requests are logged at WARNING (30).
        progress: whether to show a progress bar.
        client: used instead of `request_url`'s host, `api_key` and the limits.
        budget_usd: the most dollars that the call may spend. Before a request is sent, its highest possible cost is
            reserved, so each request needs a cap on its answer, such as `max_completion_tokens`. Known answers are
            free.
        budget_tokens: the same in prompt and completion tokens.
        deadline: seconds after which nothing more is sent. Answers in flight are awaited for up to 10 s.
        lane: `batch`: through the Batch API, at half the price, within a day; see `BatchLane` for its options. The
            state of the batches is kept in the results file, on lines that begin with an empty request.
        resubmit: send requests that are in a batch again, and pay twice. Otherwise they are left to the batch, and the
            closing line says so.
        resume_from_anywhere: also accept answers in the results file that came from another server, path or deployment,
            or do not say from where. (`..._results.jsonl.origins` records that for answers of this function.)

    Returns:
        The counts; `ended` says whether all requests are done, or the budget or time was used up. In that case the same
        call resumes from there.

    Raises:
        InvalidInputError: a file is missing, or both are the same; a URL or number is out of range; a budget is set and
            a request has no cap or no known price; the results do not say where they came from.
        RunStoppedError: the server refuses every request; `.partial` has the counts.
        JournalError: the results cannot be written; if that happens during the run, `.partial` has the counts.
        KeyboardInterrupt: on Ctrl-C; finished results are in the file, and `.partial` has the counts.

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
    return FileRun(**locals())


aprocess_api_requests_from_file = awaitable(process_api_requests_from_file)


def append_to_jsonl(data: Any, filename: str | os.PathLike[str]) -> None:
    """Append a value to a file as a line of JSON, in a single write. A last line without a line break is completed
    first; one that is torn off within a value, after complete lines, is removed, as in a results file. A new file is
    readable by its owner only.

    Raises:
        JournalError: the file cannot be written.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "notes.jsonl"
    >>> append_to_jsonl([{"model": "gpt-5-mini"}, {"id": "1"}], path)
    >>> path.read_text()
    '[{"model":"gpt-5-mini"},{"id":"1"}]\\n'
    """
    path, line = path_of(filename, "filename"), dumps(data) + b"\n"
    try:
        with _append_lock, open(path, "a+b", buffering=0, opener=partial(os.open, mode=0o600)) as file:
            repair_end_of_jsonl(file.fileno(), path)
            file.write(line)
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}.") from error


#: Two threads that repair the end of the same file would remove each other's line.
_append_lock = fork_safe_lock()
