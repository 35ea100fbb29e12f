"""One dimension of a limit, as the server is thought to keep it.

What is known of a server's bucket is pieced together from four sources, in this order of trust: what it shows on its
answers, what it refuses, what the caller gave, and what has been sent. The level is a ledger of our own charges and
the refill, moved by a shift so that it agrees with what the server showed last.
"""

from __future__ import annotations

from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState, Bunch
from parallel_openai._limits.learning.search import RateSearch
from parallel_openai._limits.learning.used_up import UsedUp
from parallel_openai._limits.refusal_cause import Refusals

#: Seconds of the rate that a server's bucket is thought to hold before it has shown or refused anything.
USUAL_WINDOW = 60.0
#: Shorter windows in use behind limits that are written per minute. A burst that grows past one of them stops there
#: until a few requests beyond it have been answered, so that finding such a window costs a few refusals and no storm.
SHORT_WINDOWS = (1.0, 10.0)
PROBES = 3.0
#: Requests that may go out at once before the first answer, and how the burst may grow over what has been answered.
FIRST_BURST = 16.0
BURST_GROWTH = 1.25
#: Kept back in the server's bucket, so that a latency's worth of surprises meets no empty one: a share of what it
#: holds, and seconds of its rate, whichever is less. It is set aside once, not lost again and again.
CUSHION_SHARE = 0.05
CUSHION_SECONDS = 0.5
#: What is known grows old: so much of the refill since the last figure is not counted on.
DOUBT = 0.1
#: ... for so many seconds at the most: a doubt that outgrew the refill would never let anything be sent again.
LONGEST_DOUBT = 10.0
#: The cushion is doubled when the server refuses what it was thought to hold, up to so many times itself; half of the
#: excess is gone in so many seconds.
MOST_CAUTION = 8.0
CAUTION_HALF_LIFE = 20.0
#: While the server makes us wait, others may go on: so much of the refill is counted on until its next figure.
HELD_SHARE = 0.5
#: Seconds that requests may bunch together on their way; a bucket that holds a single request minds a millisecond.
JITTER = 0.01
#: Requests that go out within so many seconds may overtake each other, so that what is shown for one of them may be off
#: by all of them: a standard deviation of 0.3 of what they cost together, as of an even distribution.
TOGETHER_SECONDS = 0.05
OVERTAKEN = 0.3
#: How far the level wanders off by others' doing: a standard deviation in seconds of the rate, after one second.
WANDER = 0.05
#: Seconds between two looks at how much others draw.
DRIFT_SECONDS = 1.0
NEARLY_FULL = 0.8
#: Seconds of the rate that may go out at once where only refusals tell what the server holds.
PACE_BURST = 0.1

#: A refusal at less than this share of the rate was not for the limit's sake, whatever it says.
PRESSED = 0.5
#: Waits are not cut finer than this; a wait that falls short by a rounding error would be slept again and again.
SHORTEST_WAIT = 0.001
#: What the books cannot tell from nothing, as a share of their figures: after a limit of 10^9 these are large, and to
#: wait for less would never end.
ROUNDING = 1e-14

INFINITY = float("inf")


