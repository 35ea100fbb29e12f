"""Learns how many requests a server accepts at once, if it refuses more at any rate."""

from __future__ import annotations

from collections import deque
from typing import Literal

from parallel_openai._limits.learning.crowding import Crowding

INFINITY = float("inf")
#: A refusal that asks all to wait for longer than this many seconds is worth an experiment.
LONG_WAIT = 2.0
#: The experiment ends this many seconds before the wait does, as a server that rounds it up accepts requests by then.
ROUNDED_UP = 1.0
#: If this many requests are accepted while all were to wait, the server was full, and the rate was not used up.
PROOF = 3
#: Without an experiment it is shown by `Crowding.evidence`, if it is as great. Refusals that may be due to a rate must
#: be REFUSALS at the least, and with FEW_ENOUGH slots or more there must be an answer to each refusal for three in four
#: slots: when a high rate is first reached, all that is refused has more in flight than what was accepted. (Not for
#: each slot, since while all pause after a refusal, each slot answers only once.)
SURE = 8.0
#: What a server says is not heeded only if the evidence is as great as this.
SURER = 16.0
REFUSALS = 3
FEW_ENOUGH = 16
#: A doubt is a refusal with no more in flight than the level, or an answer with as many in flight as at the first
#: refusal. A single one may be a matter of milliseconds. After DOUBTS of them the level falls by one, or, if it is not
#: proven, slots are given up. One doubt is offset by FORGIVEN_BY answers, or by one refusal of more than the level; at
#: most MOST_TRUST doubts are offset in advance.
DOUBTS = 2.0
MOST_TRUST = 2.0
FORGIVEN_BY = 20.0
#: A refusal is not due to slots if the number in flight is below the level by the share FAR of it, and at least by
#: LEAST_FAR. After MOST_FAR such refusals, or once the level has fallen by MOST_FALLS, slots are given up.
FAR = 0.25
LEAST_FAR = 3
MOST_FAR = 2
MOST_FALLS = 3
#: Each time slots were given up, suspecting them again takes this many more refusals without an answer in between.
MORE_IN_A_ROW = 2
#: One more request is tried after this many answers for each slot; twice as many after each refusal of one more.
FIRST_LOOK, LAST_LOOK = 2.0, 64.0
#: One more goes out after this many seconds without news, or this many times the longest answer, as some may hang.
PATIENCE_SECONDS = 30.0
PATIENCE_ANSWERS = 3.0
#: Answers that are remembered: more than come while one request is on its way.
MOST_ANSWERS = 2000


