"""A model of the server's bucket for one dimension of a limit (requests or tokens).

It combines four sources, in this order of trust: what the server shows on its answers, what it refuses, what the caller
set, and what has been sent. The level is a ledger of our own charges and the refill, plus a shift that makes it agree
with what the server showed last.
"""

from __future__ import annotations

from collections.abc import Collection

from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState, Bunch
from parallel_openai._limits.learning.reach import FIRST_BURST, reach
from parallel_openai._limits.learning.search import RateSearch
from parallel_openai._limits.learning.shown_level import ShownLevel
from parallel_openai._limits.learning.used_up import UsedUp
from parallel_openai._limits.refusal_cause import Refusals

#: Seconds of the rate that a bucket is assumed to hold before the server has shown or refused anything.
USUAL_WINDOW = 60.0
#: A reserve kept in the server's bucket for what is not yet known: a share of the capacity or seconds of the rate,
#: whichever is less. It is set aside once, so it costs no throughput.
CUSHION_SHARE = 0.05
CUSHION_SECONDS = 0.5
#: The share of the refill that is not counted on, as what the server showed last becomes outdated.
DOUBT = 0.1
#: The most seconds of refill that this applies to; otherwise the doubt could outgrow the refill, and nothing be sent.
LONGEST_DOUBT = 10.0
#: The cushion doubles if the server refuses what it was assumed to hold, up to this many times its size. Half of the
#: excess fades in CAUTION_HALF_LIFE seconds.
MOST_CAUTION = 8.0
CAUTION_HALF_LIFE = 20.0
#: While the server makes us wait, others may go on sending, so only this share of the refill is counted on.
HELD_SHARE = 0.5
#: Seconds by which requests may bunch up on the way. To a bucket that holds a single request, a millisecond matters.
JITTER = 0.01
#: Requests sent within this many seconds may overtake each other.
TOGETHER_SECONDS = 0.05
#: Above this share of the capacity, refill is lost, which looks like others' use.
NEARLY_FULL = 0.8
#: Seconds of the rate that may go out at once if only refusals show what the server holds.
PACE_BURST = 0.1

#: A refusal at less than this share of the rate is not due to the limit, whatever it says.
PRESSED = 0.5
#: The shortest wait, in seconds. Otherwise a wait that is short by a rounding error would be repeated again and again.
SHORTEST_WAIT = 0.001
#: Shortfalls below this share of the ledger are rounding errors: with a limit of 10^9 the ledger is large, and waiting
#: for less would never end.
ROUNDING = 1e-14

INFINITY = float("inf")


