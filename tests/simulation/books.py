"""What outlives the client's process: the account, its bills, and what the server stores."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.settings import Settings
from tests.simulation.life import Life


@dataclass
class Bill:
    """What one request cost.

    Attributes:
        sent_in: the number of the call that sent it.
        question: digests of what was asked, one for each input.
        tokens: of the prompt and of the answer.
        usd: dollars.
        told: whether the answer said what it cost.
        outcome: `working`, then `delivered`; or `lost` where no whole answer came, `left` where it was not waited for.
        due: when the answer is whole.
        came_in: the number of the call to which it was delivered.
        good: whether the answer, where it is delivered, is one.
        turn: of the loop, when it was delivered.
        seconds: that the server took for it.
        batch_id: the batch that it was answered in.
    """

    sent_in: int
    question: tuple[str, ...]
    tokens: tuple[int, int]
    usd: float
    told: bool = True
    outcome: str = "working"
    came_in: int | None = None
    good: bool = True
    turn: int = 0
    seconds: float = 0.0
    due: float = 0.0
    batch_id: str | None = None

    def deliver(self, call: int, turn: int) -> None:
        self.outcome, self.came_in, self.turn = "delivered", call, turn


@dataclass
class StoredFile:
    """A file at the server."""

    id: str
    name: str
    purpose: str
    lines: list[tuple[bytes, Bill | None]]  # each with the bill of the answer in it
    downloads: int = 0
    is_gone: bool = False

    @property
    def content(self) -> bytes:
        return b"".join(line for line, _ in self.lines)

    def lose(self) -> None:
        self.is_gone = True
        for _, bill in self.lines:
            if bill is not None:
                bill.outcome = "lost"


@dataclass
class Batch:
    """A batch at the server; moments are those of the loop.

    Attributes:
        sent_in: the number of the call that made it.
        rows: its lines, each with the questions that it asks.
        moments: when it passes to which state, the first of them first.
        status: the state that it is in.
        counts: of its rows: those that were answered, and those that failed.
        looks: since it has ended.
        is_lost: the server knows it no more.
        row_faults: the probability of each fault of a row.
    """

    id: str
    input_file_id: str
    path: str
    metadata: dict[str, str]
    sent_in: int
    made_at: float
    rows: list[tuple[dict[str, Any], tuple[str, ...]]]
    moments: list[tuple[float, str]]
    tokens: int = 0
    status: str = "validating"
    counts: list[int] = field(default_factory=lambda: [0, 0])
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    passed: dict[str, float] = field(default_factory=dict)
    looks: int = 0
    is_lost: bool = False
    is_cancelled: bool = False
    row_faults: dict[str, float] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


@dataclass
class Books:
    """All of it.

    Attributes:
        kept: good answers in the journals when the call began.
        refused, full: when the limits refused in this call, and when it was for want of a slot.
        ahead: seconds by which the wall's clock was set forward.
        freed_in: the last call in which a full disk had room again.
        taken_again: the last call that took answers out of a batch which an earlier one had, and could not keep.
    """

    now: float
    lot: random.Random
    settings: Settings
    accounts: dict[str, Account] = field(default_factory=dict)
    bills: list[Bill] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    refused: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    ahead: float = 0.0
    taken_again: int = -1
    freed_in: int = -1

    def account(self, model: str) -> Account:
        """Each model has limits of its own."""
        if model not in self.accounts:
            self.accounts[model] = Account(self.settings, now=0.0)
        return self.accounts[model]

    def owed(self, question: str) -> int:
        """Answers to a question that batches give or will give, and no call has taken yet."""
        answered = sum(
            question in bill.question
            for bill in self.bills
            if bill.batch_id is not None and bill.good and bill.outcome == "working"
            if not self.batches[bill.batch_id].is_lost
        )
        waiting = sum(
            question in questions
            for batch in self.batches.values()
            if not batch.has_ended and not batch.is_lost
            for _, questions in batch.rows
        )
        return answered + waiting


def books_of(life: Life) -> Books:
    return Books(0.0, random.Random(life.seed + 1), Settings(**life.limits))