class Slots:
    """The number of requests in flight beyond which a server refuses, learned from what it accepts and refuses.

    After a refusal that makes nobody wait (503), the number of requests left in flight becomes the level at once, and
    soon one more, then two, then four are tried. A server with slots refuses the first of these. One that refuses by
    chance accepts as many as it refused before, and also refuses with few in flight; either ends the trial.

    After a refusal that makes all wait (429), an experiment tells slots from a rate limit: when an answer comes back
    during the wait, one request is sent. A full server accepts it, a rate limit refuses it. The more often the
    experiment fails, the less often it is made.

    Slots are certain once they explain the refusals much better than chance does: see `Crowding`.

    Attributes:
        level: how many requests are accepted at once; infinite while nothing suggests a number.
        kept: whether the level is observed.
        proven: whether the level is certain.
        answers: when the last answers came, noted by the caller.

    >>> slots = Slots()
    >>> slots.suspect(in_flight=5, left=4, at=1.0, wait=60.0)
    >>> slots.tries(in_flight=4, now=1.1), slots.tries(in_flight=3, now=1.2)
    (False, True)
    >>> for now in (1.2, 1.3, 1.4):
    ...     slots.sent(now); slots.accepted(in_flight=4, at=now, now=now + 0.1)
    >>> slots.proven, slots.level
    (True, 4)
    >>> full = Slots()
    >>> full.overloaded(in_flight=5, at=1.0, now=1.1, left=4), full.kept, full.proven, full.level
    (True, True, False, 4)
    """

    __slots__ = (
        "_accepted",
        "_base",
        "_began",
        "_beyond",
        "_calm",
        "_crowding",
        "_doubts",
        "_extra",
        "_failures",
        "_far",
        "_fell_at",
        "_full",
        "_in_a_row",
        "_longest",
        "_look",
        "_news_at",
        "_skip",
        "_step",
        "_tried",
        "_until",
        "answers",
        "kept",
        "level",
        "proven",
    )

    def __init__(self) -> None:
        self._failures = self._skip = 0
        self.answers: deque[float] = deque(maxlen=MOST_ANSWERS)
        self._crowding = Crowding(self.answers)
        self._news_at, self._longest = -INFINITY, 0.0
        self._in_a_row = 0  # refusals that make nobody wait, since the last answer
        self._begin(INFINITY, -INFINITY, -INFINITY)

    def _begin(self, level: float, began: float, until: float) -> None:
        self.level, self.kept, self.proven = level, False, False
        self._began, self._until = began, until  # of the experiment
        self._tried = self._accepted = 0
        self._full = INFINITY  # in flight at the last refusal, until an answer comes back
        self._look, self._step, self._extra = FIRST_LOOK * level, 1, 0
        self._doubts = self._calm = 0.0
        self._beyond = INFINITY  # in flight at the refusal (one that made nobody wait) by which slots were suspected
        self._base = level  # the level before it was last raised
        self._fell_at = began
        self._far = 0

    @property
    def overrules_waits(self) -> bool:
        """Whether an answer makes room for what a full server told to wait."""
        return self.proven and self._crowding.evidence(self.level) >= SURER

    def seconds_until_room(self, in_flight: int, now: float) -> float:
        """Seconds until another request may be sent if no answer comes meanwhile; 0 if it may be sent now."""
        if not self.kept or in_flight < min(self.level + self._extra, self._full):
            return 0.0
        return max(0.0, self._news_at + max(PATIENCE_SECONDS, PATIENCE_ANSWERS * self._longest) - now)

    def suspect(self, in_flight: int, *, left: int, at: float, wait: float) -> None:
        """Learn from a refusal that makes all wait for `wait` seconds.

        Args:
            in_flight: the requests in flight when the refused one was sent, itself included.
            left: those still in flight.
            at: the time of the refusal.
        """
        if not left or in_flight < 2:
            return
        if wait > LONG_WAIT and not self._skip:
            self._begin(left, at, at + wait - ROUNDED_UP)
        elif wait > LONG_WAIT:
            self._skip -= 1

    def tries(self, in_flight: int, now: float) -> bool:
        """Whether a request may be sent for the experiment during the wait: one, and two more for each accepted."""
        return self.is_tried(now) and in_flight < self.level and self._tried <= 2 * self._accepted

    def is_tried(self, now: float) -> bool:
        """Whether the experiment is going on."""
        return not self.kept and now < self._until

    def sent(self, now: float) -> None:
        """Note that a request is sent."""
        self._tried += 1
        self._news_at = now

    def accepted(self, in_flight: int, *, at: float, now: float) -> None:
        """Learn that a request sent at the time `at`, with `in_flight` in flight (itself included), was accepted."""
        self._full, self._news_at, self._in_a_row = INFINITY, now, 0
        self._longest = max(self._longest, now - at)
        if self._crowding.number and not self.proven:
            self._prove(self.level if self.kept else self._crowding.number - 1, now)
        self._crowding.accepted(in_flight, at=at, now=now)
        if self.kept:
            self._weigh(in_flight, now)
        if self.kept:
            self._look_up(in_flight, at)
        elif self._began < at < self._until:
            self._accepted += 1
            self.kept = self.proven = self._accepted >= PROOF

    def refused(self, in_flight: int, *, at: float, now: float, left: int) -> Literal["slots", "experiment"] | None:
        """What explains a 429 after which `left` requests are in flight: slots, or that it was the experiment."""
        self._crowding.refused(in_flight, at=at, now=now, left=left)
        if self.proven:
            return "slots" if self._explains(in_flight, left, now) else None
        if at <= self._began:  # in flight together with the refusal that is known
            self.level = max(1, min(self.level, left))
            return None
        was_tried, self._until = at < self._until, -INFINITY
        if not was_tried:
            return None
        self._fail()
        return "experiment"

    def overloaded(self, in_flight: int, *, at: float, now: float, left: int) -> bool:
        """Learn from a refusal that makes nobody wait. Returns whether slots explain it: an answer frees one."""
        self._news_at = now
        self._crowding.refused(in_flight, at=at, now=now, left=left)
        if not self.kept:
            return left > 0 and in_flight > 1 and self._is_kept_from(in_flight, left, now)
        if at <= self._began:  # in flight together with the refusal that is known
            self._trust(1.0)
            self.level = self._base = max(1, min(self.level, left))
            return left > 0
        return self._explains(in_flight, left, now)

    def _is_kept_from(self, in_flight: int, level: int, now: float) -> bool:
        self._in_a_row += 1
        if self._in_a_row <= MORE_IN_A_ROW * self._failures:
            return False
        self._begin(level, now, now)
        self._beyond = in_flight
        self.kept, self._look = True, 1.0  # a single refusal says little, so one more is tried at the next answer
        return True

    def _prove(self, level: float, now: float) -> None:
        if level < 1 or self._crowding.evidence(level) < SURE:
            return
        if not self.kept:
            refused, taken = self._crowding.refused_and_taken(level)
            if refused < REFUSALS + self._failures or (level >= FEW_ENOUGH and 4 * taken < 3 * level * refused):
                return
            self._begin(level, now, now)
            self._look = min(LAST_LOOK, FIRST_LOOK * 2.0**refused) * level  # so often one more was refused already
        self.kept = self.proven = True

    def _explains(self, in_flight: int, left: int, now: float) -> bool:
        if _is_far_below(self.level, in_flight):
            self._far += 1
            if self._far >= MOST_FAR:
                self._give_up()
            return False
        self._full = max(1, left)
        if not self.proven and self._crowding.evidence(self.level - 1) > self._crowding.evidence(self.level) + SURE:
            self._fall(now)
            return self.kept and left > 0
        if self._extra:
            self._fell_at = now  # of the requests sent together, it is unknown which was the extra one
        if in_flight <= self.level <= left:
            self._trust(0.5)  # as many as the level are still in flight, though another one was refused
            return True
        if in_flight > self.level:
            self._trust(1.0)
            if self._extra:
                self._look_later()
                self._prove(self.level, now)
            return left > 0
        self._doubt(now)
        return self.kept and left > 0

    def _weigh(self, in_flight: int, now: float) -> None:
        if in_flight >= self._beyond and not self.proven:
            self._doubt(now)
        else:
            self._trust(1.0 / FORGIVEN_BY)

    def _trust(self, by: float) -> None:
        self._doubts = max(0.0 if self.proven else -MOST_TRUST, self._doubts - by)

    def _doubt(self, now: float) -> None:
        self._doubts += 1.0
        if self._doubts < DOUBTS:
            return
        if self._beyond < INFINITY and not self.proven:
            self._give_up()
        else:
            self._fall(now)

    def _fall(self, now: float) -> None:
        self.level, self._doubts, self._fell_at = self.level - 1, 0.0, now
        self._look_later()
        if self.level < 1 or self._base - self.level >= MOST_FALLS:
            self._give_up()

    def _give_up(self) -> None:
        self._begin(INFINITY, -INFINITY, -INFINITY)
        self._crowding = Crowding(self.answers)  # what it counted has misled
        self._fail()

    def _fail(self) -> None:
        self._failures += 1
        self._skip = 2**self._failures - 1

    def _look_later(self) -> None:
        self._extra, self._step, self._calm = 0, 1, 0.0
        self._look = min(LAST_LOOK * self.level, 2.0 * self._look)

    def _look_up(self, in_flight: int, at: float) -> None:
        if self._extra and in_flight > self.level and at > self._fell_at:
            self._base, self.level, self._extra, self._calm = self.level, in_flight, 0, 0.0
            self._step *= 2
            self._look = max(1.0, self._look / 2)
            return
        self._calm += 1.0
        if self._calm >= self._look and not self._extra:
            self._extra, self._calm = self._step, 0.0


def _is_far_below(level: float, number: float) -> bool:
    return level - number >= max(LEAST_FAR, FAR * level)
