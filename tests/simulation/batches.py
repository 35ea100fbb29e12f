"""The server's Batch API in virtual time, whose files and batches may be late, incomplete or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict

from tests.simulation.answers import (
    CONTEXT_LENGTH,
    answer_to,
    inputs_of,
    prompt_tokens,
    question_of,
    tokens_in,
    usd_of,
)
from tests.simulation.books import Batch, Bill, StoredFile
from tests.simulation.clock import BEGAN
from tests.simulation.server import Answer, Server, error_of

#: Seconds in which a batch is answered or expires. It would be a day, and the bar is looked after five times a second.
WINDOW = 900.0
#: What may become of a row in a batch. Those of the second line are billed.
UNBILLED = ("row_500", "row_429", "row_missing", "row_in_no_words")
BILLED = ("row_odd", "row_twice", "truncated", "off_label", "no_usage", "nothing", "refusal", "filtered")
_PIECE = 700  # bytes of a download that come at once


class BatchServer:
    """One call's view of it."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server, self._books, self._timeout = server, server.books, timeout
        self._traits = server.life.batches
        self._works = 0

    async def answer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        form: Mapping[str, bytes],
        query: Mapping[str, str],
        into: Callable[[bytes], None] | None,
    ) -> Answer:
        await asyncio.sleep(self._books.lot.uniform(0.01, 0.3))
        if (failure := await self._server.failure()) is not None:
            return failure
        for batch in self._books.batches.values():
            self._pass_time(batch)
        if into is not None:
            return await self._download(path.split("/")[1], into)
        told = self._work(method, path, body, form, query)
        await self._lose()
        return told

    async def _lose(self) -> None:
        """The work is done, and the answer may not come, or nobody be there for it."""
        self._works += 1
        if self._server.call.stop == "kill_at_work" and self._works > self._server.call.at:
            self._server.kill()
        fault = self._server.drawn(("lost", "hang"))
        if fault == "hang":
            await asyncio.sleep(self._timeout)
            raise aiohttp.SocketTimeoutError
        if fault == "lost":
            raise aiohttp.ServerDisconnectedError

    def _work(
        self, method: str, path: str, body: bytes | None, form: Mapping[str, bytes], query: Mapping[str, str]
    ) -> Answer:
        kind, _, rest = path.partition("/")
        if method == "POST" and kind == "files":
            file = self._keep(form["name"].decode(), form["purpose"].decode(), [(form["file"], None)])
            return _json(_shown_file(file))
        if kind == "files":
            return _json({"data": [_shown_file(file) for file in reversed(self._books.files.values())]})
        if method == "POST" and not rest:
            return self._create(orjson.loads(body or b""))
        if not rest:
            return self._list(query)
        batch = self._books.batches.get(rest.partition("/")[0])
        if batch is None or batch.is_lost:
            return error_of(404, f"No batch with id {rest!r}.")
        if rest.endswith("/cancel"):
            return self._cancel(batch)
        batch.looks += batch.has_ended
        return _json(self._shown(batch))

    def _keep(self, name: str, purpose: str, lines: list[tuple[bytes, Bill | None]]) -> StoredFile:
        file = StoredFile(f"file-{len(self._books.files)}", name, purpose, lines)
        self._books.files[file.id] = file
        return file

    # From a file to a batch.

    def _create(self, asked: Mapping[str, Any]) -> Answer:
        file, lot, traits = self._books.files.get(asked["input_file_id"]), self._books.lot, self._traits
        if file is None:
            return error_of(400, "No such file.")
        rows = []
        for line in map(orjson.loads, file.content.splitlines()):
            questions = tuple(map(question_of, inputs_of(line["body"])))
            self._server.see_that_it_is_wanted(questions)
            rows.append((line, questions))
        now = self._server.now()
        begins, works, finalizes = (lot.choice(each) for each in (traits.validates, traits.works, traits.finalizes))
        moments = [(now + begins, "in_progress"), (now + begins + works, "finalizing")]
        moments.append((now + begins + works + finalizes, "completed"))
        kind_to_rows = self._server.number >= len(self._server.life.calls)
        faults = {} if kind_to_rows else traits.row_faults
        end = self._server.drawn(("expires", "fails"), faults)
        if end is not None:
            at = now + (WINDOW if end == "expires" else begins + works)
            moments[1:] = [(at, "expired" if end == "expires" else "failed")]
        batch = Batch(
            f"batch_{len(self._books.batches)}",
            file.id,
            asked["endpoint"].removeprefix("/v1/"),
            asked["metadata"],
            self._server.number,
            now,
            rows,
            moments,
            tokens=sum(prompt_tokens(line["body"]) for line, _ in rows),
            row_faults=faults,
        )
        batch.is_lost = self._server.drawn(("batch_lost",), faults) is not None
        self._books.batches[batch.id] = batch
        self._server.tell(f"{batch.id} of {len(rows)} rows, {'lost' if batch.is_lost else moments}")
        return _json(self._shown(batch))

    def _pass_time(self, batch: Batch) -> None:
        """To the state that it is in by now."""
        now = self._server.now()
        while batch.moments and batch.moments[0][0] <= now and not batch.has_ended:
            at, state = batch.moments.pop(0)
            if batch.is_cancelled and state != "cancelled":
                continue
            if state == "in_progress" and (refusal := self._refusal(batch)) is not None:
                batch.errors, state = [refusal], "failed"
            elif state in ("completed", "expired", "failed", "cancelled"):
                self._write(batch, share=1.0 if state == "completed" else 0.5)
            batch.status, batch.passed[state] = state, at
            self._server.tell(f"{batch.id} is {state}")

    def _refusal(self, batch: Batch) -> dict[str, Any] | None:
        """Of the queue, which holds so many tokens; or of one row at fault."""
        most = self._traits.queue
        queued = sum(each.tokens for each in self._books.batches.values() if each.status == "in_progress")
        if most is not None and queued + batch.tokens > most:
            message = f"Enqueued token limit reached for m in organization o. Limit: {most:,} enqueued tokens."
            return {"code": "token_limit_exceeded", "message": message, "line": None}
        if self._server.drawn(("line_at_fault",), batch.row_faults) is not None:
            line = self._books.lot.randrange(len(batch.rows)) + 1
            return {"code": "invalid_request", "message": "This line is not to our taste.", "line": line}
        return None

    def _write(self, batch: Batch, share: float) -> None:
        """Both files; of a batch that came to no good end with some of the rows."""
        lot = self._books.lot
        output: list[tuple[bytes, Bill | None]] = []
        error: list[tuple[bytes, Bill | None]] = []
        for line, questions in batch.rows:
            name, fault = line["custom_id"], self._server.drawn((*UNBILLED, *BILLED), batch.row_faults)
            if lot.random() >= share:
                if batch.status != "cancelling" and lot.random() < 0.5:
                    error.append((_word(name, "batch_expired"), None))
                continue
            if prompt_tokens(line["body"]) > CONTEXT_LENGTH * len(questions):
                batch.counts[1] += 1
                told = orjson.loads(error_of(400, "It is too long.", code="context_length_exceeded")[2])
                error.append((_line(name, 400, told), None))
            elif fault in UNBILLED:
                batch.counts[1] += 1
                error += [(each, None) for each in _in_vain(name, fault)]
            else:
                batch.counts[0] += 1
                output += self._billed(batch, line, questions, fault)
        lot.shuffle(output)
        if output:
            file = self._keep("output", "batch_output", output)
            batch.output_file_id = file.id
            if self._server.drawn(("output_lost",), batch.row_faults) is not None:
                file.lose()
        if error:
            batch.error_file_id = self._keep("error", "batch_output", error).id

    def _billed(
        self, batch: Batch, line: Mapping[str, Any], questions: tuple[str, ...], fault: str | None
    ) -> list[tuple[bytes, Bill | None]]:
        answer, good = answer_to(batch.path, line["body"], fault)
        prompt, completion = tokens_in(answer)
        usd = 0.5 * usd_of(line["body"], prompt, completion)
        bill = Bill(batch.sent_in, questions, (prompt, completion), usd, good=good, batch_id=batch.id)
        self._books.bills.append(bill)
        if fault in ("no_usage", "nothing", "row_odd"):
            bill.told = False
            answer.pop("usage")
        if fault == "nothing":
            bill.good, answer = False, {}
        written = _line(line["custom_id"], 200, answer)
        if fault == "row_odd":
            bill.good, written = False, written[: len(written) // 2] + b"\n"
        return [(written, bill)] * (2 if fault == "row_twice" else 1)

    # From a batch to its answers.

    def _list(self, query: Mapping[str, str]) -> Answer:
        late, limit = self._traits.list_delay, int(query.get("limit", 20))
        seen = [each for each in self._books.batches.values() if not each.is_lost]
        seen = [each for each in reversed(seen) if each.made_at + late <= self._server.now()]
        ids = [each.id for each in seen]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        page = seen[start : start + limit]
        told = [self._shown(each) for each in page]
        if not self._traits.lists_metadata:
            told = [{**each, "metadata": None} for each in told]
        return _json({"data": told, "has_more": start + limit < len(seen)})

    def _cancel(self, batch: Batch) -> Answer:
        if batch.has_ended:
            return error_of(409, f"Cannot cancel a batch with status {batch.status!r}.")
        if not batch.is_cancelled:
            batch.is_cancelled, batch.status = True, "cancelling"
            batch.moments = [(self._server.now() + 20.0, "cancelled")]
        return _json(self._shown(batch))

    def _shown(self, batch: Batch) -> dict[str, Any]:
        late = batch.has_ended and batch.looks <= self._traits.late_looks
        moments = {f"{state}_at": int(BEGAN + at) for state, at in batch.passed.items()}
        counts = {"total": len(batch.rows), "completed": batch.counts[0], "failed": batch.counts[1]}
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": f"/v1/{batch.path}",
            "input_file_id": batch.input_file_id,
            "status": batch.status,
            "created_at": int(BEGAN + batch.made_at),
            **moments,
            "output_file_id": None if late else batch.output_file_id,
            "error_file_id": None if late else batch.error_file_id,
            "request_counts": counts if batch.status != "validating" else {"total": 0, "completed": 0, "failed": 0},
            "errors": {"data": batch.errors} if batch.errors else None,
            "metadata": batch.metadata,
        }

    async def _download(self, file_id: str, into: Callable[[bytes], None]) -> Answer:
        file = self._books.files.get(file_id)
        if file is None or file.is_gone:
            return error_of(404, f"No such File object: {file_id}")
        file.downloads += 1
        is_short = file.purpose == "batch_output" and file.downloads <= self._traits.short_downloads
        lines = file.lines[: len(file.lines) // 2] if is_short else file.lines
        content = b"".join(line for line, _ in lines)
        for start in range(0, len(content), _PIECE):
            await asyncio.sleep(0.01)
            if self._server.drawn(("cut_off",)) is not None:
                raise aiohttp.ClientPayloadError("Response payload is not completed")
            into(content[start : start + _PIECE])
        self._server.tell(f"{file.name} {file_id} downloaded{', half of it' if is_short else ''}")
        for _, bill in lines:
            if bill is not None and bill.outcome == "working":
                bill.deliver(self._server.number, self._server.turn)
            elif bill is not None and bill.came_in != self._server.number:
                self._books.taken_again = self._server.number
        return 200, CIMultiDict(), b""


def _shown_file(file: StoredFile) -> dict[str, Any]:
    return {"id": file.id, "filename": file.name, "purpose": file.purpose, "bytes": len(file.content)}


def _json(told: Any) -> Answer:
    return 200, CIMultiDict({"content-type": "application/json"}), orjson.dumps(told)


def _line(name: str, status: int, body: Any) -> bytes:
    told = {"custom_id": name, "response": {"status_code": status, "request_id": "r", "body": body}, "error": None}
    return orjson.dumps(told) + b"\n"


def _word(name: str, code: str) -> bytes:
    told = {"custom_id": name, "response": None, "error": {"code": code, "message": "It was not done."}}
    return orjson.dumps(told) + b"\n"


def _in_vain(name: str, fault: str | None) -> list[bytes]:
    """The lines about a row that found no answer, if there are any."""
    if fault == "row_missing":
        return []
    if fault == "row_in_no_words":
        return [orjson.dumps({"custom_id": name}) + b"\n"]
    status = int(str(fault).removeprefix("row_"))
    return [_line(name, status, {"error": {"message": "Something went wrong.", "code": None}})]
