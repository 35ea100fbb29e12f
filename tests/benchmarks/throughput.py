"""What a row costs beyond the bare network call.

nginx answers a fixed chat completion of 1 KB on a core of its own; the client has another. In turns, the same rows go
through `process_dataframe` with everything on (limiter, journal, counters, bar) and, as ready bytes, through a bare
aiohttp loop that posts them, reads the body and parses it with orjson; and through the OpenAI SDK, if it is installed:

    python -m tests.benchmarks.throughput              20,000 rows, with and without uvloop
    python -m tests.benchmarks.throughput --rows 2000 --rounds 3 --loop asyncio

CPU is that of the whole client process, all threads, from DataFrame to DataFrame; the medians of the rounds are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import aiohttp
import orjson
import pandas as pd

import parallel_openai as po
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._loop import background as engine_loop
from parallel_openai._records import APIRequest
from tests.benchmarks.machine import about, cores, pin
from tests.servers.static import static

CONNECTIONS = 100
PROMPT = "Write one sentence for the shop's owner about this review: {text}"
TEXT = "Review {}: the parcel came a day early, the lamp looks well in the evening, but the cable is too short for me."
PARAMS = {"max_completion_tokens": 300}
MODEL = "gpt-5-mini"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-BxK3vQm0Yd7s5rTnWc1uLzPa",
        "object": "chat.completion",
        "created": 1792567680,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "The buyer is glad of the quick delivery and likes how the lamp looks in the evening, "
                    "but would have wished for a longer cable and for a manual that names the right bulb.",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 57,
            "completion_tokens": 41,
            "total_tokens": 98,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_static0000",
    },
    indent=2,
)
#: What OpenAI shows on its answers, of an account that is never full.
HEADERS = {
    "x-request-id": "req_static00000000000000000000000",
    "openai-processing-ms": "3",
    "x-ratelimit-limit-requests": "30000000",
    "x-ratelimit-remaining-requests": "29999999",
    "x-ratelimit-reset-requests": "0s",
    "x-ratelimit-limit-tokens": "15000000000",
    "x-ratelimit-remaining-tokens": "14999999000",
    "x-ratelimit-reset-tokens": "0s",
}


@dataclass(frozen=True)
class Figures:
    """One way's cost, by row.

    Attributes:
        cpu: microseconds of the processor for a row.
        rows_per_second: by the clock on the wall.
    """

    cpu: float
    rows_per_second: float


def frame(rows: int) -> pd.DataFrame:
    """Rows of some 110 characters, each another."""
    return pd.DataFrame({"text": [TEXT.format(number) for number in range(rows)]})


def ours(base_url: str, df: pd.DataFrame) -> float:
    """Through `process_dataframe`, everything on; gives the seconds of the clock."""
    with (
        tempfile.TemporaryDirectory() as folder,
        po.Client(base_url, "sk-static", max_concurrent_requests=CONNECTIONS) as client,
    ):
        began = time.monotonic()
        out = po.process_dataframe(df, PROMPT, model=MODEL, client=client, save_to=f"{folder}/answers.jsonl", **PARAMS)
        seconds = time.monotonic() - began
    assert (out["status"] == "succeeded").all(), out["error"].dropna().head()
    return seconds


def bodies_of(df: pd.DataFrame) -> list[bytes]:
    """The bytes that `process_dataframe` sends for the frame."""
    builder = RequestBuilder(PROMPT, MODEL, params=PARAMS)
    return [request.body for request in builder.requests(df) if isinstance(request, APIRequest)]


def bare(base_url: str, bodies: Sequence[bytes]) -> float:
    """Through aiohttp alone, on the same kind of loop; gives the seconds of the clock."""
    loop = engine_loop._new_loop()
    try:
        began = time.monotonic()
        loop.run_until_complete(_bare(f"{base_url}/chat/completions", bodies))
        return time.monotonic() - began
    finally:
        loop.close()


async def _bare(url: str, bodies: Sequence[bytes]) -> None:
    shared = iter(bodies)
    headers = {"Authorization": "Bearer sk-static", "Content-Type": "application/json"}

    async def work(session: aiohttp.ClientSession) -> None:
        for body in shared:
            async with session.post(url, data=body) as answer:
                orjson.loads(await answer.read())

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await asyncio.gather(*(work(session) for _ in range(CONNECTIONS)))


def sdk(base_url: str, texts: Sequence[str]) -> float:
    """Through the OpenAI SDK and a semaphore, as people write it today; gives the seconds of the clock."""
    loop = engine_loop._new_loop()
    try:
        began = time.monotonic()
        loop.run_until_complete(_sdk(base_url, texts))
        return time.monotonic() - began
    finally:
        loop.close()


async def _sdk(base_url: str, texts: Sequence[str]) -> None:
    from openai import AsyncOpenAI

    semaphore = asyncio.Semaphore(CONNECTIONS)

    async def ask(openai: AsyncOpenAI, text: str) -> str | None:
        async with semaphore:
            content = PROMPT.format(text=text)
            answer = await openai.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": content}], max_completion_tokens=300
            )
            return answer.choices[0].message.content

    async with AsyncOpenAI(base_url=base_url, api_key="sk-static") as openai:
        await asyncio.gather(*(ask(openai, text) for text in texts))


def measure(way: Callable[[], float], rows: int) -> Figures:
    before = time.process_time()
    seconds = way()
    return Figures(1e6 * (time.process_time() - before) / rows, rows / seconds)


def compare(base_url: str, rows: int, rounds: int, sdk_rows: int) -> dict[str, Figures]:
    """Each way in turns, so many times; the medians."""
    df = frame(rows)
    bodies, texts = bodies_of(df), df["text"].tolist()[:sdk_rows]
    ways: dict[str, tuple[Callable[[], float], int]] = {
        "bare aiohttp": (lambda: bare(base_url, bodies), rows),
        "parallel_openai": (lambda: ours(base_url, df), rows),
    }
    if sdk_rows:
        ways["OpenAI SDK"] = (lambda: sdk(base_url, texts), len(texts))
    for way in (lambda: bare(base_url, bodies[:500]), lambda: ours(base_url, df[:500])):
        way()  # imports, caches
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, count) in ways.items():
            found[name].append(measure(way, count))
    return {
        name: Figures(median(each.cpu for each in figures), median(each.rows_per_second for each in figures))
        for name, figures in found.items()
    }


def in_process(base_url: str, loop: str, core: int | None, *arguments: str) -> dict[str, Figures]:
    """Measured in a fresh process, on a core and a kind of loop."""
    command = [sys.executable, "-m", "tests.benchmarks.throughput", "--worker", base_url, "--loop", loop, *arguments]
    if core is not None:
        command += ["--core", str(core)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {name: Figures(**figures) for name, figures in json.loads(done.stdout.splitlines()[-1]).items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sdk-rows", type=int, default=2_000, help="rows through the OpenAI SDK; 0 leaves it out")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "both"], default="both")
    parser.add_argument("--limits", action="store_true", help="with the headers of a limited account on each answer")
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        pin(options.core)
        if options.loop == "asyncio":
            sys.modules["uvloop"] = None  # type: ignore[assignment]
        found = compare(options.worker, options.rows, options.rounds, options.sdk_rows)
        print(json.dumps({name: asdict(figures) for name, figures in found.items()}))
        return 0
    print(about("aiohttp", "uvloop", "orjson", "pandas", "openai"))
    print(
        f"{options.rows:,} rows, {CONNECTIONS} connections, answers of {len(ANSWER):,} bytes, {options.rounds} rounds"
    )
    mine, servers = ([*cores(), None, None] if len(cores()) > 1 else [None, None])[:2]
    arguments = [f"--rows={options.rows}", f"--rounds={options.rounds}", f"--sdk-rows={options.sdk_rows}"]
    with static(ANSWER, headers=HEADERS if options.limits else {}, core=servers) as base_url:
        for loop in ("asyncio", "uvloop") if options.loop == "both" else (options.loop,):
            found = in_process(base_url, loop, mine, *arguments)
            print(f"\n{loop:22} {'CPU µs/row':>12} {'of bare':>9} {'rows/s':>9}")
            for name, figures in found.items():
                ratio = figures.cpu / found["bare aiohttp"].cpu
                print(f"{name:22} {figures.cpu:12.0f} {ratio:9.2f} {figures.rows_per_second:9,.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
