"""The promises, each as what is looked at after a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd

from tests.simulation.life import CAP, Call, Life
from tests.simulation.server import (
    CONTEXT_LENGTH,
    Books,
    inputs_of,
    label_of,
    prompt_tokens,
    question_of,
    reply_to,
    vector_of,
)

if TYPE_CHECKING:
    from tests.simulation.run import Outcome

#: Turns of the loop within which an answer that was delivered reaches the file.
TURNS_TO_WRITE = 8


def after_call(
    life: Life, call: Call, number: int, outcome: Outcome, books: Books, before: Counter[str], after: Counter[str]
) -> list[str]:
    """What is wrong, as sentences."""
    wrong = [sentence for frame in outcome.frames for sentence in _wrong_answers(life, frame)]
    bills = [bill for bill in books.bills if bill.call == number]
    wrong += _lost(call, outcome, bills, before, after)
    wrong += _beyond_budget(life, number, bills)
    wrong += _untold(outcome, bills)
    wrong += _idle(life, call, outcome, books, bills)
    return wrong


def is_finished(life: Life, outcome: Outcome) -> bool:
    """Whether each row that can be answered is."""
    if outcome.errors and life.second != "same journal":
        return False
    if life.verb == "file":
        wanted = {"" if text is None else text for text in life.texts if _is_sound(life, text)}
        return bool(outcome.frames) and wanted <= set(outcome.frames[0]["text"])
    return bool(outcome.frames) and all(
        frame["status"].to_numpy()[position] == "succeeded"
        for frame in outcome.frames
        for position, text in enumerate(life.texts)
        if _is_sound(life, text)
    )


def kept(lines: Sequence[bytes]) -> Counter[str]:
    """Good answers in a journal, by what was asked."""
    good: Counter[str] = Counter()
    for line in lines:
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(entry, list) or len(entry) < 2 or not entry[0] or not isinstance(entry[1], dict):
            continue
        if _is_good(entry[1]):
            good.update(map(question_of, inputs_of(entry[0])))
    return good


def _is_good(answer: dict[str, Any]) -> bool:
    if "data" in answer:
        return answer["data"][0]["embedding"] is not None
    choices = answer.get("choices")
    if not choices or choices[0]["finish_reason"] != "stop":
        return False
    return "nonsense" not in choices[0]["message"]["content"]


def _is_sound(life: Life, text: str | None) -> bool:
    if text is None:
        return life.verb == "file"
    request = {"input": text} if life.verb == "embed" else {"messages": [{"role": "user", "content": text}]}
    return prompt_tokens(request) <= CONTEXT_LENGTH


def _wrong_answers(life: Life, frame: pd.DataFrame) -> list[str]:
    """Rows that have another's answer; and rows, columns or an index that are not the caller's."""
    if life.verb != "file":
        if [None if pd.isna(text) else text for text in frame["text"]] != life.texts:
            return ["the frame that comes back has other texts"]
        if frame.index.tolist() != [f"r{i // 2}" for i in range(len(life.texts))]:
            return ["the frame that comes back has another index"]
    column = {"label": "label", "embed": "embedding"}.get(life.verb, "response")
    right = {"label": label_of, "embed": vector_of}.get(life.verb, reply_to)
    return [
        f"{text!r} has the answer {answer!r}"
        for text, status, answer in zip(frame["text"], frame["status"], frame[column], strict=True)
        if status == "succeeded" and not _is_right(answer, right(text), life)
    ]


def _is_right(answer: Any, right: Any, life: Life) -> bool:
    samples = life.samples
    if isinstance(right, list):
        return np.allclose(answer, right)
    if life.verb == "file":  # which writes down what was cut off as it came
        return isinstance(answer, str) and right.startswith(answer)
    if samples > 1 and isinstance(answer, (list, np.ndarray)):
        return len(answer) == samples and all(each == right for each in answer)
    return bool(answer == right)


def _lost(call: Call, outcome: Outcome, bills: Sequence[Any], before: Counter[str], after: Counter[str]) -> list[str]:
    """Good answers that were delivered and are not in the journal."""
    if any("JournalWriteError" in error for error in outcome.errors):
        return []
    delivered = Counter(
        question
        for bill in bills
        if bill.outcome == "delivered" and bill.good
        if not (outcome.killed and bill.turn > outcome.turn - TURNS_TO_WRITE)
        for question in bill.question
    )
    missing = delivered + before - after
    return [f"{count} answers to {question} were delivered and are not kept" for question, count in missing.items()]


def _untold(outcome: Outcome, bills: Sequence[Any]) -> list[str]:
    """What was billed for an answer that came, and said so, is told."""
    if outcome.killed or not outcome.told or "CancelledError" in outcome.errors:
        return []
    told = [sum(each) for each in zip(*outcome.told, strict=True)]
    came = [bill for bill in bills if bill.outcome == "delivered" and bill.told]
    billed = [
        sum(bill.tokens[0] for bill in came),
        sum(bill.tokens[1] for bill in came),
        sum(bill.usd for bill in came),
    ]
    return [] if np.allclose(told, billed, atol=1e-9) else [f"{told} are told for {billed} (tokens, tokens, dollars)"]


def _idle(life: Life, call: Call, outcome: Outcome, books: Books, bills: Sequence[Any]) -> list[str]:
    """Where nothing goes wrong, the limits are used and kept."""
    if call.faults or call.down or call.stop or life.second or life.budget or outcome.errors:
        return []
    settings, number = books.account.settings, len(bills)
    ideal = 0.0
    for limit, each in (
        (settings.max_requests_per_minute, 1),
        (settings.max_tokens_per_minute, max((sum(bill.tokens) + CAP for bill in bills), default=0)),
    ):
        if limit is not None:
            ideal = max(ideal, 60.0 * number * each / limit)
    waits = [bill.seconds for bill in bills]
    at_once = life.given.get("max_concurrent_requests", 500)
    at_start = 75.0 if settings.start_level else 135.0  # of an account that others have just used up
    most = 1.5 * ideal + 2 * sum(waits) / at_once + 2 * max(waits, default=0.0) + at_start
    wrong = []
    if outcome.seconds > most:
        wrong.append(f"{number} requests took {outcome.seconds:.1f} s, where {most:.1f} s are enough")
    refused = books.refused_in_call
    # Servers that count by the second refuse a part of what would be in step with their minute.
    by_minute = settings.window == "bucket" and settings.burst_seconds >= 60.0
    if by_minute and settings.headers == "enforced" and settings.retry_after != "none" and refused > 5 + 0.02 * number:
        wrong.append(f"{refused} of {number} were refused")
    return wrong


def _beyond_budget(life: Life, number: int, bills: Sequence[Any]) -> list[str]:
    usd, tokens = sum(bill.usd for bill in bills), sum(sum(bill.tokens) for bill in bills)
    runs = 2 if life.second == "same client" else 1
    from tests.simulation.run import MOST_CALLS

    if number >= len(life.calls) + MOST_CALLS // 2:
        return []
    wrong = []
    if usd > runs * life.budget.get("budget_usd", 1e9) + 1e-12:
        wrong.append(f"${usd:.6f} were billed within {life.budget}")
    if tokens > runs * life.budget.get("budget_tokens", 1e12):
        wrong.append(f"{tokens} tokens were billed within {life.budget}")
    return wrong
