"""How many requests a server takes at once, where it refuses more whatever the rate."""

from __future__ import annotations

from typing import Literal

INFINITY = float("inf")
#: A refusal that asks all to wait for longer than so many seconds is worth the experiment.
LONG_WAIT = 2.0
#: It ends so many seconds before the wait does: a server that rounds them up takes requests again by then.
ROUNDED_UP = 1.0
#: So many requests accepted while all were to wait show that the server was full, and not the rate used up. So do as
#: many refusals of more than the level, less one for each time that more was accepted.
PROOF = 3
#: Without it, so many refusals at the same number in flight show it, if one less was accepted between them and never as
#: many. Larger numbers than this are near each other by chance too, where a rate refuses.
ALIKE = 3
FEW_ENOUGH = 16
#: A doubt is a refusal with no more in flight than the level, or an answer with as many in flight as were refused at
#: first. One may be a matter of milliseconds. After DOUBTS of them the level falls by one, or slots are given up if the
#: level is not proven. FORGIVEN_BY answers make up for one doubt, and so does a refusal of more than the level, for
#: MOST_TRUST doubts in advance at the most.
DOUBTS = 2.0
MOST_TRUST = 2.0
FORGIVEN_BY = 20.0
#: Slots explain no refusal with fewer in flight than the level, by this share of it and by so many at least. After so
#: many of them, or once the level has fallen by so many, it is given up.
FAR = 0.25
LEAST_FAR = 3
MOST_FAR = 2
MOST_FALLS = 3
#: Each time that slots were given up, it takes so many more refusals with no answer between them to suspect them again.
MORE_IN_A_ROW = 2
#: One more is tried after so many answers for each slot; twice as many after each time that it was refused.
FIRST_LOOK, LAST_LOOK = 2.0, 64.0
#: One more goes out after so many seconds without news, and so many times the longest answer: those in flight may hang.
PATIENCE_SECONDS = 30.0
PATIENCE_ANSWERS = 3.0


