"""The numbers that an account can be told, and whether they are in their range."""

from __future__ import annotations

from parallel_openai.errors import InvalidInputError

#: These have no None, which the others have for what is found out.
_NEEDED = ("max_attempts", "timeout", "max_wait", "give_up_after")


def check_options(**options: float | None) -> None:
    """See that each is a number above 0, or None where that means something.

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
