"""Tells refusals that are due to a rate limit from refusals by chance, for which slowing down is no help."""

from __future__ import annotations

from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.learning.chance_refusals import FIRST_SHARE, Chance
from parallel_openai._limits.learning.refill import Refill

INFINITY = float("inf")
#: Below this share of the fastest pace that recently went well, a single refusal says nothing about the limit.
CALM = 0.75
#: Seconds in which the memory of the fastest pace fades by half.
HALF_LIFE = 60.0
#: If there are this many refusals at a calm pace, and they are this share of the sends at a calm pace, the server
#: refuses at any pace. The counts are halved after each CALM_SENDS sends.
CALM_REFUSALS = 2.0
CALM_SHARE = 0.004
CALM_SENDS = 500.0
#: Seconds until the rate is searched again after it was lowered without reason; doubled each time.
FIRST_LOOK, LAST_LOOK = 2.0, 30.0
#: `Chance.excess` above which refusals are due to a limit, at a server that also refuses by chance.
SURE = 7.0
#: The same before any refusal was found to be due to a limit: reached by two refusals in a row after many accepted
#: sends, and by more after few. A refusal that asks to wait for more than FIRST_WAIT seconds is heeded at once.
FIRST_SURE, FIRST_WAIT = 4.0, 2.0


class Refusals:
    """The refusals of one dimension, and what they have in common.

    A server with a limit refuses requests that come too fast, and then several in a row. A gateway that sometimes
    refuses without cause does so at any pace, and slowing down for it would never end. It is recognised by refusals
    that no bucket explains, or that come at a pace which went well before.

    Attributes:
        count: the number of sends, which the caller counts.
        by_chance: whether the server refuses at any pace.
    """

    __slots__ = (
        "_best",
        "_best_at",
        "_calm_enough",
        "_calm_refused",
        "_calm_sent",
        "_chance",
        "_first",
        "_look_after",
        "_look_at",
        "_seen",
        "by_chance",
        "count",
        "refill",
    )

    def __init__(self, count: int = 0) -> None:
        self.by_chance = False
        self.refill = Refill()
        self._chance = Chance()
        self.count, self._seen = count, 0  # sends, and refusals judged
        self._first = 1  # the number of the first send that was refused
        self._best, self._best_at = 0.0, 0.0
        self._calm_sent = self._calm_refused = 0.0
        self._calm_enough = CALM_REFUSALS
        self._look_at, self._look_after = 0.0, FIRST_LOOK

    @property
    def taken_for_certain(self) -> float:
        """A rate that the server certainly accepts, derived from its refusals; 0 while unknown."""
        return 0.0 if self.by_chance else self.refill.lowest

    def sent(self, pace: float, now: float) -> None:
        """Note that the send counted last goes out at this measured pace."""
        if self._is_calm(pace, now):
            self._calm_sent += 1.0
            if self._calm_sent > CALM_SENDS:
                self._calm_sent, self._calm_refused = self._calm_sent / 2, self._calm_refused / 2

    def also_refused(self, mark: BucketState) -> None:
        """Note the refusal of a send that went out before the last refusal was known."""
        self.refill.also_refused(mark)

    def also_taken(self, mark: BucketState) -> bool:
        """Note an accepted send from before the last refusal was known. Returns whether it proves a higher rate."""
        return self._seen > 0 and not self.by_chance and self.refill.also_taken(mark)

    def contradict(self, mark: BucketState, held: float, pace: float = 0.0) -> bool:
        """Note a refusal, as `Refill` does. Returns whether it has just become certain that no bucket explains them."""
        if not self._seen:
            self._first = mark.number
        self._seen += 1
        if self.refill.is_contradicted:
            return False
        self.refill.refused(mark, held, pace)
        if self.refill.is_contradicted:
            self._find_chance()
        return self.refill.is_contradicted

    def tell(
        self, number: int, pace: float, now: float, *, pressed: bool, wait: float = 0.0, is_limited: bool = False
    ) -> bool:
        """Whether a refusal is evidence about the limit.

        Args:
            pressed: whether enough was sent for that.
            is_limited: whether an earlier refusal was due to a limit.
        """
        undecided = not is_limited and pace == INFINITY and wait <= FIRST_WAIT
        self._chance.refused(number, learns=self.by_chance or undecided)
        calm = not pressed or self._is_calm(pace, now)
        if calm:
            self._calm_refused += 1.0
            if self._calm_refused >= self._calm_enough and self._calm_refused >= CALM_SHARE * self._calm_sent:
                self._find_chance()
        if self._chance.excess < (SURE if calm or self.by_chance else FIRST_SURE if undecided else 0.0):
            return False
        self._chance.excess = 0.0
        if undecided:
            self._chance.share = FIRST_SHARE  # those were the limit's
        if self.by_chance:
            self._doubt_chance(now, pressed=pressed)
        if calm:
            self._best = 0.0  # the limit may have been lowered
        return True

    def look_again(self, now: float) -> bool:
        """Whether it is time to search for the rate again, as the refusals were by chance."""
        if not self.by_chance or now < self._look_at:
            return False
        self._look_at = now + LAST_LOOK
        return True

    def _find_chance(self) -> None:
        if not self.by_chance:
            self.by_chance = True
            self._chance.begin(self._seen / max(1, self.count - self._first + 1))

    def _doubt_chance(self, now: float, *, pressed: bool) -> None:
        """Note that there is a limit after all. Unless the refusals contradict each other, chance is then unproven."""
        self._look_at = now + self._look_after
        self._look_after = min(LAST_LOOK, 2.0 * self._look_after)
        if pressed and not self.refill.is_contradicted:
            self.by_chance, self._calm_refused = False, 0.0
            self._calm_enough *= 2.0

    def _is_calm(self, pace: float, now: float) -> bool:
        """Whether a pace is well below the fastest one of late, which fades."""
        if pace == INFINITY:
            return False
        best = self._best * 0.5 ** (max(0.0, now - self._best_at) / HALF_LIFE) if self._best else 0.0
        if pace >= best:
            self._best, self._best_at = pace, now
        return pace < CALM * best or (self._seen > 0 and pace < self.taken_for_certain)