class Slots:
    """The number of requests in flight beyond which a server refuses, learned from what it accepts and refuses.

    A refusal that holds nobody back (503) is tried on the spot: no more may be in flight than were left, and soon one
    more, then two, then four are tried. A server with slots refuses the first of them; one that refuses by chance
    accepts as many as it has refused before, and also refuses when few are in flight: either ends the trial.

    A refusal that holds all back (429) is told from that of a rate limit by an experiment: when an answer comes back
    while all are to wait, one request goes out. A full server accepts it, a rate limit refuses it. The more often the
    experiment fails, the more seldom it is made. Where the wait is short, it takes some refusals more to see what they
    have in common.

    Attributes:
        level: how many are accepted at once; infinite while nothing suggests a number.
        kept: whether no more may be in flight.
        proven: whether the number is certain.

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
        "_alike",
        "_base",
        "_began",
        "_beyond",
        "_calm",
        "_confirmed",
        "_doubts",
        "_extra",
        "_failures",
        "_far",
        "_fell_at",
        "_full",
        "_in_a_row",
        "_longest",
        "_look",
        "_most",
        "_news_at",
        "_refused",
        "_skip",
        "_step",
        "_tried",
        "_until",
        "kept",
        "level",
        "proven",
    )

    def __init__(self) -> None:
        self._failures = self._skip = 0
        self._alike = 0  # refusals in a row at the same number in flight
        self._refused = 0  # in flight at the last of them
        self._most = 0  # accepted at once, by the answers since then
        self._news_at, self._longest = -INFINITY, 0.0
        self._in_a_row = 0  # refusals that hold nobody back, since the last answer
        self._begin(INFINITY, -INFINITY, -INFINITY)

    def _begin(self, level: float, began: float, until: float) -> None:
        self.level, self.kept, self.proven = level, False, False
        self._began, self._until = began, until  # of the experiment
        self._tried = self._accepted = 0
        self._full = INFINITY  # in flight at the last refusal, until an answer comes back
        self._look, self._step, self._extra = FIRST_LOOK * level, 1, 0
        self._doubts = self._calm = 0.0
        self._beyond = INFINITY  # in flight at the refusal that held nobody back, by which slots were suspected
        self._base = level  # the level before it was last raised
        self._fell_at = began
        self._far = self._confirmed = 0

    def seconds_until_room(self, in_flight: int, now: float) -> float:
        """Seconds until another request may go out, if nothing comes back meanwhile: 0 if it may now."""
        if not self.kept or in_flight < min(self.level + self._extra, self._full):
            return 0.0
        return max(0.0, self._news_at + max(PATIENCE_SECONDS, PATIENCE_ANSWERS * self._longest) - now)

    def suspect(self, in_flight: int, *, left: int, at: float, wait: float) -> None:
        """Learn from a refusal that makes all wait for so many seconds.

        The refused request was sent with so many in flight, itself among them. So many are left, and the refusal came
        at that moment.
        """
        if not left or in_flight < 2:
            self._alike = 0
            return
        self._compare(in_flight)
        if self._alike >= ALIKE + self._failures:
            self._begin(in_flight - 1, at, at)
            self.kept = self.proven = True
        elif wait > LONG_WAIT and not self._skip:
            self._begin(left, at, at + wait - ROUNDED_UP)
        elif wait > LONG_WAIT:
            self._skip -= 1

    def tries(self, in_flight: int, now: float) -> bool:
        """Whether one may go out for the experiment's sake, though all are to wait: one, and two for each accepted."""
        return self.is_tried(now) and in_flight < self.level and self._tried <= 2 * self._accepted

    def is_tried(self, now: float) -> bool:
        """Whether the experiment is under way."""
        return not self.kept and now < self._until

    def sent(self, now: float) -> None:
        """A request goes out."""
        self._tried += 1
        self._news_at = now

    def accepted(self, in_flight: int, *, at: float, now: float) -> None:
        """A request was accepted that went out at that moment, with so many in flight, itself among them."""
        self._full, self._news_at, self._in_a_row = INFINITY, now, 0
        self._longest = max(self._longest, now - at)
        self._most = max(self._most, in_flight)
        if self.kept:
            self._weigh(in_flight, now)
        if self.kept:
            self._look_up(in_flight, at)
        elif self._began < at < self._until:
            self._accepted += 1
            self.kept = self.proven = self._accepted >= PROOF

    def refused(self, in_flight: int, *, at: float, now: float, left: int) -> Literal["slots", "experiment"] | None:
        """What explains a 429, after which so many are left in flight: the slots, or that it was the experiment."""
        if self.proven:
            return "slots" if self._explains(in_flight, left, now) else None
        if at <= self._began:  # on its way with the one that is known
            self.level = max(1, min(self.level, left))
            return None
        was_tried, self._until = at < self._until, -INFINITY
        if not was_tried:
            return None
        self._fail()
        return "experiment"

    def overloaded(self, in_flight: int, *, at: float, now: float, left: int) -> bool:
        """Learn from a refusal that holds nobody back; whether slots explain it, so that an answer makes room again."""
        self._news_at = now
        if not self.kept:
            return left > 0 and in_flight > 1 and self._is_kept_from(in_flight, left, now)
        if at <= self._began:  # on its way with the one that is known
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
        self.kept, self._look = True, 1.0  # a single refusal says little: one more is tried at the next answer
        return True

    def _compare(self, in_flight: int) -> None:
        alike = in_flight == self._refused and in_flight - 1 == self._most and in_flight <= FEW_ENOUGH
        self._alike = self._alike + 1 if alike else 1
        self._refused, self._most = in_flight, 0

    def _explains(self, in_flight: int, left: int, now: float) -> bool:
        if _is_far_below(self.level, in_flight):
            self._far += 1
            if self._far >= MOST_FAR:
                self._give_up()
            return False
        self._full = max(1, left)
        if self._extra:
            self._fell_at = now  # which of those that went out together was one more is not known
        if in_flight <= self.level <= left:
            self._trust(0.5)  # as many as the level are left, yet which was refused says nothing
            return True
        if in_flight > self.level:
            self._trust(1.0)
            if self._extra:
                self._look_later()
                self._confirmed += 1
                self.proven = self.proven or self._confirmed >= PROOF
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
            self._confirmed = max(0, self._confirmed - 1)
            self._step *= 2
            self._look = max(1.0, self._look / 2)
            return
        self._calm += 1.0
        if self._calm >= self._look and not self._extra:
            self._extra, self._calm = self._step, 0.0


def _is_far_below(level: float, number: float) -> bool:
    return level - number >= max(LEAST_FAR, FAR * level)
