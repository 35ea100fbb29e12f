"""One call in a life, in this process and in virtual time."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

import parallel_openai as po
from parallel_openai._batch import manage as faces
from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._http.transport_per_loop import Connections
from parallel_openai.errors import ParallelOpenAIError
from tests.limits.virtual import VirtualLoop
from tests.simulation.answers import inputs_of, text_in
from tests.simulation.books import Books
from tests.simulation.clock import Clock
from tests.simulation.cluster import Cluster
from tests.simulation.life import CAP, LABELS, Call, Life
from tests.simulation.network import Network
from tests.simulation.server import SENDER, Came, Server

PROMPT = "{text}"
#: Virtual seconds that one call may take: more than the longest wait that is asked for, and less than for ever.
LONGEST = 2e5
#: How often the same call is made again at the most, once the server is kind.
MOST_CALLS = 8
TURNS = 1_000_000
#: Seconds that a request may take.
TIMEOUT = 120.0

MODEL, OTHER_MODEL, EMBEDDER = "gpt-4o-mini", "gpt-4.1-mini", "text-embedding-3-small"
_CAP_NAMES = {
    "chat.completions": "max_completion_tokens",
    "responses": "max_output_tokens",
    "completions": "max_tokens",
}


@dataclass
class Outcome:
    """How a call ended.

    Attributes:
        frames: what it gave, also a `.partial`.
        errors: what it raised, as text.
        told: what the runs said that they were billed: tokens of prompts and of answers, and dollars.
        killed: in the middle of it.
        turn: of the loop, at the end.
        seconds: how long it took.
        came: what came back of the sends: good answers, and of a server that breaks.
        wanted: how many answers each question may have.
    """

    frames: list[pd.DataFrame] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    told: list[tuple[int, int, float]] = field(default_factory=list)
    killed: bool = False
    turn: int = 0
    seconds: float = 0.0
    came: list[Came] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)


def is_last(life: Life, number: int) -> bool:
    """Whether the call is one of those that no budget bounds any more."""
    return number >= len(life.calls) + MOST_CALLS // 2


class Here:
    """One call in this process."""

    def __init__(self, life: Life, call: Call, number: int, books: Books, folder: Path) -> None:
        self.life, self.call, self.number, self.books, self.folder = life, call, number, books, folder
        self.on_kill: Callable[[], None] | None = None

    def run(self) -> tuple[Outcome, Books]:
        random.seed(self.life.seed + self.number)  # of the jitter
        self.loop = VirtualLoop(TURNS)
        self.loop._jumping.now = self.books.now
        self.loop.set_exception_handler(self._note_exception)
        self.clock = Clock(self.loop, self.books.ahead)
        if self.call.stop == "kill":
            self._die_at(int(self.call.at))
        self.server = Server(self.life, self.call, self.number, self.books, self.loop, self._die)
        self.cluster = Cluster(self.server, timeout=TIMEOUT)
        outcome = Outcome(came=self.server.came, wanted=self.server.wanted)
        with self.clock.in_place(), self.cluster.in_place():
            self._run(outcome)
        return outcome, self.books

    def _run(self, outcome: Outcome) -> None:
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._all(outcome), LONGEST))
        except asyncio.TimeoutError:
            self.books.wrong.append(f"the call hangs: {LONGEST} s went by")
        except AssertionError as error:
            self.books.wrong.append(str(error))
        outcome.seconds = self.loop.time() - self.books.now
        outcome.turn = self.loop._jumping.turns
        self._note_time()
        with suppress(AssertionError):
            self._end_loop()

    def _note_time(self) -> None:
        self.books.now, self.books.ahead = self.loop.time(), self.clock.ahead

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of a callback or of a task that nobody waits for, which a user would see as a traceback."""
        self.books.wrong.append(f"{context['message']}: {context.get('exception')!r}")

    def _end_loop(self) -> None:
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left))
        self.loop.close()

    def _die_at(self, turn: int) -> None:
        select = self.loop._jumping.select

        def dying(timeout: float | None = None) -> Any:
            if self.loop._jumping.turns >= turn:
                self._die()
            return select(timeout)

        self.loop._jumping.select = dying  # type: ignore[method-assign]

    def _die(self) -> None:
        if self.on_kill is not None:
            self._note_time()
            self.on_kill()

    async def _all(self, outcome: Outcome) -> None:
        client, second = self._client(), self.life.second
        names = ["out.jsonl"]
        if second is not None and second != "compared":
            names.append("out.jsonl" if second == "same journal" else "out2.jsonl")
        tasks = [asyncio.ensure_future(self._one(client, outcome, name)) for name in names]
        for delay in {"cancel": (0.0,), "cancel_twice": (0.0, 0.5)}.get(self.call.stop or "", ()):
            for task in tasks:
                self.loop.call_later(self.call.at + delay, task.cancel)
        if self.call.stop == "suspend":
            self.loop.call_later(self.call.at, self.clock.sleep, 3600.0)
        if self.call.wall is not None:
            self.loop.call_later(self.call.wall[0], self.clock.set_wall, self.call.wall[1])
        if self.call.freed is not None:
            self.loop.call_later(self.call.freed, self._free_disk, self.loop.time() + self.call.freed)
        for at in self.call.deaths:
            self.loop.call_later(at, self.cluster.lose_one)
        await asyncio.gather(*tasks)

    def _free_disk(self, at: float) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self.loop.time() < at + 0.01:  # else the journal has waited for room in vain, and is closed
            self.books.freed_in = self.number

    def _client(self) -> po.Client:
        server = self.server

        class Client(po.Client):
            clock = staticmethod(server.now)

        client = Client("http://127.0.0.1:9/v1", "k", loop="running", sync="never", timeout=TIMEOUT, **self.life.given)
        client._server.connections = Connections(lambda: Network(server, client.timeout))
        return client

    async def _one(self, client: po.Client, outcome: Outcome, name: str) -> None:
        path, before = self.folder / name, po.last_run()
        SENDER.set(name)
        try:
            if self.call.way in ("collect", "cancel"):
                await self._in_batches(client, path)
                return
            outcome.frames.append(await self._asked(client, outcome, path))
            self._note_told(outcome)
        except asyncio.CancelledError:
            outcome.errors.append("CancelledError")
            report = po.last_run()
            if self.life.verb != "file" and report is not None and report is not before and report.frame is not None:
                outcome.frames.append(report.frame)
        except ParallelOpenAIError as error:
            outcome.errors.append(f"{type(error).__name__}: {error}")
            partial = getattr(error, "partial", None)
            if isinstance(partial, pd.DataFrame):
                outcome.frames.append(partial)
                self._note_told(outcome)
        except Exception as error:
            self.books.wrong.append(f"{type(error).__name__}: {error}")

    def _note_told(self, outcome: Outcome) -> None:
        if self.life.verb != "file" and self.life.second != "compared" and (report := po.last_run()) is not None:
            outcome.told.append((report.prompt_tokens, report.completion_tokens, report.cost_usd))

    def _asked(self, client: po.Client, outcome: Outcome, path: Path) -> Coroutine[Any, Any, pd.DataFrame]:
        life = self.life
        options: dict[str, Any] = {"client": client, "progress": False, **self._bounds()}
        if life.lane != "online":
            options["lane"] = self._lane()
        if life.verb == "file":
            return self._by_file(outcome, path, options)
        df, options["save_to"] = frame_of(life), path
        if life.verb == "embed":
            return po.aembed_dataframe(df, "text", model=EMBEDDER, **options)
        if life.endpoint == "embeddings":
            return po.aprocess_dataframe(df, PROMPT, model=EMBEDDER, endpoint="embeddings", **options)
        model = OTHER_MODEL if life.second == "other model" and path.name == "out2.jsonl" else MODEL
        options |= {"samples": life.samples, "endpoint": life.endpoint, _CAP_NAMES[life.endpoint]: CAP}
        if life.repair:
            options["repair"] = True
        if life.verb == "label":
            options["confidence"] = "logprobs" if life.logprobs else None
            if life.second == "compared":
                return self._compared(df, outcome, options)
            return po.alabel_dataframe(df, PROMPT, labels=list(LABELS), model=model, **options)
        return po.aprocess_dataframe(df, PROMPT, model=model, **options)

    async def _compared(self, df: pd.DataFrame, outcome: Outcome, options: dict[str, Any]) -> pd.DataFrame:
        """By two models. Gives the last frame; the one before is noted already."""
        prompts = {"variant": {"prompt": PROMPT, "save_to": options.pop("save_to")}}
        found = await po.acompare(df, prompts, labels=list(LABELS), models=[MODEL, OTHER_MODEL], **options)
        if found.ended != "finished":
            outcome.errors.append(f"the comparison ended early: {found.ended}")
        *before, last = found.frames.values()
        outcome.frames += before
        return last

    def _lane(self) -> Any:
        if self.life.lane != "batch":
            return self.life.lane
        if self.call.way == "online":
            return "online"
        return po.BatchLane(**self.life.batches.options, wait=self.call.way != "submit")

    def _bounds(self) -> dict[str, Any]:
        return {
            **({} if is_last(self.life, self.number) else self.life.budget),
            **({"deadline": self.call.at + 0.01} if self.call.stop == "deadline" else {}),
        }

    async def _in_batches(self, client: po.Client, path: Path) -> None:
        """What `collect_batches` and `cancel_batches` do, on the loop of the life."""
        parts = live_parts(path)
        if self.call.way == "cancel":
            if parts:
                InputFiles(path).cancel()
            await faces._each(client, live_parts(path), faces._cancel)
        elif parts:
            lane = po.BatchLane(**self.life.batches.options)
            await faces._collect(path, client, lane, parts, po.StatusTracker())

    async def _by_file(self, outcome: Outcome, path: Path, options: dict[str, Any]) -> pd.DataFrame:
        """Give what the results file says, as a frame."""
        try:
            status = await po.aprocess_api_requests_from_file(
                self.folder / "in.requests", path, logging_level=50, **options
            )
            outcome.told.append((status.prompt_tokens, status.completion_tokens, status.cost_usd))
        finally:
            frame = _frame_of_results(path)
        return frame


