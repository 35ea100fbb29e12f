"""Compares us with the openai SDK on third-party servers and gateways: the same rows, one side after the other.

    python -m tests.benchmarks.gateways                     what is installed of them, some ten minutes
    python -m tests.benchmarks.gateways --only nginx        those with "nginx" in their name
    python -m tests.benchmarks.gateways --litellm PATH      LiteLLM's command, from an environment of its own

nginx, haproxy and tinyproxy are Debian's (apt-get install nginx-light haproxy tinyproxy), llmock and LiteLLM PyPI's
(pip install llmock; pip install 'litellm[proxy]'), and llama.cpp comes with the extra `local`.

We are told nothing but the address. The SDK is set by hand: `AsyncOpenAI` with two retries, and as many requests at
once as suit the server. Each side meets a server that was just started. A refusal is a send that brought no answer; the
ratio is that of the times, and says little where the SDK failed rows. What is checked of us, for the exit code: each
answer belongs to its row, each row has an answer or a named error, and nothing was answered twice behind the gateway
but what was in flight at a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
import pandas as pd

import parallel_openai as po
from tests.benchmarks.gateway_cases import Answer, Case, Target, cases
from tests.benchmarks.machine import about

#: A side that takes longer is broken off; its rows without an answer count as failed.
MOST_SECONDS = 120.0
MAX_TOKENS = 30
AIM = 1.5
COLUMNS = [
    *("server", "what it limits", "rows", "ours: seconds", "refusals", "failed"),
    *("SDK: at once", "seconds", "refusals", "failed", "ratio"),
]
HEAD = f"| {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * (len(COLUMNS) - 2)}"


@dataclass(frozen=True)
class Outcome:
    """What became of one side's rows."""

    answers: Sequence[Answer | None]
    seconds: float
    sends: int
    unnamed: int = 0

    @property
    def failed(self) -> int:
        return sum(answer is None for answer in self.answers)

    @property
    def refusals(self) -> int:
        return self.sends - len(self.answers) + self.failed

    def __str__(self) -> str:
        return f"{self.seconds:.1f} | {self.refusals} | {self.failed}"


def ours(target: Target, texts: Sequence[str], at_once: int) -> Outcome:
    """One call, told nothing of the limits."""
    df, began = pd.DataFrame({"text": texts}), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, po.Client(target.base_url, target.key) as client:
        target.journal = Path(folder) / "answers.jsonl"
        out = po.process_dataframe(
            df,
            "text",
            model=target.model,
            max_tokens=MAX_TOKENS,
            client=client,
            save_to=target.journal,
            deadline=MOST_SECONDS,
            progress=False,
        )
    seconds = time.monotonic() - began
    report = po.last_run()
    assert report is not None
    print("  ours:", " ".join(str(report).split()), file=sys.stderr)
    # What was cut off at the most tokens is an answer to the SDK.
    good = (out["status"] == "succeeded") | (out["error_code"] == "truncated")
    answers = [
        Answer(text, int(tokens)) if fine else None
        for text, tokens, fine in zip(out["response"], out["prompt_tokens"].fillna(0), good, strict=True)
    ]
    return Outcome(answers, seconds, report.requests_sent, int((~good & out["error_code"].isna()).sum()))


def sdk(target: Target, texts: Sequence[str], at_once: int) -> Outcome:
    """The openai SDK, with a semaphore as people write it."""
    return asyncio.run(_sdk(target, texts, at_once))


async def _sdk(target: Target, texts: Sequence[str], at_once: int) -> Outcome:
    sends = 0
    answers: list[Answer | None] = [None] * len(texts)
    slots = asyncio.Semaphore(at_once)

    async def count(request: object) -> None:
        nonlocal sends
        sends += 1

    async def ask(row: int) -> None:
        async with slots:
            try:
                answers[row] = await _answer(client, target.model, texts[row])
            except openai.OpenAIError:
                pass  # A failed row, as it is for whoever writes such a loop.

    began = time.monotonic()
    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]})
    async with openai.AsyncOpenAI(
        base_url=target.base_url, api_key=target.key, max_retries=2, http_client=http
    ) as client:
        await asyncio.wait([asyncio.create_task(ask(row)) for row in range(len(texts))], timeout=MOST_SECONDS)
        seconds = time.monotonic() - began
    return Outcome(answers, seconds, sends)


async def _answer(client: openai.AsyncOpenAI, model: str, text: str) -> Answer:
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=MAX_TOKENS
    )
    return Answer(answer.choices[0].message.content or "", answer.usage.prompt_tokens if answer.usage else 0)


def run(case: Case) -> tuple[str, list[str], bool]:
    """One line of the table, what was wrong on our side, and whether we were fast enough."""
    texts = [case.text(row) for row in range(case.rows)]
    outcomes, wrongs = [], []
    for side in (ours, sdk):
        with case.serve() as target:
            outcome = side(target, texts, case.at_once)
            if side is ours:
                wrongs = _wrongs(case, target, texts, outcome)
        outcomes.append(outcome)
    mine, theirs = outcomes
    ratio = mine.seconds / theirs.seconds
    cells = f"{case.server} | {case.limits} | {case.rows} | {mine} | {case.at_once} | {theirs} | {ratio:.2f}"
    return f"| {cells} |", wrongs, ratio <= AIM and not mine.failed


def _wrongs(case: Case, target: Target, texts: Sequence[str], outcome: Outcome) -> list[str]:
    found = {
        "answers of another row": case.wrong(texts, outcome.answers),
        "rows without an answer or a named error": outcome.unnamed + abs(len(texts) - len(outcome.answers)),
        "answered twice": max(0, target.twice() - target.killed_in_flight),
    }
    return [f"{case.server}, {case.limits}: {count} {what}" for what, count in found.items() if count]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="servers whose name or limit holds this")
    parser.add_argument("--litellm", help="LiteLLM's command; left out, the one on the PATH")
    options = parser.parse_args(argv)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("OPENAI_")]:
        del os.environ[name]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{about('parallel-openai', 'openai', 'llmock')}; load at the start {load}\n")
    print(HEAD)
    wrongs, slow, ran = [], [], 0
    for case in cases(options.litellm):
        if options.only not in f"{case.server} {case.limits}":
            continue
        if case.missing:
            print(f"| {case.server} | {case.limits} | not run: {case.missing} | | | | | | | | |", flush=True)
            continue
        line, wrong, fast = run(case)
        print(line, flush=True)
        ran += 1
        wrongs += wrong
        slow += [] if fast else [f"{case.server}, {case.limits}"]
    print(
        f"\n{ran - len(slow)} of {ran} within {AIM} times the SDK's time without a failed row", *slow, sep="\n  not: "
    )
    print("\n".join(wrongs) or "no answer of another row, no row lost, nothing answered twice")
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
