"""How often a client is refused at the most that has to find out what a server takes, in a call without faults.

What any client has to meet that begins with few requests and knows nothing:

- *All that is in flight the first time*, since no refusal has come back yet. It begins with FIRST requests, and each
  answer lets one more out: so no more are in flight than FIRST and those that were taken before. Where the first answer
  shows all that is enforced, none of them lets more out; a limit that is shown, though, lets all out that it has room
  for, and says nothing of slots.
- *A few by chance.* Gateways refuse by chance too, and a client that stopped for each of these would stand still. As
  long as nothing was answered it takes FIRST_DOUBTS more to be sure, and DOUBTS once some were by chance.
- *One again and again.* What is not shown may change, so a client must go on trying whether more is taken. A pace that
  is raised by half a percent a second from just below a limit reaches it in six seconds. At a request a second, or with
  one for each window of a second, or with a slot or two, that is one refusal for EACH answers.
- *All that is to come again, by a full server.* It asks all that it refuses to wait as long, so they meet it together
  the next time, until it is certain that it takes only so many at once. With one refused and one answered in a round,
  slots become e^1.3 times as likely as chance that refuses half: it takes ROUNDS until they are e^8 times as likely.

Each worker of a cluster has to find it out by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.books import Bill, Books
from tests.simulation.life import Life

FIRST = 4
#: Seconds from the first refusal until nothing more comes that was sent before it was back: 10 ms on its way back, and
#: 3 ms each on the way there.
ROUND = 0.016
#: A limit refuses a quarter more than chance does. These make it e^4 times as likely where one in twenty is refused by
#: chance, or e^7 times where one in five is.
FIRST_DOUBTS, DOUBTS = 4, 8
EACH = 5
ROUNDS = 7


def too_often_refused(life: Life, books: Books, bills: Sequence[Bill], seconds: float) -> list[str]:
    """What is refused more often than it must be, as sentences. Without a word when to come again, one can but try."""
    wrong = [] if books.settings.retry_after == "none" else _by_limits(life, books, bills, seconds)
    status, wait = life.full_as
    return wrong + (_by_slots(life, books, bills) if status == 429 and wait is not None else [])


def _by_limits(life: Life, books: Books, bills: Sequence[Bill], seconds: float) -> list[str]:
    settings, senders = books.settings, _senders(life)
    if settings.window == "bucket" and settings.burst_seconds >= 60.0 and settings.headers == "enforced":
        first, later, most = _first(books.refused, [], senders)
        return _beyond(first + later, most + 0.02 * len(bills), "by a limit that is shown")
    first, later, most = _first(books.refused, bills, senders)
    most_later = senders * DOUBTS + len(bills) / EACH
    if settings.charge_refused and settings.retry_after == "exact" and settings.headers == "none":
        # The wait that these ask for is for what was there before they charged the refusal: half of a refill is too
        # short, and one that waits so long is refused again.
        most_later += 2 * seconds * (settings.max_requests_per_minute or 0.0) / 60.0
    return _beyond(first, most, "by the limits at first") + _beyond(later, most_later, "by the limits later")


def _by_slots(life: Life, books: Books, bills: Sequence[Bill]) -> list[str]:
    first, later, most = _first(books.full, bills, _senders(life))
    if books.settings.max_requests_per_minute is not None and books.settings.headers != "none":
        most = len(life.texts) * life.samples  # however few at once: what is refused gives its place to the next
    most_later = ROUNDS * most + len(bills) / EACH
    return _beyond(first, most, "by a full server at first") + _beyond(later, most_later, "by a full server later")


def _first(refused: Sequence[float], bills: Sequence[Bill], senders: int) -> tuple[int, int, float]:
    """How many were refused before the first refusal had come back, and after that; and how many may be in flight."""
    known = min(refused, default=0.0) + ROUND
    first = sum(at <= known for at in refused)
    answered = sum(bill.due - bill.seconds <= known for bill in bills)
    return first, len(refused) - first, senders * (FIRST + FIRST_DOUBTS) + answered


def _beyond(refused: int, most: float, how: str) -> list[str]:
    return [f"{refused} were refused {how}, where {most:.0f} may be"] if refused > most else []


def _senders(life: Life) -> int:
    return 2 if life.lane == "ray" else 1
