"""One life: its calls one after the other, each looked at when it has ended."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import resource
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
from yarl import URL

import parallel_openai as po
from parallel_openai._http.connections import Connections
from parallel_openai._http.transport import Transport
from parallel_openai.errors import ParallelOpenAIError
from tests.limits.virtual import VirtualLoop
from tests.simulation import checks
from tests.simulation.life import CAP, LABELS, Call, Life, draw
from tests.simulation.server import Books, Server, books_of, inputs_of

PROMPT = "{text}"
#: Virtual seconds that one call may take: more than the longest wait that is asked for, and less than for ever.
LONGEST = 2e5
#: How often the same call is made again at the most, once the server is kind.
MOST_CALLS = 8
TURNS = 400_000


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
    """

    frames: list[pd.DataFrame] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    told: list[tuple[int, int, float]] = field(default_factory=list)
    killed: bool = False
    turn: int = 0
    seconds: float = 0.0


@dataclass
class Lived:
    """What came of a life.

    Attributes:
        wrong: what broke a promise, as sentences.
        story: what happened.
    """

    life: Life
    wrong: list[str]
    story: list[str]
    calls: int


class _Network(Transport):
    """A transport whose requests go to the life's server and not to a socket."""

    def __init__(self, server: Server, timeout: float) -> None:
        super().__init__("http://127.0.0.1:9/v1", {"Authorization": "Bearer k"}, timeout=timeout, clock=server.now)
        self._server = server

    async def _answer(self, method: str, url: URL, body: bytes | None, into: Any, options: dict[str, Any]) -> Any:
        assert body is not None
        answer = await self._server.answer(url.path, body)
        self._errors.has_answered = True
        return answer


