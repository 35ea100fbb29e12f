"""A run on a frame whose requests hold many rows each: packs what is sent, and divides what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parallel_openai._frames.embedding.packs import (
    Pack,
    Packer,
    Queue,
    attempts_of_rows,
    billed_in_vain,
    results_of_rows,
)
from parallel_openai._frames.embedding.vectors import VectorColumn
from parallel_openai._frames.frame_run import FrameRun
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._records import APIRequest, Result, Ruling, ruling_of, together
from parallel_openai._requests.endpoints import EMBEDDINGS, Answer, of_length, usage_of
from parallel_openai._requests.template import BadPromptError, is_token_numbers
from parallel_openai._run.runner import End

#: After this many rows were refused by themselves, and none was ever answered, packs are no longer split.
_HOPELESS = 20
#: The same for rows whose answers cannot be read.
_UNREADABLE = 3
#: Statuses of refusals that concern the model's name or the account's limit.
_OF_NO_ROW = frozenset({404, 429})
#: Error codes of refusals for the number or the length of the texts.
_OF_THE_PACK = frozenset({"context_length_exceeded", "request_too_large", "response_too_large"})
#: Rows packed before other tasks of the loop get a turn.
_AT_ONCE = 256


class EmbedRun(FrameRun):
    """A run whose requests hold many rows each; a refused one is sent again in halves."""

    def take_together(self, vectors: VectorColumn, rows_per_request: int | None) -> None:
        """Set the column of the vectors, and the most rows of a request; None: as many as the API takes."""
        assert EMBEDDINGS.packing is not None
        self._vectors = vectors
        room = self._budget.room if self._budget is not None else None
        self._packer = Packer(EMBEDDINGS.packing, rows_per_request, room)
        self._queue = Queue(iter(()))
        self._answered = 0  # packs
        self._refused_alone = 0  # rows
        # Other makers' models have other limits, and tell them.
        is_openais = (self.builder.model or "").startswith("text-embedding-")
        self._most_tokens_each = EMBEDDINGS.packing.tokens_each if is_openais else None

    async def _send(
        self, requests: Iterator[APIRequest | None], journal: Journal, known: KnownResults, deadline: float | None
    ) -> End:
        self._queue = Queue(requests)
        return await super()._send(self._queue, journal, known, deadline)

    def _requests(self, known: KnownResults) -> Iterator[APIRequest | None]:
        for number, request in enumerate(super()._requests(known), 1):
            if request is None or number % _AT_ONCE == 0:
                yield None
            if request is None:
                continue
            if (wrong := self._wrong(request)) is not None:
                self._reject(self._slots[request.key], wrong)
                continue
            self._packer.fit(self.client.largest_prompt(self.builder.model))
            yield from self._counted(self._packer.add(request))
        yield from self._counted(self._packer.rest())

    def _counted(self, packs: Iterator[Pack]) -> Iterator[APIRequest]:
        for pack in packs:
            self.status.num_tasks_started += len(pack.rows) - 1  # the pack itself is counted by the runner
            yield pack.request

    def _wrong(self, request: APIRequest) -> BadPromptError | None:
        """Why a row cannot be sent together with others; None if it can."""
        text = request.request_json.get("input")
        if not isinstance(text, str) and not is_token_numbers(text):
            return BadPromptError("invalid_prompt", "A row of embed_dataframe must be one string or list of tokens.")
        tokens = request.size.prompt_tokens if request.size else 0
        if self._most_tokens_each is not None and tokens > self._most_tokens_each:
            sentence = f"The text has {tokens:,} tokens and the model takes {self._most_tokens_each:,}. Shorten it."
            return BadPromptError("context_length_exceeded", sentence)
        return None

    def _fill(self, slot: int, result: Result) -> bool:
        self._vectors.slot = slot
        return super()._fill(slot, result)

    def _take(self, result: Result, journal: Journal) -> Ruling:
        """Take the result of a pack: each of its rows is written to the journal and counted by itself."""
        pack = result.request.context
        assert isinstance(pack, Pack)
        self._queue.ended(pack)
        if result.status == "failed":
            return self._refused(pack, result, journal)
        answers = EMBEDDINGS.read_all(result.response)
        length = self._vectors.length(answers)
        answers = [of_length(answer, length) for answer in answers]
        any_good = any(answer.error_code is None for answer in answers)
        if len(answers) != len(pack.rows) or (len(answers) == 1 and not any_good):
            return self._unlike(pack, result, answers, journal)
        self._answered += 1
        self._queue.release(everything=True)
        self._learn(pack)
        rulings = []
        for each in results_of_rows(pack, result, answers):
            if each.status == "failed":
                self._add_cost(each.response, each.request)
            if each.status == "failed" and any_good:
                self._ask_alone(each)
            else:
                rulings.append(self._take_row(each, journal))
        return together(rulings)

    def _ask_alone(self, result: Result) -> None:
        """Send a row once more by itself, since the others of its pack have vectors and it has none."""
        self.status.num_tasks_started -= 1  # counted again
        self._queue.put(self._kept(Pack([result.request], result.attempts)))

    def _unlike(self, pack: Pack, result: Result, answers: Sequence[Answer], journal: Journal) -> Ruling:
        """Take an answer whose vectors cannot be matched to the rows, though it was billed."""
        self._add_cost(result.response, pack.request)
        given, code = sum(each.value is not None for each in answers), answers[0].error_code or "malformed_response"
        sentence = answers[0].error or f"The server gave {given:,} vectors for {len(pack.rows):,} texts."
        failed = result._replace(
            status="failed",
            response=None,
            raw=None,
            usage=None,
            error_code=code,
            error=sentence,
            errors=(*result.errors, sentence),
            attempts=billed_in_vain(result.attempts, result.response, code),
        )
        rulings = []
        if len(pack.rows) <= max(1, self._queue.most_matched):
            rulings.append(self._refused(pack, failed, journal))
        else:
            self.status.num_tasks_started -= len(pack.rows)  # they are counted again
            self._queue.doubt(self._kept(Pack(pack.rows, (*pack.attempts, *failed.attempts))))
        if not self._answered and self._refused_alone >= _UNREADABLE:
            for given_up in self._queue.doubted():
                rulings.append(self._fail(given_up, failed._replace(attempts=()), journal))
        return together(rulings)

    def _add_cost(self, response: Mapping[str, Any], request: APIRequest) -> None:
        """Add what was billed for an unusable answer."""
        cost = self.answers.cost(Result(request, "failed", response, usage=usage_of(response)))
        self.status.cost_usd += cost if cost == cost else 0.0

    def _kept(self, pack: Pack) -> Pack:
        """Record what was billed for the rows of a pack that is sent again, in case the run ends before."""
        if any(each.bill is not None for each in pack.attempts):
            self.status.billed_in_vain[pack.rows[0]] = pack.attempts
        return pack

    def _row_of(self, request: APIRequest) -> APIRequest:
        return request.context.rows[0] if isinstance(request.context, Pack) else request

    def _take_row(self, result: Result, journal: Journal) -> Ruling:
        self._vectors.slot = self._slots[result.request.key]
        self.status.billed_in_vain.pop(result.request, None)
        return super()._take(result, journal) or ruling_of(result)

    def _refused(self, pack: Pack, result: Result, journal: Journal) -> Ruling:
        """Send a refused pack again in halves, or let its rows fail if that would not help."""
        if pack.request.may_be_too_large and _is_overload(result):
            self.status.num_tasks_started -= len(pack.rows)  # they are counted again
            # If nothing was ever answered, the server may have been away.
            doubted = self._kept(Pack(pack.rows, (*pack.attempts, *result.attempts)))
            self._queue.doubt(doubted, is_too_large=self._queue.most_matched > 0)
            return Ruling()
        if len(pack.rows) > 1 and self._may_be_split(result):
            self.status.num_tasks_started -= 2  # the halves, which are counted again
            first, second = self._kept(Pack(pack.rows, (*pack.attempts, *result.attempts))).halves()
            # Until anything is answered, one half is enough to find out whether a row is at fault.
            (self._queue.put if self._answered else self._queue.hold)(second)
            self._queue.put(first)
            return Ruling()
        self._queue.release(everything=False)
        self._refused_alone += len(pack.rows) == 1
        return self._fail(pack, result, journal)

    def _may_be_split(self, result: Result) -> bool:
        """Whether the server may refuse a pack for one of its rows or for their number."""
        if not self._answered and self._refused_alone >= _HOPELESS:
            return False
        status = result.attempts[-1].status if result.attempts else 0
        if result.error_code in _OF_THE_PACK:
            return True
        # A broken connection may be due to the pack only if others are answered.
        return self._answered > 0 if status == 0 else status not in _OF_NO_ROW

    def _fail(self, pack: Pack, result: Result, journal: Journal) -> Ruling:
        rows = zip(pack.rows, attempts_of_rows(pack, result), strict=True)
        return together(self._take_row(result._replace(request=row, attempts=sends), journal) for row, sends in rows)

    def _learn(self, pack: Pack) -> None:
        """Lower the size of packs if both halves of a refused one were answered, for it was too large."""
        self._queue.most_matched = max(self._queue.most_matched, len(pack.rows))
        self._packer.most_inputs = int(min(self._packer.most_inputs, self._queue.most_inputs))
        if pack.split is not None:
            pack.split.good += 1
            if pack.split.good == 2:
                self._packer.most_inputs = min(self._packer.most_inputs, len(pack.rows))


def _is_overload(result: Result) -> bool:
    """Whether a pack was too much for the server or a gateway."""
    status = result.attempts[-1].status if result.attempts else 0
    return status > 501 or result.error_code == "connection_error"
