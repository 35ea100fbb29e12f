"""Whatever a server answers, the row gets an answer or an error, or the run stops: five thousand random responses."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pandas as pd
import pytest
from multidict import CIMultiDict
from yarl import URL

import parallel_openai as po
from parallel_openai._http.body import TooLargeError, UnreadableError, decompressed
from parallel_openai._http.transport import Transport
from parallel_openai._http.transport_per_loop import Connections
from parallel_openai._printable import printable_lines
from parallel_openai.errors import ParallelOpenAIError
from tests.limits.virtual import VirtualLoop
from tests.simulation.answers import inputs_of, label_of, question_of, reply_to, vector_of
from tests.simulation.any_refusal import Said
from tests.simulation.any_response import WRONG, drawn, plain
from tests.simulation.life import BROKEN, LABELS
from tests.simulation.server import connection_error

ROWS = 40
#: Calls in which anything is answered; then the server is kind.
ODD_CALLS = 3
MOST_CALLS = 12
LONGEST = 2e5
#: Of Python's own exceptions, which tell a person nothing.
RAW = (
    "object has no attribute",
    "object is not",
    "indices must be",
    "unhashable",
    "Traceback",
    "KeyError",
    "TypeError",
)


class Server:
    """Answers by lot, and keeps in mind what it answered."""

    def __init__(self, seed: int) -> None:
        self.lot = random.Random(seed)
        #: A few answers that come again and again, or none; and how often something odd comes.
        self._same = [self.lot.random() for _ in range(self.lot.choice([0, 0, 1, 2, 5]))]
        self._share = self.lot.choice([0.1, 0.5, 0.8, 1.0])
        self.is_kind = False
        self._asked = ""  # the path of the endpoint; a redirect may lead elsewhere, where the same answers
        self.answered: Counter[str] = Counter()
        self.said: list[Said] = []
        self.story: list[str] = []
        self.wrong: list[str] = []

    def answer(self, path: str, body: bytes) -> Said | Exception:
        request = orjson.loads(body)
        inputs = inputs_of(request)
        questions = list(map(question_of, inputs))
        again = [text for text, question in zip(inputs, questions, strict=True) if self.answered[question]]
        if again:
            self.wrong.append(f"{again} are paid for again")
        if not self.is_kind and self.lot.random() < 0.05:
            return self._break()
        self._asked = self._asked or path
        said = self._say(self._asked, request)
        self.said.append(said)
        if said.is_answer:
            self.answered.update(questions)
        self.story.append(f"{inputs} {said.status} {said.kind} {dict(said.headers)}")
        return said

    def _say(self, path: str, request: Mapping[str, Any]) -> Said:
        if self.is_kind or self.lot.random() >= self._share:
            return plain(path, request)
        lot = random.Random(self.lot.choice(self._same)) if self._same else self.lot
        return drawn(lot, path, request)

    def _break(self) -> Exception:
        """There is no answer, or none that is read."""
        name = self.lot.choice([*BROKEN, "timeout", "payload", "too_large", "unreadable"])
        self.story.append(name)
        others = {"timeout": asyncio.TimeoutError(), "payload": aiohttp.ClientPayloadError("cut")}
        others |= {
            "too_large": TooLargeError(),
            "unreadable": UnreadableError("It is packed in a way that nobody knows."),
        }
        return others.get(name) or connection_error(name)


class _Session:
    async def close(self) -> None:
        pass


class _Network(Transport):
    """A transport whose requests go to the server and not to a socket; the rest of its way they go as all do."""

    def __init__(self, server: Server, loop: VirtualLoop) -> None:
        super().__init__("http://127.0.0.1:9/v1", {"Authorization": "Bearer k"}, timeout=120.0, clock=loop.time)
        self._server = server

    def _open(self) -> Any:
        return _Session()

    async def _by_session(self, method: str, url: URL, body: Any, into: Any, options: Mapping[str, Any]) -> Any:
        await asyncio.sleep(self._server.lot.uniform(0.01, 0.5))
        if method != "POST":
            return 404, CIMultiDict(), b"not found"
        said = self._server.answer(url.path, body)
        if isinstance(said, Exception):
            raise said
        return said.status, CIMultiDict(said.headers), decompressed(said.body, CIMultiDict(said.headers), 2**20)


async def _ask(verb: str, df: pd.DataFrame, client: po.Client, folder: Path) -> pd.DataFrame | None:
    options: dict[str, Any] = {"client": client, "save_to": folder / "out.jsonl", "progress": False}
    if verb == "embed":
        return await po.aembed_dataframe(df, "text", model="text-embedding-3-small", **options)
    if verb == "label":
        return await po.alabel_dataframe(df, "{text}", labels=list(LABELS), model="gpt-4o-mini", repair=True, **options)
    if verb == "file":
        del options["save_to"]
        lines = [orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}) for text in df["text"]]
        (folder / "in.requests").write_bytes(b"\n".join(lines))
        source, target = folder / "in.requests", folder / "out.jsonl"
        await po.aprocess_api_requests_from_file(source, target, logging_level=50, **options)
        return None
    return await po.aprocess_dataframe(df, "{text}", model="gpt-4o-mini", endpoint=verb, **options)


async def _call(verb: str, df: pd.DataFrame, server: Server, loop: VirtualLoop, folder: Path) -> bool:
    """Whether it came to its end."""

    class Client(po.Client):
        clock = staticmethod(loop.time)

    client = Client("http://127.0.0.1:9/v1", "k", loop="running", sync="never", timeout=120.0)
    client._server.connections = Connections(lambda: _Network(server, loop))
    frame = None
    try:
        frame = await _ask(verb, df, client, folder)
    except ParallelOpenAIError as error:
        server.story.append(f"{type(error).__name__}: {error}")
        server.wrong += _raw(f"{error}")
        frame = getattr(error, "partial", None)
        return False
    finally:
        if isinstance(frame, pd.DataFrame):
            server.wrong += _wrong_rows(verb, df, frame) + _lost(verb, frame, server)
        server.wrong += _wrong_lines(folder / "out.jsonl")
    return True


def _raw(sentence: str) -> list[str]:
    wrong = [f"raw: {sentence}" for word in RAW if word in sentence]
    wrong += [f"too short: {sentence}"] if len(sentence) < 10 else []
    return wrong if printable_lines(sentence) == sentence else [*wrong, f"unprintable: {sentence!r}"]


def _wrong_rows(verb: str, df: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    column = {"label": "label", "embed": "embedding"}.get(verb, "response")
    wrong = [] if frame["text"].tolist() == df["text"].tolist() else ["other rows come back"]
    for text, status, answer, code, error in zip(
        *(frame[name].tolist() for name in ("text", "status", column, "error_code", "error")), strict=True
    ):
        if status == "succeeded" and WRONG in f"{answer}":
            wrong.append(f"{text} has {answer!r}")
        if status == "failed":
            wrong += (
                _raw(error) if isinstance(code, str) and isinstance(error, str) else [f"{text}: {code!r} {error!r}"]
            )
        if status not in ("succeeded", "failed", "cancelled"):
            wrong.append(f"{text} has the status {status!r}")
    return wrong


def _lost(verb: str, frame: pd.DataFrame, server: Server) -> list[str]:
    """Rows that were answered well, and say something else."""
    column, right = {"label": ("label", label_of), "embed": ("embedding", vector_of)}.get(verb, ("response", reply_to))
    return [
        f"{text} was answered, and is {status} with {answer!r}"
        for text, status, answer in zip(frame["text"], frame["status"], frame[column], strict=True)
        if server.answered[question_of(text)] and not (status == "succeeded" and _is(answer, right(text)))
    ]


def _is(answer: Any, right: Any) -> bool:
    return np.allclose(answer, right) if isinstance(right, list) else bool(answer == right)


def _wrong_lines(path: Path) -> list[str]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    wrong = []
    for line in lines:
        with suppress(ValueError):
            if isinstance(orjson.loads(line.decode()), list):
                continue
        wrong.append(f"no line of JSON: {line[:200]!r}")
    return wrong


def live(verb: str, seed: int, folder: Path) -> Server:
    server, df = Server(seed), pd.DataFrame({"text": [f"row {number}" for number in range(ROWS)]})
    random.seed(seed)
    for number in range(MOST_CALLS):
        server.is_kind = number >= ODD_CALLS
        loop = VirtualLoop(400_000)
        server.story.append(f"call {number}")
        try:
            done = loop.run_until_complete(asyncio.wait_for(_call(verb, df, server, loop, folder), LONGEST))
        except (Exception, asyncio.TimeoutError) as error:
            server.story.append(traceback.format_exc())
            server.wrong.append(f"{type(error).__name__}: {error}")
            break
        finally:
            loop.close()
        if server.wrong or (done and server.is_kind):
            break
    else:
        server.wrong.append("never comes to an end")
    return server


@pytest.mark.parametrize("verb", ["chat.completions", "responses", "completions", "label", "embed", "file"])
def test_any_response_gives_an_answer_a_failed_row_or_a_clear_error(verb: str, tmp_path: Path) -> None:
    answers, seed = 0, 0
    while answers < (200 if verb == "embed" else 960):  # one answers many rows there
        seed += 1
        (folder := tmp_path / f"{seed}").mkdir()
        server = live(verb, seed, folder)
        assert not server.wrong, "\n".join([f"seed {seed}", *server.story[-60:], *server.wrong])
        answers += len(server.said)
