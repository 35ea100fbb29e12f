"""The promises, as checks after each call and at the end of a life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pandas as pd

from tests.simulation.answers import (
    CONTEXT_LENGTH,
    inputs_of,
    is_good,
    label_of,
    prompt_tokens,
    question_of,
    reply_to,
    vector_of,
)
from tests.simulation.books import Bill, Books
from tests.simulation.call import TIMEOUT, Outcome, is_last, request_for
from tests.simulation.cluster import MOMENT
from tests.simulation.life import BROKEN, CAP, FINAL, Call, Life
from tests.simulation.refused import too_often_refused

#: Good answers to each question.
Kept = Counter[str]

#: Turns of the loop within which an answer that was delivered reaches the file.
TURNS_TO_WRITE = 8
#: Seconds that a stopped call waits for what is on its way.
WAITED_FOR = 9.9
#: Seconds after which it is known that a server is away, and requests that try whether it is back.
SECONDS_TO_NOTICE, MOST_TRIES = 10.0, 40
#: Sends of one request, as `Client` has it; and seconds that it takes for so many at the least, but for great luck.
MOST_ATTEMPTS, LEAST_RESTS = 5, 0.3
#: So many requests at which the server breaks, with no answer in between, may be an outage, for which none of them is
#: to blame; those before them are, as long as it may be they that break it.
OUTAGE_OF = 10
#: Columns of a frame that are the same whatever went wrong on the way to it.
_SAME = ("text", "status", "error_code", "finish_reason", "model", "response", "label", "confidence", "embedding")


def after_call(
    life: Life, call: Call, number: int, outcome: Outcome, books: Books, before: Kept, after: Kept
) -> list[str]:
    """What is wrong, as sentences."""
    wrong = [sentence for frame in outcome.frames for sentence in _wrong_answers(life, frame)]
    sent = [bill for bill in books.bills if bill.sent_in == number]
    came = [bill for bill in books.bills if bill.came_in == number and bill.outcome == "delivered"]
    if books.freed_in == number or not any("JournalWriteError" in error for error in outcome.errors):
        wrong += _lost(outcome, _at_home(life, call, outcome, came, books), before, after)
    wrong += _left(life, call, sent, books.now - outcome.seconds)
    wrong += _after_stop(life, call, outcome, books)
    wrong += _in_outage(call, outcome, books)
    if not call.deaths:
        wrong += _broke(life, outcome)
    wrong += _attempts(life, call, number, outcome, books)
    if not is_last(life, number):
        wrong += _beyond_budget(life, sent) + _unused_budget(life, call, outcome, sent)
    if books.taken_again < number and not (life.lane == "batch" and life.budget):  # which may hold up who asks for it
        wrong += _untold(outcome, came)
    if life.lane == "batch":
        wrong += _idle_after_batches(life, call, outcome, books)
    else:
        wrong += _idle(life, call, outcome, books, sent)
    return wrong


def is_finished(life: Life, outcome: Outcome) -> bool:
    """Whether each row that can be answered is, and of none it is still to be heard whether it can."""
    if outcome.errors and life.second != "same journal":
        return False
    if life.verb == "file":
        wanted = {"" if text is None else text for text in life.texts if _is_sound(life, text)}
        return bool(outcome.frames) and wanted <= set(outcome.frames[0]["text"])
    if any((frame["error_code"] == "in_batch").any() for frame in outcome.frames):
        return False
    return bool(outcome.frames) and all(
        frame["status"].to_numpy()[position] == "succeeded"
        for frame in outcome.frames
        for position, text in enumerate(life.texts)
        if _is_sound(life, text)
    )


def kept(lines: Sequence[bytes]) -> Kept:
    """Good answers in a journal, by what was asked."""
    good: Counter[str] = Counter()
    for line in lines:
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(entry, list) or len(entry) < 2 or not entry[0] or not isinstance(entry[1], dict):
            continue
        if is_good(entry[1]):
            good.update(map(question_of, inputs_of(entry[0])))
    return good


def left_in_batches(books: Books, after: Kept) -> list[str]:
    """Good answers of batches that are not in the journal at the end, although they could be had."""
    given = Counter(
        question
        for bill in books.bills
        if bill.batch_id is not None and bill.good and bill.outcome != "lost"
        if not books.batches[bill.batch_id].is_lost
        for question in bill.question
    )
    return [f"{count} answers of batches to {question} are not kept" for question, count in (given - after).items()]


def differences(life: Life, frames: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame]) -> list[str]:
    """What is not in these frames as in those of a life in which nothing went wrong."""
    if (
        life.verb == "file" or life.second == "same journal"
    ):  # whose lines come in any order; of which one is turned away
        return []
    wrong = []
    for name in _SAME:
        for frame in frames if name in frames[0] else ():
            mine, right = (_comparable(each[name], name, life) for each in (frame, others[0]))
            if mine != right and not (name == "model" and life.second in ("other model", "compared")):
                wrong.append(f"{name} is {mine}, and without faults {right}"[:500])
    return wrong


def _comparable(column: pd.Series[Any], name: str, life: Life) -> list[str]:
    if name == "confidence" and life.logprobs:  # which a fault may leave out
        return []
    rows = zip(life.texts, column.tolist(), strict=True)
    # A row that finds no answer anyway: a budget may have ended the call before it, a queue turned it away first, or
    # the file that says why have come short as often as it is downloaded.
    either = bool(life.budget) or life.batches.queue is not None or life.batches.short_downloads > 2
    return [f"{value}" for text, value in rows if _is_sound(life, text) or not either]


def _is_sound(life: Life, text: str | None) -> bool:
    if text is None:
        return life.verb == "file"
    return prompt_tokens(request_for(life, text)) <= CONTEXT_LENGTH


def _wrong_answers(life: Life, frame: pd.DataFrame) -> list[str]:
    """Rows that have another's answer; and rows, columns or an index that are not the caller's."""
    if life.verb != "file":
        if [None if pd.isna(text) else text for text in frame["text"]] != life.texts:
            return ["the frame that comes back has other texts"]
        if frame.index.tolist() != [f"r{i // 2}" for i in range(len(life.texts))]:
            return ["the frame that comes back has another index"]
    verb = "embed" if life.endpoint == "embeddings" else life.verb
    column = {"label": "label", "embed": "embedding"}.get(verb, "response")
    right = {"label": label_of, "embed": vector_of}.get(verb, reply_to)
    if column not in frame:
        column = "response"
    return [
        f"{text!r} has the answer {answer!r}"
        for text, status, answer in zip(frame["text"], frame["status"], frame[column], strict=True)
        if status == "succeeded" and not _is_right(answer, right(text), life)
    ]


def _is_right(answer: Any, right: Any, life: Life) -> bool:
    samples = life.samples
    if isinstance(right, list):
        return np.allclose(answer, right)
    if life.verb == "file":  # which writes down what was cut off or refused as it came
        return bool(pd.isna(answer)) or (isinstance(answer, str) and right.startswith(answer))
    if samples > 1 and isinstance(answer, (list, np.ndarray)):
        return len(answer) == samples and all(each == right for each in answer)
    return bool(answer == right)


def _lost(outcome: Outcome, came: Sequence[Bill], before: Kept, after: Kept) -> list[str]:
    """Good answers that were delivered and are not in the journal."""
    delivered = Counter(
        question
        for bill in came
        if bill.good and not (outcome.killed and _may_be_on_its_way(bill, outcome))
        for question in bill.question
    )
    missing = delivered + before - after
    return [f"{count} answers to {question} were delivered and are not kept" for question, count in missing.items()]


def _at_home(life: Life, call: Call, outcome: Outcome, came: list[Bill], books: Books) -> list[Bill]:
    """Without those that may not have left their worker: the latest before an end that is none, and what a worker that
    dies had gathered since a stop."""
    if life.lane != "ray" or not (outcome.killed or outcome.errors or call.stop or call.deaths):
        return came
    stopped = books.now - outcome.seconds + call.at if call.stop and call.deaths else books.now
    return [bill for bill in came if bill.due < min(stopped, books.now) - MOMENT]


def _left(life: Life, call: Call, sent: Sequence[Bill], began: float) -> list[str]:
    """A stop that is gentle waits for what is billed already; a second one does not.

    The first may have been a refusal of all, or the end of a budget; also where the first sends are all broken off.
    """
    is_gentle = call.stop == "deadline" or (call.stop == "cancel" and not life.budget)
    if not is_gentle or call.deaths or call.faults.keys() & {*FINAL, *BROKEN, "lost"}:
        return []
    most = began + call.at + WAITED_FOR
    return [
        f"an answer to {bill.question} was not waited for"
        for bill in sent
        if bill.outcome == "left" and bill.seconds < TIMEOUT and bill.due < most
    ]


def _may_be_on_its_way(bill: Bill, outcome: Outcome) -> bool:
    """To the file, when the process died; what a batch gives can be had once more."""
    return bill.batch_id is not None or bill.turn > outcome.turn - TURNS_TO_WRITE


def _untold(outcome: Outcome, came: Sequence[Bill]) -> list[str]:
    """What was billed for an answer that came, and said so, is told."""
    if outcome.killed or not outcome.told or "CancelledError" in outcome.errors:
        return []
    told = [sum(each) for each in zip(*outcome.told, strict=True)]
    said = [bill for bill in came if bill.told]
    billed = [sum(each) for each in zip(*((*bill.tokens, bill.usd) for bill in said), strict=True)] or [0, 0, 0.0]
    return [] if np.allclose(told, billed, atol=1e-9) else [f"{told} are told for {billed} (tokens, tokens, dollars)"]


def _idle(life: Life, call: Call, outcome: Outcome, books: Books, bills: Sequence[Bill]) -> list[str]:
    """Where nothing goes wrong, the limits are used and kept."""
    if call.faults or call.down or call.stop or call.wall or life.second or life.budget or outcome.errors:
        return []
    settings, number = books.settings, len(bills)
    wrong = too_often_refused(life, books, bills, outcome.seconds)
    if life.slots is not None and life.full_as[0] == 429:  # which is not soon told from a limit
        return wrong
    ideal = 0.0
    for limit, each in (
        (settings.max_requests_per_minute, 1),
        (settings.max_tokens_per_minute, max((sum(bill.tokens) + CAP for bill in bills), default=0)),
    ):
        if limit is not None:
            ideal = max(ideal, 60.0 * number * each / limit)
    waits = [bill.seconds for bill in bills]
    at_once = min(life.given.get("max_concurrent_requests", 500), life.slots or 500)
    at_start = 75.0 if settings.start_level else 150.0  # of an account that others have just used up
    most = 1.5 * ideal + 2 * sum(waits) / at_once + 2 * max(waits, default=0.0) + at_start
    if outcome.seconds > most:
        wrong.append(f"{number} requests took {outcome.seconds:.1f} s, where {most:.1f} s are enough")
    return wrong


def _idle_after_batches(life: Life, call: Call, outcome: Outcome, books: Books) -> list[str]:
    """Where nothing goes wrong, a call that waits is over soon after its batches are."""
    if call.faults or call.down or call.stop or call.wall or call.way != "ask" or life.second or outcome.errors:
        return []
    ends = [batch.moments[-1][0] if batch.moments else max(batch.passed.values()) for batch in books.batches.values()]
    poll = life.batches.options["poll_seconds"]
    most = 120.0 + 20 * poll  # looks at files that are late or short
    late = books.now - max([*ends, books.now - outcome.seconds])
    return [f"the call ended {late:.0f} s after its batches, where {most:.0f} s are enough"] if late > most else []


def _after_stop(life: Life, call: Call, outcome: Outcome, books: Books) -> list[str]:
    """After a stop or a deadline nothing is sent, and what is on its way is not waited for longer than is said."""
    if call.stop not in ("cancel", "cancel_twice", "deadline"):
        return []
    stopped = books.now - outcome.seconds + call.at + (0.01 if call.stop == "deadline" else 0.0)
    late = sum(at > stopped + (MOMENT if life.lane == "ray" else 0.005) for at in books.sent)
    wrong = [f"{late} requests were sent after the {call.stop}"] if late else []
    if books.now > stopped + WAITED_FOR + 1.0:
        wrong.append(f"the call ended {books.now - stopped:.1f} s after the {call.stop}")
    return wrong


def _in_outage(call: Call, outcome: Outcome, books: Books) -> list[str]:
    """Once it is known that the server is away, few requests try whether it is back."""
    if call.down is None:
        return []
    began = books.now - outcome.seconds
    in_vain = [at for at in books.sent if began + call.down[0] < at < began + call.down[1]]
    known = max(began + call.down[0] + SECONDS_TO_NOTICE, min(in_vain, default=0.0) + MOMENT)
    tries = sum(at > known for at in in_vain)
    # A 429 is a matter of the limiter, which tries a lower pace.
    most = MOST_TRIES + (1.5 * (call.down[1] - call.down[0]) if call.down_as == "429" else 0)
    return [f"{tries} requests were sent while the server was away"] if tries > most else []


def _broke(life: Life, outcome: Outcome) -> list[str]:
    """What breaks the server is sent so often as is said, and with rests; packs are split beside that."""
    if life.verb == "embed":
        return []
    wrong = []
    for questions, times in _blamed(outcome).items():
        most = MOST_ATTEMPTS * outcome.wanted[questions[0]]
        if len(times) > most:
            wrong.append(f"{questions} was sent {len(times)} times, where {most} are allowed")
        if len(times) == most == MOST_ATTEMPTS and times[-1] - times[0] < LEAST_RESTS:
            wrong.append(f"{questions} was sent {most} times within {times[-1] - times[0]:.3f} s")
    return wrong


def _blamed(outcome: Outcome) -> dict[tuple[str, ...], list[float]]:
    """When the server broke at what was asked, but for what its sender may take for an outage."""
    blamed: dict[tuple[str, ...], list[float]] = {}
    since: dict[tuple[str, str], Counter[tuple[str, ...]]] = {}  # the last answer, by sender
    for sender, questions, at, broke in outcome.came:
        broken = since.setdefault(sender, Counter())
        if not broke:
            broken.clear()
            continue
        broken[questions] += 1
        if sum(min(count, outcome.wanted[each[0]]) for each, count in broken.items()) < OUTAGE_OF:
            blamed.setdefault(questions, []).append(at)
    return blamed


def _attempts(life: Life, call: Call, number: int, outcome: Outcome, books: Books) -> list[str]:
    """Each send is told as an attempt, where one run alone has sent all and all has come to its end."""
    if number or life.verb not in ("process", "label") or life.second or outcome.errors:
        return []
    if life.lane in ("batch", "ray") or (life.repair and call.stop == "deadline"):  # which may cut a repair off
        return []
    told = sum(int(frame["attempts"].sum()) for frame in outcome.frames)
    whole = bool(outcome.frames) and not any((frame["status"] == "cancelled").any() for frame in outcome.frames)
    return [f"{told} attempts are told of {len(books.sent)}"] if whole and told != len(books.sent) else []


def _unused_budget(life: Life, call: Call, outcome: Outcome, bills: Sequence[Bill]) -> list[str]:
    """A run whose budget ends it has no room for two more requests; where a fault or a time-out hides the cost, it
    cannot know, and keeps the worst case set aside."""
    most = life.budget.get("budget_tokens")
    if most is None or call.faults or life.second or life.verb == "file" or not outcome.frames:
        return []
    if life.lane in ("batch", "ray") or any(bill.outcome == "left" for bill in bills):
        return []
    if not (outcome.frames[0]["error_code"] == "budget").any():
        return []
    texts = [prompt_tokens(request_for(life, text)) for text in life.texts if text is not None]
    spent = sum(sum(bill.tokens) for bill in bills)
    largest = max([*texts, *(bill.tokens[0] for bill in bills)]) + CAP
    return [f"the budget ended the run at {spent} tokens of {most}"] if spent + 2 * largest < most else []


def damaged(lines: Sequence[bytes]) -> list[str]:
    """What is left of torn lines, which the next to write cuts off."""
    wrong = []
    for line in lines:
        try:
            orjson.loads(line or b"0")
        except orjson.JSONDecodeError:
            wrong.append(f"a line of the journal is damaged: {line[:80]!r}")
    return wrong


def _beyond_budget(life: Life, bills: Sequence[Bill]) -> list[str]:
    usd, tokens = sum(bill.usd for bill in bills), sum(sum(bill.tokens) for bill in bills)
    runs = 2 if life.second in ("same client", "other model") else 1
    wrong = []
    if usd > runs * life.budget.get("budget_usd", 1e9) + 1e-12:
        wrong.append(f"${usd:.6f} were billed within {life.budget}")
    if tokens > runs * life.budget.get("budget_tokens", 1e12):
        wrong.append(f"{tokens} tokens were billed within {life.budget}")
    return wrong