def live(seed: int) -> Lived:
    """Live the life of a seed, in a folder of its own."""
    life = draw(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        return _live(life, Path(folder))


def _live(life: Life, folder: Path) -> Lived:
    books, wrong = books_of(life), []
    if life.verb == "file":
        lines = [orjson.dumps(_body(text)) + b"\n" for text in life.texts]
        (folder / "in.requests").write_bytes(b"".join(lines))
    kind = [Call()] * MOST_CALLS
    for number, call in enumerate([*life.calls, *kind]):
        books.kept, books.refused_in_call = kept(folder), 0
        before = books.kept.copy()
        books.story.append(f"call {number}: {call}")
        outcome, books = _call(life, call, number, books, folder)
        books.story.append(f"ended: {outcome.errors or 'well'}{', killed' if outcome.killed else ''}")
        wrong += books.wrong + checks.after_call(life, call, number, outcome, books, before, kept(folder))
        books.wrong = []
        if wrong or (number >= len(life.calls) and checks.is_finished(life, outcome)):
            break
        if life.torn and outcome.killed:
            _tear(folder, books)
    else:
        wrong.append(f"after {number + 1} calls there are rows without an answer: {outcome.errors}")
    return Lived(life, wrong, books.story, number + 1)


def kept(folder: Path) -> Any:
    """How many good answers to each question the journals hold."""
    return checks.kept([line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().split(b"\n")])


def _tear(folder: Path, books: Books) -> None:
    """The end of the journal did not reach the disk before the power went."""
    for path in folder.glob("out*.jsonl"):
        size = path.stat().st_size
        os.truncate(path, max(0, size - books.lot.randrange(1, 200)))
        books.story.append(f"{path.name} torn from {size} bytes to {path.stat().st_size}")


def _call(life: Life, call: Call, number: int, books: Books, folder: Path) -> tuple[Outcome, Books]:
    """In this process, or in a child where it does not come back."""
    if call.stop not in ("kill", "full_disk"):
        return _Here(life, call, number, books, folder).run()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(_Here(life, call, number, books, folder), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    outcome: tuple[Outcome, Books] = pickle.loads(told)
    return outcome


def _in_child(here: _Here, writing: int) -> None:
    """Run, say what came of it, and be gone without a goodbye."""

    def die(outcome: Outcome) -> None:
        with suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told = pickle.dumps((outcome, here.books))
        while told:
            told = told[os.write(writing, told) :]
        os._exit(0)

    try:
        here.on_kill = lambda: die(Outcome(killed=True, turn=here.loop._jumping.turns))
        if here.call.stop == "full_disk":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = max((path.stat().st_size for path in here.folder.glob("out*.jsonl")), default=0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(here.call.at), resource.RLIM_INFINITY))
        die(here.run()[0])
    except BaseException as error:
        here.books.wrong.append(f"{type(error).__name__}: {error}")
        die(Outcome())


class _Here:
    """One call in this process."""

    def __init__(self, life: Life, call: Call, number: int, books: Books, folder: Path) -> None:
        self.life, self.call, self.number, self.books, self.folder = life, call, number, books, folder
        self.on_kill: Callable[[], None] | None = None

    def run(self) -> tuple[Outcome, Books]:
        random.seed(self.life.seed + self.number)  # of the jitter
        self.loop = VirtualLoop(TURNS)
        self.loop._jumping.now = self.books.now
        if self.call.stop == "kill":
            self._die_at(int(self.call.at))
        self.server = Server(self.life, self.call, self.number, self.books, self.loop)
        outcome = Outcome()
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._all(outcome), LONGEST))
        except asyncio.TimeoutError:
            self.books.wrong.append(f"the call hangs: {LONGEST} s went by")
        except AssertionError as error:
            self.books.wrong.append(str(error))
        outcome.seconds = self.loop.time() - self.books.now
        self.books.now, outcome.turn = self.loop.time(), self.loop._jumping.turns
        with suppress(AssertionError):
            self._end_loop()
        return outcome, self.books

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
            if self.loop._jumping.turns >= turn and self.on_kill is not None:
                self.books.now = self.loop.time()
                self.on_kill()
            return select(timeout)

        self.loop._jumping.select = dying  # type: ignore[method-assign]

    async def _all(self, outcome: Outcome) -> None:
        client = self._client()
        tasks = [asyncio.ensure_future(self._one(client, outcome, "out.jsonl"))]
        if self.life.second == "same client":
            tasks.append(asyncio.ensure_future(self._one(client, outcome, "out2.jsonl")))
        elif self.life.second == "same journal":
            tasks.append(asyncio.ensure_future(self._one(client, outcome, "out.jsonl")))
        for delay in {"cancel": (0.0,), "cancel_twice": (0.0, 0.5)}.get(self.call.stop or "", ()):
            for task in tasks:
                self.loop.call_later(self.call.at + delay, task.cancel)
        if self.call.stop == "suspend":
            self.loop.call_later(self.call.at, self._suspend)
        await asyncio.gather(*tasks)

    def _suspend(self) -> None:
        self.loop._jumping.now += 3600.0

    def _client(self) -> po.Client:
        server = self.server

        class Client(po.Client):
            clock = staticmethod(server.now)

        sync: Any = "never" if self.life.verb == "file" else "second"
        client = Client("http://127.0.0.1:9/v1", "k", loop="running", sync=sync, timeout=120.0, **self.life.given)
        client._line.connections = Connections(lambda: _Network(server, client.timeout))
        return client

    async def _one(self, client: po.Client, outcome: Outcome, name: str) -> None:
        try:
            outcome.frames.append(await self._asked(client, outcome, self.folder / name))
            self._note_told(outcome)
        except asyncio.CancelledError:
            outcome.errors.append("CancelledError")
            if self.life.verb != "file" and (report := po.last_run()) is not None:
                assert report.frame is not None
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
        if self.life.verb != "file" and (report := po.last_run()) is not None:
            outcome.told.append((report.prompt_tokens, report.completion_tokens, report.cost_usd))

    async def _asked(self, client: po.Client, outcome: Outcome, path: Path) -> pd.DataFrame:
        life = self.life
        if life.verb == "file":
            return await self._by_file(client, outcome, path)
        df = frame_of(life)
        options: dict[str, Any] = {
            "client": client,
            "save_to": path,
            "progress": False,
            "sync": "never",
            **self._bounds(),
        }
        if life.verb == "embed":
            return await po.aembed_dataframe(df, "text", model="text-embedding-3-small", **options)
        options |= {"samples": life.samples, "repair": life.repair, "max_completion_tokens": CAP}
        if life.verb == "label":
            return await po.alabel_dataframe(df, PROMPT, labels=list(LABELS), model="gpt-4o-mini", **options)
        return await po.aprocess_dataframe(df, PROMPT, model="gpt-4o-mini", **options)

    def _bounds(self) -> dict[str, Any]:
        last = self.number >= len(self.life.calls) + MOST_CALLS // 2
        return {
            **({} if last else self.life.budget),
            **({"deadline": self.call.at + 0.01} if self.call.stop == "deadline" else {}),
        }

    async def _by_file(self, client: po.Client, outcome: Outcome, path: Path) -> pd.DataFrame:
        """Give what the results file says, as a frame."""
        try:
            status = await po.aprocess_api_requests_from_file(
                self.folder / "in.requests",
                path,
                client=client,
                progress=False,
                logging_level=50,
                **self._bounds(),
            )
            outcome.told.append((status.prompt_tokens, status.completion_tokens, status.cost_usd))
        finally:
            frame = _frame_of_results(path)
        return frame


def frame_of(life: Life) -> pd.DataFrame:
    index = [f"r{position // 2}" for position in range(len(life.texts))]
    return pd.DataFrame({"text": pd.Series(life.texts, index, dtype="object")})


def _body(text: str | None) -> Mapping[str, Any]:
    messages = [{"role": "user", "content": "" if text is None else text}]
    return {"model": "gpt-4o-mini", "max_completion_tokens": CAP, "messages": messages}


def _frame_of_results(path: Path) -> pd.DataFrame:
    """One row for each good line of a results file."""
    written = path.read_bytes() if path.exists() else b""
    rows = [orjson.loads(line) for line in written.split(b"\n") if line and line[:2] != b"[{}"]
    good = [row for row in rows if isinstance(row[1], dict) and row[0]]
    texts = [inputs_of(row[0])[0] for row in good]
    answers = [row[1]["choices"][0]["message"]["content"] if row[1].get("choices") else None for row in good]
    return pd.DataFrame({"text": texts, "response": answers, "status": "succeeded"})