def frame_of(life: Life) -> pd.DataFrame:
    index = [f"r{position // 2}" for position in range(len(life.texts))]
    return pd.DataFrame({"text": pd.Series(life.texts, index, dtype="object")})


def request_for(life: Life, text: str | None) -> dict[str, Any]:
    """A line of a requests file; or, but for a system message, what is sent for a row."""
    asked = "" if text is None else text
    if life.endpoint == "embeddings" or life.verb == "embed":
        return {"model": EMBEDDER, "input": asked}
    about = {"model": MODEL, _CAP_NAMES[life.endpoint]: CAP}
    if life.endpoint == "chat.completions":
        return {**about, "messages": [{"role": "user", "content": asked}]}
    return {**about, "input" if life.endpoint == "responses" else "prompt": asked}


def _frame_of_results(path: Path) -> pd.DataFrame:
    """One row for each good line of a results file."""
    written = path.read_bytes() if path.exists() else b""
    rows = [orjson.loads(line) for line in written.split(b"\n") if line and line[:4] != b"[{},"]
    good = [row for row in rows if isinstance(row[1], dict) and row[0]]
    texts = [inputs_of(row[0])[0] for row in good]
    answers = [text_in(row[1]) if row[1].get("choices") or "output" in row[1] else "nothing" for row in good]
    return pd.DataFrame({"text": texts, "response": answers, "status": "succeeded"})