class Bucket:
    """A bucket of capacity that refills at a steady rate; it may go into debt for a charge larger than itself.

    Args:
        limit: capacity per minute; None while it is unknown.
        burst: seconds of the rate that the bucket holds when full; None: found out.
        now: the clock's reading, in seconds.

    >>> bucket = Bucket(60, burst=2, now=0.0)
    >>> mark = bucket.charge(2, 0.0)
    >>> round(bucket.seconds_until(1, 0.0), 2)  # one request, a cushion of 5 %, and a jitter of 10 ms
    1.11
    """

    __slots__ = (
        "_began",
        "_bunch",
        "_caution",
        "_drift_at",
        "_drift_shift",
        "_epoch_end",
        "_finer",
        "_given",
        "_held",
        "_held_in_all",
        "_pace",
        "_recent",
        "_recent_at",
        "_refusals",
        "_refused_at",
        "_shown_at",
        "_used_up",
        "_variance",
        "_whole_at",
        "_whole_sent",
        "burst",
        "capacity",
        "drift",
        "fill",
        "held_until",
        "ledger",
        "limit",
        "period",
        "probing",
        "proven",
        "rate",
        "seen",
        "sent",
        "share",
        "shift",
        "shown_rate",
        "trusted",
        "updated",
    )

    def __init__(self, limit: float | None, *, burst: float | None, now: float) -> None:
        self.burst = burst
        self.limit: float | None = None
        self.period = 60.0
        self.shown_rate = INFINITY  # as given or shown, per second
        self.share = 1.0  # this process's part of it, where several share an account
        self.rate = INFINITY  # as used: the shown one, or less where the server takes less
        self.capacity = INFINITY
        self.ledger = 0.0  # minus all charges, plus the refill
        self.shift = INFINITY  # what the ledger lacks to be the level
        self.drift = 0.0  # what others draw, per second
        self.fill = 0.0  # how far we are above a steady pace
        self.proven = 0.0  # the highest fill that was accepted
        self.probing = burst is None  # whether the window is still to be found
        self.trusted = True  # whether what the server shows is what it enforces
        self.seen = False  # whether it has shown anything
        self.sent = 0.0
        self.updated = now
        self.held_until = now
        self._variance = INFINITY  # of the shift
        self._bunch = Bunch(now)
        self._drift_at, self._drift_shift = INFINITY, 0.0
        self._pace = RateSearch(now)
        self._refusals = Refusals()
        self._used_up = UsedUp()
        self._given = INFINITY if limit is None else limit / 60.0  # more than this the caller does not want
        self._epoch_end = -INFINITY  # the moment of the last refusal that was dealt with
        self._finer = False  # whether a shorter limit refuses than the hour's or the day's that is shown
        self._began = now
        self._whole_at, self._whole_sent = INFINITY, 0.0
        self._shown_at = now
        self._held = self._held_in_all = 0.0  # seconds, at the last refusal and at all of them
        self._recent, self._recent_at = 0.0, now  # what was sent, halved with each second that passes
        self._caution, self._refused_at = 1.0, now
        if limit is not None:
            self.set_limit(limit, now)

    @property
    def level(self) -> float:
        """What the server's bucket is thought to hold."""
        return self.ledger + self.shift

    @property
    def known(self) -> bool:
        """Whether there is a rate to go by."""
        return self.rate != INFINITY

    @property
    def _measured_pace(self) -> float:
        """The rate in use, once it has been measured or was told; infinite while it is being looked for."""
        return self.rate if self._pace.is_settled or self.limit is not None else INFINITY

    def set_limit(self, limit: float, now: float, *, period: float = 60.0) -> None:
        """Take over a limit, given by hand or shown by the server; what the bucket holds is kept within it."""
        self.refill(now)
        if self._finer and period > 60.0:
            self.limit, self.period = limit, period
            return
        self._finer = False
        first, old_rate = self.limit is None or self.shown_rate == INFINITY, self.shown_rate
        self.limit, self.period, self.shown_rate = limit, period, self.share * limit / period
        self.rate = min(self.shown_rate, self._pace.rate)
        if first or self.capacity == INFINITY:
            self.capacity = max(
                1.0, self.shown_rate * (self.burst if self.burst is not None else max(USUAL_WINDOW, period))
            )
            self.shift = min(self.shift, self.capacity - self.ledger)
            self.fill = max(0.0, self.fill - self.rate * (now - self._began))
        else:
            self.capacity = max(1.0, self.capacity * self.shown_rate / old_rate)
            self.proven *= self.shown_rate / old_rate
        self._clip()

    def told(self, limit: float, now: float) -> None:
        """The server says its limit, and nothing of what is left of it."""
        if limit != self.limit and limit / 60.0 <= self._given * 1.001:
            self.set_limit(limit, now)

    def set_share(self, share: float, now: float) -> None:
        """Use this part of the limit from now on; the rest is used by others who say so."""
        if share != self.share:
            self.share = share
            if self.limit is not None:
                self.set_limit(self.limit, now, period=self.period)

    def refill(self, now: float) -> None:
        elapsed = now - self.updated
        if elapsed <= 0:
            return
        self.updated = now
        if self.rate == INFINITY:
            return
        if self._pace.rate != INFINITY:
            self._pace.grow(now)
            self.rate = min(self.shown_rate, self._pace.rate)
        self.fill = max(0.0, self.fill - self.rate * elapsed)
        if self.seen and self.trusted and now <= self.held_until:
            elapsed *= HELD_SHARE
        self.ledger += (self.rate - self.drift) * elapsed
        if now >= self._whole_at:
            self._fill_up()
        self._clip()

    def seconds_until(self, cost: float, now: float, *, heeds_hold: bool = True) -> float:
        """Seconds until a charge of that cost may be sent: 0 when it may be now; infinity when only news can tell."""
        wait = self.held_until - now if heeds_hold else 0.0
        if self.rate != INFINITY and not self._used_up.is_test_due:
            self.refill(now)
            # A charge larger than the whole bucket is let through when the bucket is full, and leaves a debt.
            slack = min(self.rate * JITTER, self.capacity)
            short = min(cost + self._cushion(now), self.capacity) + slack - (self.ledger + self.shift)
            if self.probing:
                short = max(short, self.fill + cost - max(cost, self._reach(cost)))
            if short > ROUNDING * abs(self.ledger):
                # The doubt about what is known grows with the time, and eats some of the refill.
                refill = self.rate * (1.0 - DOUBT if self.seen and self.trusted else 1.0) - self.drift
                until_whole = self._whole_at - now if self.trusted else INFINITY
                wait = max(wait, min(short / max(refill, self.rate * 0.05), until_whole))
        return max(wait, SHORTEST_WAIT) if wait > 1e-9 else 0.0

    def _fill_up(self) -> None:
        """The moment has passed when the bucket was to be whole again, but for what has been sent since it said so."""
        self._whole_at = INFINITY
        self.drift = 0.0
        self.ledger = max(self.ledger, self.capacity - (self.sent - self._whole_sent) - self.shift)

    def charge(self, cost: float, now: float) -> BucketState:
        if self.rate != INFINITY and now > self.updated:  # as it is not where it was looked at right before
            self.refill(now)
        if self.sent == 0.0:
            self._began = now
            self._pace.begin(now)
        self.sent += cost
        self._recent = self._recent * 0.5 ** (now - self._recent_at) + cost
        self._recent_at = now
        self.fill += cost
        self.ledger -= cost
        if now - self._bunch.began > TOGETHER_SECONDS:
            self._bunch = Bunch(now)
        self._bunch.total += cost
        self._bunch.sent = self.sent
        self._refusals.count += 1
        if self.limit is not None or self._pace.is_settled:
            self._refusals.sent(self.rate, now)
        if self._used_up.is_test_due:
            self._used_up.tests(self._refusals.count)
        return BucketState(now, cost, self.ledger, self.fill, self.sent, self._bunch, self._refusals.count)

    def adjust(self, amount: float) -> None:
        """Charge more (or, negative, less) for what was sent before."""
        self.ledger -= amount
        self.fill = max(0.0, self.fill + amount)
        self._clip()

    def accepted(self, mark: BucketState, shown: Allowance | None, now: float) -> None:
        """The server took the charge; `shown` is what it showed then."""
        if self.rate != INFINITY:
            self.refill(now)
        self.proven = max(self.proven, mark.fill)
        is_used_up = shown is not None and shown.remaining < 1.0
        if shown is not None and not (is_used_up and self._used_up.ignores(shown)):
            self._follow(shown, mark, now, charged=True)
            if (is_used_up or self._used_up.count) and self._used_up.accepted(mark, shown, self.rate, now):
                self._disbelieve(now)
        elif mark.at <= self._epoch_end and self._refusals.also_taken(mark) and now < self.held_until:
            self._pace.at_least(self._refusals.taken_for_certain)
            self.rate = min(self.shown_rate, self._pace.rate)
            self.held_until = now

    def refused(
        self, mark: BucketState, shown: Allowance | None, now: float, *, blamed: bool, wait: float, most: float
    ) -> bool:
        """The server refused; `blamed` says that it was for this dimension, and then it is held for `wait` seconds.

        `most` is what the refused request may have cost at the most, by whatever rule the server counts. Gives whether
        it is held for the sake of a limit that the server does not show.
        """
        self.refill(now)
        self._used_up.refused(mark)
        if mark.at > self._epoch_end:  # what was sent before the last refusal is in the level that was set then
            self.adjust(-mark.cost)
        if shown is not None:
            self._follow(shown, mark, now, charged=False)
        if not blamed:
            return False
        if mark.at <= self._epoch_end:  # sent before the refusal that has been dealt with
            self.also_refused(mark, now, wait)
            return False
        self._pace.refused += mark.cost
        explained = shown is not None and self.trusted and shown.remaining < most + 1
        finds_window = self.probing and self.limit is not None
        if not explained and not finds_window and not self._is_limits(mark, now, wait):
            return False  # without cause: only its row has to wait
        self.hold(now + wait)
        self._held = wait
        self._held_in_all += wait
        self._epoch_end = now
        if shown is not None and explained:
            self.shift = min(self.shift, shown.remaining - self.ledger)
            self._variance = max(self._variance, mark.cost**2)
            self._caution = min(MOST_CAUTION, 2.0 * self._caution)
            self._refused_at = now
            return False  # what it shows explains the refusal: nothing more to learn
        if self._refusals.by_chance or self._was_pressed(mark, now):
            self._learn_from_refusal(mark, shown, now)
        return True

    def also_refused(self, mark: BucketState, now: float, wait: float) -> None:
        """A refusal that tells nothing new."""
        self._pace.refused += mark.cost
        self._refusals.also_refused(mark)
        self.hold(now + wait)

    def forget_refusals(self, now: float) -> None:
        """What was refused was not for this limit's sake: neither wait for it nor go slowly."""
        self.held_until = now
        self._pace, self._refusals = RateSearch(now), Refusals(self._refusals.count)
        self.trusted, self.rate = True, self.shown_rate
        if self.limit is None:
            self.capacity = self.shift = INFINITY
        elif self.burst is None and not self.seen:
            self.probing, self.proven = True, 0.0
            self.capacity = max(1.0, self.rate * max(USUAL_WINDOW, self.period))

    def _disbelieve(self, now: float) -> None:
        """Go by what the caller gave and by refusals alone, as if nothing had been shown."""
        self.limit, self.period, self.seen, self._whole_at = None, 60.0, False, INFINITY
        self.shown_rate = self.capacity = self.shift = self._variance = INFINITY
        self.rate, self.drift = self._pace.rate, 0.0
        if self._given != INFINITY:
            self.set_limit(60.0 * self._given, now)

    def _is_limits(self, mark: BucketState, now: float, wait: float) -> bool:
        """Whether a refusal that nothing shown explains is for the limit's sake."""
        refusals = self._refusals
        if refusals.contradict(mark, self._held_in_all):
            self.held_until = now
            self._search(least=max(refusals.refill.lowest, FIRST_BURST * mark.cost), now=now)
            return False
        pressed = self._was_pressed(mark, now)
        if refusals.tell(mark.number, self._measured_pace, now, pressed=pressed, wait=wait):
            return True
        if refusals.look_again(now):
            self._search(least=0.0, now=now)
        return False

    def _search(self, *, least: float, now: float) -> None:
        """Look for the pace again, from what is known to be taken at least."""
        if self._pace.rate != INFINITY:
            self._pace.look_again(now, least)
            self.rate = min(self.shown_rate, self._pace.rate)

    def _was_pressed(self, mark: BucketState, now: float) -> bool:
        """Whether so much was sent that the refusal says something; gateways also refuse for reasons of their own."""
        if self.limit is None:
            return True
        return max(self.recent_rate(now), mark.fill) >= PRESSED * self.rate

    def recent_rate(self, now: float) -> float:
        """How much was lately sent, per second."""
        recent: float = 0.69 * self._recent * 0.5 ** (now - self._recent_at)  # 0.69 = ln 2 makes a rate of it
        return recent

    def hold(self, until: float) -> None:
        """Send nothing of this dimension before a moment: the server said so."""
        self.held_until = max(self.held_until, until)
        self._pace.pause(until)

    def _reach(self, cost: float) -> float:
        """How high the fill may go, while it is not sure what the server's window is."""
        reach = FIRST_BURST * cost + BURST_GROWTH * self.proven
        for window in SHORT_WINDOWS:
            whole = self.rate * window
            if self.proven < whole + 1:
                return min(reach, whole + PROBES * cost)
        return reach

    def _cushion(self, now: float) -> float:
        cushion = min(self.capacity * CUSHION_SHARE, self.rate * CUSHION_SECONDS)
        if self._caution > 1.0:
            excess = (self._caution - 1.0) * 0.5 ** ((now - self._refused_at) / CAUTION_HALF_LIFE)
            cushion *= 1.0 + excess
        if self.seen and self.trusted:
            cushion += DOUBT * self.rate * min(now - self._shown_at, LONGEST_DOUBT)
        return cushion

    def _clip(self) -> None:
        most = self.capacity + min(self.rate * JITTER, self.capacity)
        if self.ledger + self.shift > most:
            self.ledger = most - self.shift

    def _follow(self, shown: Allowance, mark: BucketState, now: float, *, charged: bool) -> None:
        """Move the level to what the server showed when the ledger stood as `mark` says, before or after its charge."""
        ledger_then = mark.ledger if charged else mark.ledger + mark.cost
        sent_then = mark.sent if charged else mark.sent - mark.cost
        was_misread = self.period > 60.0 and not self._finer and shown.is_of_minute(self.period)
        if shown.limit != self.limit or was_misread:
            period = 60.0 if was_misread else shown.period
            if shown.limit / period > self._given * 1.001:  # the caller wants less than the server allows
                self.shift = min(self.shift, shown.remaining - ledger_then)
                return
            if was_misread:
                self.capacity = INFINITY  # as after a first look
            self.set_limit(shown.limit, now, period=period)
            self._variance = INFINITY
        if self.share < 1.0:  # what is shown is what all have left together
            self.shift = min(self.shift, shown.remaining - ledger_then)
            return
        if not self.trusted or (self.burst is not None and shown.remaining > self.capacity):
            return  # it shows what it does not enforce, or more than the caller wants to send at once
        if self.burst is None:
            self._learn_capacity(shown)
        if shown.reset is not None:
            # Counted from the answer, so that it comes about only when no more answers come.
            self._whole_at = now + min(shown.reset, self.capacity / self.rate)
            self._whole_sent = sent_then
        # One step of a Kalman filter: what is shown counts for less the more went out together with it.
        spread = OVERTAKEN * mark.bunch.total + 0.5 * mark.cost
        self._variance += (WANDER * self.rate) ** 2 * max(0.0, now - self._shown_at)
        offset = shown.remaining - ledger_then
        if self._variance == INFINITY:
            # A limit that has just become smaller has cut the ledger, but no more can be gone than was sent since then.
            self.shift = max(offset, shown.remaining - (self.sent - sent_then) - self.ledger)
            self._variance = spread**2
        else:
            gain = self._variance / (self._variance + spread**2)
            self.shift += gain * (offset - self.shift)
            self._variance *= 1.0 - gain
        self._shown_at = now
        self._clip()
        if charged and self._drift_at == INFINITY:  # what is refused is given back, which moves the shift by itself
            self._drift_at, self._drift_shift = now, self.shift
        elif charged and now - self._drift_at >= DRIFT_SECONDS:
            self._learn_drift(shown, now)
        self.seen = True

    def _learn_drift(self, shown: Allowance, now: float) -> None:
        """Others who draw from the same bucket make the shift fall steadily; foresee what they will take."""
        elapsed = now - self._drift_at
        if shown.remaining > NEARLY_FULL * self.capacity:  # what spills over a full bucket is lost to nobody
            self._drift_at, self._drift_shift, self.drift = now, self.shift, 0.5 * self.drift
            return
        fall = (self._drift_shift - self.shift) / elapsed
        self.drift = min(max(0.0, self.drift + 0.5 * fall), 0.95 * self.rate)
        if self.drift < 0.005 * self.rate:
            self.drift = 0.0
        self._drift_at, self._drift_shift = now, self.shift

    def _learn_capacity(self, shown: Allowance) -> None:
        """What is missing comes back within `reset`; so the whole is what is left and what is missing."""
        if shown.reset is None:
            return
        whole = max(1.0, min(shown.remaining + shown.reset * self.shown_rate, shown.limit))
        if not self.seen or whole > self.capacity:
            self.capacity = whole
        if whole < 0.9 * shown.limit:
            self.probing = False  # it shows a short window, so it shows what it enforces

    def _learn_from_refusal(self, mark: BucketState, shown: Allowance | None, now: float) -> None:
        """It refused what should have fitted: the window is shorter, or the rate is lower, than was thought."""
        if shown is not None:
            self.trusted = False
        self.drift = 0.0
        if self.period > 60.0 and not self._finer:
            # The day is not used up: a minute's limit refused, which is not shown, and the day's is no pace to go at.
            self._finer, self.probing, self.shown_rate = True, False, self.share * self._given
        if self.probing and self.limit is not None:
            # The first refusal of a burst tells the window; the rate may still be as it was said.
            self.probing = False
            self._pace.found_empty(at=mark.at, sent=mark.sent)
            self.capacity = max(1.0, min(self.capacity, mark.fill - mark.cost) / 2)
        else:
            self._pace.measure(at=mark.at, sent=mark.sent, rate=self.rate, cost=mark.cost, held=self._held, now=now)
            self._pace.at_least(self._refusals.taken_for_certain)
            self.rate = min(self.shown_rate, self._pace.rate)
            self.capacity = max(1.0, min(self.capacity / 2, self.rate * PACE_BURST))
        self._start_books()
        self.shift = -self.ledger

    def _start_books(self) -> None:
        if self.capacity == INFINITY:
            self.capacity = max(1.0, self.rate * PACE_BURST)
        if self.shift == INFINITY:
            self.shift = -self.ledger
