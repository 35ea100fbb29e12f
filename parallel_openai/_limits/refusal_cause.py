"""Whether a refusal is for the limit's sake, or without a cause that going slower would mend."""

from __future__ import annotations

from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.learning.chance_refusals import Chance
from parallel_openai._limits.learning.refill import Refill

INFINITY = float("inf")
#: Below this share of the fastest pace that lately went well, a lone refusal says nothing about the limit.
CALM = 0.75
#: The fastest pace is forgotten by half in so many seconds.
HALF_LIFE = 60.0
#: So many refusals at a calm pace, and this share of what was sent at one, show a server that refuses whatever the
#: pace. What is older than so many sends counts by half.
CALM_REFUSALS = 2.0
CALM_SHARE = 0.004
CALM_SENDS = 500.0
#: Seconds until a pace is looked for anew that was left without reason; twice as many after each time that it was left.
FIRST_LOOK, LAST_LOOK = 2.0, 30.0
#: So surely there must be more refusals than by chance, where they come by chance too.
SURE = 7.0
#: So surely where it is one of so many first sends that is refused: hardly a bucket holds fewer, and an empty one
#: refuses the next one too. A refusal that asks for more seconds than this is heeded at once.
FIRST_SURE = 3.0
FIRST_SENDS, FIRST_WAIT = 6, 2.0


class Refusals:
    """What a dimension's refusals have in common.

    A full server refuses whoever goes too fast, and then several sends in a row. A gateway that now and then refuses
    without cause does so at any pace, and slowing down for it would never end. It is found out by refusals that no
    bucket explains, or that come at a pace which went well before.

    Attributes:
        count: the sends, which are counted by whoever sends.
        by_chance: whether the server refuses whatever the pace.
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
        self.count, self._seen = count, 0  # sends, and refusals that had to be explained
        self._first = 1  # the send that was refused first
        self._best, self._best_at = 0.0, 0.0
        self._calm_sent = self._calm_refused = 0.0
        self._calm_enough = CALM_REFUSALS
        self._look_at, self._look_after = 0.0, FIRST_LOOK

    @property
    def taken_for_certain(self) -> float:
        """A rate that the server takes, as its refusals tell; 0 while they tell nothing."""
        return 0.0 if self.by_chance else self.refill.lowest

    def sent(self, pace: float, now: float) -> None:
        """The send that was counted last goes out at this pace, which has been measured."""
        if self._is_calm(pace, now):
            self._calm_sent += 1.0
            if self._calm_sent > CALM_SENDS:
                self._calm_sent, self._calm_refused = self._calm_sent / 2, self._calm_refused / 2

    def also_refused(self, mark: BucketState) -> None:
        """A send was refused that went out before the last refusal was known."""
        self.refill.also_refused(mark)

    def also_taken(self, mark: BucketState) -> bool:
        """A send was taken that went out before the last refusal was known; whether that tells of a higher rate."""
        return self._seen > 0 and not self.by_chance and self.refill.also_taken(mark)

    def contradict(self, mark: BucketState, held: float) -> bool:
        """Whether the refusal of a send makes it certain that no bucket refuses so, which had not been known."""
        if not self._seen:
            self._first = mark.number
        self._seen += 1
        if self.refill.is_contradicted:
            return False
        self.refill.refused(mark, held)
        if self.refill.is_contradicted:
            self._find_chance()
        return self.refill.is_contradicted

    def tell(self, number: int, pace: float, now: float, *, pressed: bool, wait: float = 0.0) -> bool:
        """Whether the refusal of a send says something about the limit; `pressed` says that that was made use of."""
        self._chance.refused(number, learns=self.by_chance)
        calm = not pressed or self._is_calm(pace, now)
        if calm:
            self._calm_refused += 1.0
            if self._calm_refused >= self._calm_enough and self._calm_refused >= CALM_SHARE * self._calm_sent:
                self._find_chance()
        first = pace == INFINITY and number <= FIRST_SENDS and wait <= FIRST_WAIT
        if self._chance.excess < (SURE if calm or self.by_chance else FIRST_SURE if first else 0.0):
            return False
        self._chance.excess = 0.0
        if self.by_chance:
            self._doubt_chance(now, pressed=pressed)
        if calm:
            self._best = 0.0  # the limit may have been lowered
        return True

    def look_again(self, now: float) -> bool:
        """Whether it is time to look for the pace anew, since there was no reason to slow down."""
        if not self.by_chance or now < self._look_at:
            return False
        self._look_at = now + LAST_LOOK
        return True

    def _find_chance(self) -> None:
        if not self.by_chance:
            self.by_chance = True
            self._chance.begin(self._seen / max(1, self.count - self._first + 1))

    def _doubt_chance(self, now: float, *, pressed: bool) -> None:
        """There is a limit after all; whether there is chance besides is certain only where no bucket explains it."""
        self._look_at = now + self._look_after
        self._look_after = min(LAST_LOOK, 2.0 * self._look_after)
        if pressed and not self.refill.is_contradicted:
            self.by_chance, self._calm_refused = False, 0.0
            self._calm_enough *= 2.0

    def _is_calm(self, pace: float, now: float) -> bool:
        return pace != INFINITY and pace < max(CALM * self._fastest(pace, now), self.taken_for_certain)

    def _fastest(self, pace: float, now: float) -> float:
        best = self._best * 0.5 ** (max(0.0, now - self._best_at) / HALF_LIFE) if self._best else 0.0
        if pace >= best:
            self._best, self._best_at = pace, now
        return max(pace, best)
