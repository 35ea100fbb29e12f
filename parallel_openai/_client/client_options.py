"""Checks the numeric options of a client."""

from __future__ import annotations

from parallel_openai.errors import InvalidInputError

#: Options that cannot be None. For the others None means unlimited or learned.
_NEEDED = ("max_attempts", "timeout", "max_wait", "give_up_after")


def check_options(**options: float | None) -> None:
    """Raise InvalidInputError unless each option is a number above 0, or None if that is allowed.

    >>> check_options(max_requests_per_minute=None, timeout=600.0)
    >>> check_options(timeout=None)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: timeout must be a number above 0, not None.
    """
    for name, value in options.items():
        if value is None and name not in _NEEDED:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            or_none = "" if name in _NEEDED else " or None"
            raise InvalidInputError(f"{name} must be a number above 0{or_none}, not {value!r}.")
        if name in ("max_attempts", "max_concurrent_requests") and value != int(value):
            raise InvalidInputError(f"{name} must be a whole number, not {value!r}.")
