"""Format durations, dollars and numbers for people."""

from __future__ import annotations


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`.

    >>> clock_time(7.4), clock_time(67), clock_time(3_725)
    ('0:07', '1:07', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Seconds in ms, s, or as `clock_time` from a minute on.

    >>> duration(0.0421), duration(2.345), duration(64.2), duration(3_725)
    ('42 ms', '2.3 s', '1:04', '1:02:05')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)


def dollars(amount: float) -> str:
    """Dollars with two decimals, or four below 10 cents.

    >>> dollars(0.00002), dollars(0.00123), dollars(1_234.5)
    ('<$0.0001', '$0.0012', '$1,234.50')
    """
    if amount < 0.0001:
        return "<$0.0001"
    return f"${amount:,.4f}" if amount < 0.1 else f"${amount:,.2f}"


def short(number: float) -> str:
    """A number in about four characters.

    >>> short(598.4), short(28_340), short(2_000_000)
    ('598', '28.3k', '2M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:.0f}"
