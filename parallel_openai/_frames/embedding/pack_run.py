"""A run on a frame whose requests hold many rows each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parallel_openai._frames.embedding.packs import Pack, Packer, Queue, attempts_of_rows, results_of_rows
from parallel_openai._frames.embedding.vectors import VectorColumn
from parallel_openai._frames.frame_run import FrameRun
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.resume import KnownResults
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import EMBEDDINGS, Answer
from parallel_openai._requests.template import BadPromptError, is_token_numbers
from parallel_openai._run.runner import End

#: What a server says where one of many inputs is bad, or where they are too many for it; llama.cpp says 500.
_SPLIT_AT = frozenset({400, 413, 422, 500})
_SPLIT_CODES = frozenset({"context_length_exceeded", "request_too_large", "response_too_large", "malformed_response"})
#: So many rows refused by themselves, and none ever answered: no split will find one that is not.
_HOPELESS = 20
#: Rows put together before other work of the loop gets its turn.
_AT_ONCE = 256


class EmbedRun(FrameRun):
    """A run whose requests hold many rows each; what is refused comes back in halves."""

    def take_together(self, vectors: VectorColumn, rows_per_request: int | None) -> None:
        """Say where the vectors gather, and how many rows may travel together."""
        assert EMBEDDINGS.packing is not None
        self._vectors = vectors
        room = self._budget.room if self._budget is not None else None
        self._packer = Packer(EMBEDDINGS.packing, rows_per_request, room)
        self._queue = Queue(iter(()))
        self._answered = 0  # packs
        self._refused_alone = 0  # rows
        # Other makers' models take more or less, and say so themselves.
        is_openais = (self.recipe.model or "").startswith("text-embedding-")
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
            self._packer.fit(self.client.largest_prompt(self.recipe.model))
            yield from self._counted(self._packer.add(request))
        yield from self._counted(self._packer.rest())

    def _counted(self, packs: Iterator[Pack]) -> Iterator[Pack]:
        for pack in packs:
            self.status.num_tasks_started += len(pack.rows) - 1  # the pack itself is counted where it is taken up
            yield pack

    def _wrong(self, request: APIRequest) -> BadPromptError | None:
        """Why a row cannot be sent together with others; None where it can."""
        text = request.request_json.get("input")
        if not isinstance(text, str) and not is_token_numbers(text):
            return BadPromptError("invalid_prompt", "A row of embed_dataframe must be one text or one list of tokens.")
        tokens = request.size.prompt_tokens if request.size else 0
        if self._most_tokens_each is not None and tokens > self._most_tokens_each:
            sentence = f"The text has {tokens:,} tokens and the model takes {self._most_tokens_each:,}. Shorten it."
            return BadPromptError("context_length_exceeded", sentence)
        return None

    def _fill(self, slot: int, result: Result) -> bool:
        self._vectors.slot = slot
        return super()._fill(slot, result)

    def _take(self, result: Result, journal: Journal) -> APIRequest | None:
        """A pack has come to its end: each of its rows is written down by itself."""
        pack = result.request
        assert isinstance(pack, Pack)
        self._queue.ended(pack)
        if result.status == "failed":
            self._refused(pack, result, journal)
            return None
        answers = EMBEDDINGS.read_all(result.response)
        if len(answers) != len(pack.rows):
            self._refused(pack, self._unlike(pack, result, answers), journal)
            return None
        self._answered += 1
        self._queue.release(everything=True)
        self._learn(pack)
        self.status.num_tasks_succeeded += len(pack.rows) - 1  # the pack itself is counted already
        for each in results_of_rows(pack, result, answers):
            self._take_row(each, journal)
        return None

    def _unlike(self, pack: Pack, result: Result, answers: Sequence[Answer]) -> Result:
        """The answer as a failure, since nobody can tell which vector is whose."""
        status, code = self.status, "malformed_response"
        status.num_tasks_succeeded -= 1
        status.num_tasks_failed += 1
        status.errors[code] += 1
        given = sum(each.value is not None for each in answers)
        sentence = answers[0].error or f"The server gave {given:,} vectors for {len(pack.rows):,} texts."
        return result._replace(status="failed", response=None, raw=None, usage=None, error_code=code, error=sentence)

    def _take_row(self, result: Result, journal: Journal) -> None:
        self._vectors.slot = self._slots[result.request.key]
        super()._take(result, journal)

    def _refused(self, pack: Pack, result: Result, journal: Journal) -> None:
        """Send it again in halves, or let its rows fail where that would not help."""
        status, code = self.status, result.error_code or "error"
        sent = result.attempts[-1].status if result.attempts else 0
        is_hopeless = not self._answered and self._refused_alone >= _HOPELESS
        if len(pack.rows) > 1 and (sent in _SPLIT_AT or code in _SPLIT_CODES) and not is_hopeless:
            status.num_tasks_failed -= 1
            status.num_tasks_started -= 2  # the halves, which are counted again
            status.errors[code] -= 1
            if not status.errors[code]:
                del status.errors[code]
            # As long as nothing was ever answered, one half is enough to find out whether it is a row that is bad.
            self._queue.split(pack, result.attempts, hold=not self._answered)
            return
        self._queue.release(everything=False)
        self._refused_alone += len(pack.rows) == 1
        status.num_tasks_failed += len(pack.rows) - 1
        status.errors[code] += len(pack.rows) - 1
        for row, attempts in zip(pack.rows, attempts_of_rows(pack, result), strict=True):
            self._take_row(result._replace(request=row, attempts=attempts), journal)

    def _learn(self, pack: Pack) -> None:
        """Where both halves of a refused pack are answered, it was too large, and so would others be."""
        if pack.split is not None:
            pack.split.good += 1
            if pack.split.good == 2:
                self._packer.most_inputs = min(self._packer.most_inputs, len(pack.rows))
