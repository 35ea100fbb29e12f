"""How much may go out in a burst while it is unknown over which window a server counts."""

from __future__ import annotations

#: Shorter windows, in seconds, that servers use behind limits stated per minute. A growing burst stops at each of them
#: until PROBES requests beyond it are accepted, so that discovering such a window costs only a few refusals.
SHORT_WINDOWS = (1.0, 10.0)
PROBES = 3.0
#: Requests that may go out at once before the first answer, and by which factor the burst may exceed what was accepted.
FIRST_BURST = 16.0
BURST_GROWTH = 1.25


def reach(cost: float, *, proven: float, rate: float) -> float:
    """How large a burst of requests of that cost may be, if one of `proven` was accepted beyond a steady `rate`.

    >>> [reach(1.0, proven=proven, rate=10.0) for proven in (0.0, 8.0, 13.0)]
    [13.0, 13.0, 32.25]
    """
    grown = FIRST_BURST * cost + BURST_GROWTH * proven
    for window in SHORT_WINDOWS:
        whole = rate * window
        if proven < whole + 1:
            return min(grown, whole + PROBES * cost)
    return grown