class Bucket:
    """A bucket of capacity that refills at a steady rate. A charge larger than the whole bucket leaves it in debt.

    Args:
        limit: capacity per minute; None while unknown.
        burst: seconds of the rate that the full bucket holds; None if that is to be learned.
        now: the time, in seconds.

    >>> bucket = Bucket(60, burst=2, now=0.0)
    >>> mark = bucket.charge(2, 0.0)
    >>> round(bucket.seconds_until(1, 0.0), 2)  # one request, a cushion of 5 %, and a jitter of 10 ms
    1.11
    """

    def __init__(self, limit: float | None, *, burst: float | None, now: float) -> None:
        self.burst = burst
        self.limit: float | None = None
        self.period = 60.0
        self.shown_rate = INFINITY  # given or shown, per second
        self.share = 1.0  # this process's part of the limit, if several share an account
        self.rate = INFINITY  # the rate in use: the shown one, or less if the server accepts less
        self.capacity = INFINITY
        self.ledger = 0.0  # the refill minus all charges
        self._shown = ShownLevel(now)
        self.fill = 0.0  # what was sent beyond a steady pace
        self.proven = 0.0  # the highest fill that was accepted
        self._in_vain = 0.0  # what was refused for its content, which proves no limit
        self.probing = burst is None  # whether the window is still to be found
        self.trusted = True  # whether the server enforces what it shows
        self.seen = False  # whether the server has shown anything
        self.sent = 0.0
        self.updated = now
        self.held_until = now
        self._bunch = Bunch(now)
        self._pace = RateSearch(now)
        self._refusals = Refusals()
        self._used_up = UsedUp()
        self._given = INFINITY if limit is None else limit / 60.0  # the caller's own limit, per second
        self._epoch_end = -INFINITY  # the time of the last refusal that was acted on
        self._finer = False  # whether a limit of a shorter period refuses than the hour's or day's that is shown
        self._began = now
        self._whole_at, self._whole_sent = INFINITY, 0.0
        self._held = self._held_in_all = 0.0  # seconds of waiting, after the last refusal and after all of them
        self._recent, self._recent_at = 0.0, now  # what was sent, halved with each second that passes
        self._caution, self._refused_at = 1.0, now
        if limit is not None:
            self.set_limit(limit, now)

    @classmethod
    def in_place_of(
        cls, buckets: Collection[Bucket], *, rate: float, cost: float, now: float, searches: bool = False
    ) -> Bucket:
        """A bucket that replaces others: it refills at that rate, and is empty now. It may search for a higher one."""
        bucket = cls(None, burst=next(iter(buckets)).burst, now=now)
        bucket.held_until = max(each.held_until for each in buckets)
        bucket.sent = sum(each.sent for each in buckets)  # so that no mark of theirs is later than one of its own
        bucket._refusals.count = sum(each._refusals.count for each in buckets)
        bucket._epoch_end = now
        bucket._pace.found(rate, sent=bucket.sent, cost=cost, now=now)
        bucket._pace.pause(bucket.held_until)
        bucket.rate = bucket._pace.rate
        bucket._start_books()
        if searches:
            bucket._search(least=0.0, now=now)
        return bucket

    @property
    def level(self) -> float:
        """What the server's bucket is assumed to hold."""
        return self.ledger + self._shown.shift

    @property
    def known(self) -> bool:
        """Whether a rate is known."""
        return self.rate != INFINITY

    @property
    def _measured_pace(self) -> float:
        """The rate in use if it was measured or stated; infinite while it is being searched."""
        return self.rate if self._pace.is_settled or self.limit is not None else INFINITY

    def set_limit(self, limit: float, now: float, *, period: float = 60.0) -> None:
        """Take over a limit, given by the caller or shown by the server, and keep the level within it."""
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
            self._shown.shift = min(self._shown.shift, self.capacity - self.ledger)
            self.fill = max(0.0, self.fill - self.rate * (now - self._began))
        else:
            self.capacity = max(1.0, self.capacity * self.shown_rate / old_rate)
            self.proven *= self.shown_rate / old_rate
        self._clip()

    def told(self, limit: float, now: float) -> None:
        """Take over a limit that the server stated without what remains of it."""
        if limit != self.limit and limit / 60.0 <= self._given * 1.001:
            self.set_limit(limit, now)

    def set_share(self, share: float, now: float) -> None:
        """Use this part of the limit from now on, since other processes use the rest."""
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
        self.ledger += (self.rate - self._shown.drift) * elapsed
        if now >= self._whole_at:  # the announced reset has passed: it is full, but for what was sent since
            self._whole_at, self._shown.drift = INFINITY, 0.0
            full = self.capacity - (self.sent - self._whole_sent)
            self.ledger = max(self.ledger, full - self._shown.shift)
        self._clip()

    def seconds_until(self, cost: float, now: float, *, heeds_hold: bool = True) -> float:
        """Seconds until a charge of that cost may be sent; 0 if it may be sent now."""
        wait = self.held_until - now if heeds_hold else 0.0
        if self.rate != INFINITY and not self._used_up.is_test_due:
            self.refill(now)
            # A charge larger than the whole bucket is let through when the bucket is full, and leaves a debt.
            slack = min(self.rate * JITTER, self.capacity)
            short = min(cost + self._cushion(now), self.capacity) + slack - (self.ledger + self._shown.shift)
            if self.probing:
                short = max(short, self.fill + cost - max(cost, reach(cost, proven=self.proven, rate=self.rate)))
            if short > ROUNDING * abs(self.ledger):
                # The growing doubt about what the server showed takes up some of the refill.
                refill = self.rate * (1.0 - DOUBT if self.seen and self.trusted else 1.0) - self._shown.drift
                until_whole = self._whole_at - now if self.trusted else INFINITY
                wait = max(wait, min(short / max(refill, self.rate * 0.05), until_whole))
        return max(wait, SHORTEST_WAIT) if wait > 1e-9 else 0.0

    def charge(self, cost: float, now: float) -> BucketState:
        if self.rate != INFINITY and now > self.updated:  # usually `seconds_until` has just refilled it
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
        return BucketState(
            now, cost, self.ledger, self.fill, self.sent, self._bunch, self._refusals.count, self._in_vain
        )

    def adjust(self, amount: float) -> None:
        """Charge more, or with a negative amount less, for something sent before."""
        self.ledger -= amount
        self.fill = max(0.0, self.fill + amount)
        self._clip()

    def accepted(self, mark: BucketState, shown: Allowance | None, now: float, *, worked: bool = True) -> None:
        """Learn what the server showed with an answer, and if it has `worked` for it, that the limit was kept."""
        if self.rate != INFINITY:
            self.refill(now)
        if worked:
            self.proven = max(self.proven, mark.fill - (self._in_vain - mark.in_vain))
        else:
            self._in_vain += mark.cost
            self.fill = max(0.0, self.fill - mark.cost)
        if shown is not None and shown.limit not in self._used_up.disbelieved:
            self._follow(shown, mark, now, charged=True)
            if self._used_up.accepted(mark, shown, self.rate, now):
                self.disbelieve(now)
        elif worked and mark.at <= self._epoch_end and self._refusals.also_taken(mark) and now < self.held_until:
            self._pace.at_least(self._refusals.taken_for_certain)
            self.rate = min(self.shown_rate, self._pace.rate)
            self.held_until = now

    def refused(
        self,
        mark: BucketState,
        shown: Allowance | None,
        now: float,
        *,
        blamed: bool,
        wait: float,
        most: float,
        is_limited: bool,
    ) -> bool:
        """Learn that the server refused a charge.

        Args:
            blamed: whether it refused because of this dimension, which is then held for `wait` seconds.
            most: the largest cost of the request under any rule that the server may count by.
            is_limited: whether an earlier refusal was due to a limit.

        Returns:
            Whether the dimension is held because of a limit that the server does not show.
        """
        self.refill(now)
        self._used_up.refused(mark)
        if mark.at > self._epoch_end:  # charges from before the last refusal are in the level that was set then
            self.adjust(-mark.cost)
        if shown is not None:
            self._follow(shown, mark, now, charged=False)
        if not blamed:
            return False
        if mark.at <= self._epoch_end:  # sent before the last refusal that was acted on
            self.also_refused(mark, now, wait)
            return False
        self._pace.refused += mark.cost
        explained = shown is not None and self.trusted and shown.remaining < most + 1
        finds_window = self.probing and self.limit is not None
        if not explained and not finds_window and not self._is_limits(mark, now, wait, is_limited):
            return False  # by chance: only this request has to wait
        self.hold(now + wait)
        self._held = wait
        self._held_in_all += wait
        self._epoch_end = now
        if shown is not None and explained:
            self._shown.shift = min(self._shown.shift, shown.remaining - self.ledger)
            self._shown.variance = max(self._shown.variance, mark.cost**2)
            self._caution = min(MOST_CAUTION, 2.0 * self._caution)
            self._refused_at = now
            return False  # the refusal agrees with what is shown, so there is nothing to learn
        if self._refusals.by_chance or self._was_pressed(mark, now):
            self._learn_from_refusal(mark, shown, now)
        return True

    def also_refused(self, mark: BucketState, now: float, wait: float) -> None:
        """Note a refusal that says nothing new."""
        self._pace.refused += mark.cost
        self._refusals.also_refused(mark)
        self.hold(now + wait)

    def forget_refusals(self, now: float) -> None:
        """Undo the waiting and slowing down for refusals that were not due to this limit."""
        self.held_until = now
        self._pace, self._refusals = RateSearch(now), Refusals(self._refusals.count)
        self.trusted, self.rate = True, self.shown_rate
        if self.limit is None:
            self.capacity = self._shown.shift = INFINITY
        elif self.burst is None and not self.seen:
            self.probing, self.proven = True, 0.0
            self.capacity = max(1.0, self.rate * max(USUAL_WINDOW, self.period))

    def disbelieve(self, now: float) -> None:
        """Ignore what the server has shown, and go by the caller's limit and by refusals alone."""
        self.limit, self.period, self.seen, self._whole_at = None, 60.0, False, INFINITY
        self.shown_rate = self.capacity = self._shown.shift = self._shown.variance = INFINITY
        self.rate, self._shown.drift = self._pace.rate, 0.0
        if self._given != INFINITY:
            self.set_limit(60.0 * self._given, now)

    def _is_limits(self, mark: BucketState, now: float, wait: float, is_limited: bool) -> bool:
        """Whether a refusal is due to the limit, if nothing that was shown explains it."""
        refusals = self._refusals
        if refusals.contradict(mark, self._held_in_all, self.rate if self.known else 0.0):
            self.held_until = now
            self._search(least=max(refusals.refill.lowest, FIRST_BURST * mark.cost), now=now)
            return False
        pressed = self._was_pressed(mark, now)
        if refusals.tell(mark.number, self._measured_pace, now, pressed=pressed, wait=wait, is_limited=is_limited):
            return True
        if refusals.look_again(now):
            self._search(least=0.0, now=now)
        return False

    def _search(self, *, least: float, now: float) -> None:
        """Search for the rate again, starting at `least` or higher."""
        if self._pace.rate != INFINITY:
            self._pace.look_again(now, least)
            self.rate = min(self.shown_rate, self._pace.rate)

    def _was_pressed(self, mark: BucketState, now: float) -> bool:
        """Whether enough was sent for the refusal to be evidence: gateways also refuse for reasons of their own."""
        if self.limit is None:
            return True
        return max(self.recent_rate(now), mark.fill) >= PRESSED * self.rate

    def recent_rate(self, now: float) -> float:
        """How much was sent recently, per second."""
        recent: float = 0.69 * self._recent * 0.5 ** (now - self._recent_at)  # times ln 2 = 0.69, to get a rate
        return recent

    def hold(self, until: float) -> None:
        """Send nothing of this dimension before the time `until`."""
        self.held_until = max(self.held_until, until)
        self._pace.pause(until)

    def _cushion(self, now: float) -> float:
        cushion = min(self.capacity * CUSHION_SHARE, self.rate * CUSHION_SECONDS)
        if self._caution > 1.0:
            excess = (self._caution - 1.0) * 0.5 ** ((now - self._refused_at) / CAUTION_HALF_LIFE)
            cushion *= 1.0 + excess
        if self.seen and self.trusted:
            cushion += DOUBT * self.rate * min(now - self._shown.at, LONGEST_DOUBT)
        return cushion

    def _clip(self) -> None:
        most = self.capacity + min(self.rate * JITTER, self.capacity)
        if self.ledger + self._shown.shift > most:
            self.ledger = most - self._shown.shift

    def _follow(self, shown: Allowance, mark: BucketState, now: float, *, charged: bool) -> None:
        """Move the level towards what the server showed for the state `mark`, before or after charging it."""
        ledger_then = mark.ledger if charged else mark.ledger + mark.cost
        sent_then = mark.sent if charged else mark.sent - mark.cost
        was_misread = self.period > 60.0 and not self._finer and shown.is_of_minute(self.period)
        if shown.limit != self.limit or was_misread:
            period = 60.0 if was_misread else shown.period
            if shown.limit / period > self._given * 1.001:  # the caller's own limit is lower
                self._shown.shift = min(self._shown.shift, shown.remaining - ledger_then)
                return
            if was_misread:
                self.capacity = INFINITY  # so that set_limit treats it as a first limit
            self.set_limit(shown.limit, now, period=period)
            self._shown.variance = INFINITY
        if self.share < 1.0:  # what is shown is left for all processes together
            self._shown.shift = min(self._shown.shift, shown.remaining - ledger_then)
            return
        if not self.trusted or (self.burst is not None and shown.remaining > self.capacity):
            return  # not enforced, or more than the caller wants to send at once
        if self.burst is None:
            self._learn_capacity(shown)
        if shown.reset is not None:
            # Counted from this answer: every further answer moves it, so it is only reached if no more come.
            self._whole_at = now + min(shown.reset, self.capacity / self.rate)
            self._whole_sent = sent_then
        # A limit that has just shrunk has clipped the ledger, but no more can be gone than was sent since then.
        least = shown.remaining - (self.sent - sent_then) - self.ledger
        self._shown.follow(shown.remaining - ledger_then, mark, self.rate, now, least=least)
        if charged and now >= self._shown.drift_due:  # after a refusal, its refund moves the shift by itself
            self._shown.learn_drift(self.rate, now, is_nearly_full=shown.remaining > NEARLY_FULL * self.capacity)
        self._clip()
        self.seen = True

    def _learn_capacity(self, shown: Allowance) -> None:
        """Infer the capacity: what remains, plus what comes back within `reset`."""
        if shown.reset is None:
            return
        whole = max(1.0, min(shown.remaining + shown.reset * self.shown_rate, shown.limit))
        if not self.seen or whole > self.capacity:
            self.capacity = whole
        if whole < 0.9 * shown.limit:
            self.probing = False  # a short window is shown, so it is the one enforced

    def _learn_from_refusal(self, mark: BucketState, shown: Allowance | None, now: float) -> None:
        """Lower the window or the rate, as the server refused what should have fitted."""
        if shown is not None:
            self.trusted = False
        self._shown.drift = 0.0
        if self.period > 60.0 and not self._finer:
            # The day's limit is not used up, so one per minute refused that is not shown; the day's says nothing of it.
            self._finer, self.probing, self.shown_rate = True, False, self.share * self._given
        if self.probing and self.limit is not None:
            # The first refusal of a burst reveals the window; the stated rate may still be right.
            self.probing = False
            self._pace.found_empty(at=mark.at, sent=mark.sent)
            # One that makes us wait longer than a bucket for its refill, which may be told in whole seconds, does not
            # refill meanwhile: how much it takes then is unknown.
            is_bucket = self._held <= mark.cost / self.rate + 1.0
            whole = min(self.capacity, mark.fill - mark.cost) / 2
            self.capacity = max(1.0, whole if is_bucket else min(whole, self.rate * PACE_BURST))
        else:
            self._pace.measure(at=mark.at, sent=mark.sent, rate=self.rate, cost=mark.cost, held=self._held, now=now)
            self._pace.at_least(self._refusals.taken_for_certain)
            self.rate = min(self.shown_rate, self._pace.rate)
            self.capacity = max(1.0, min(self.capacity / 2, self.rate * PACE_BURST))
        self._start_books()
        self._shown.shift = -self.ledger

    def _start_books(self) -> None:
        if self.capacity == INFINITY:
            self.capacity = max(1.0, self.rate * PACE_BURST)
        if self._shown.shift == INFINITY:
            self._shown.shift = -self.ledger
