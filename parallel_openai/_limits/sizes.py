"""The sizes of requests for the limiter: counted if a limit depends on them, otherwise mostly estimated."""

from __future__ import annotations

from parallel_openai._records import APIRequest, Size

#: This many requests of a run are counted in any case, for a reliable mean.
COUNTED = 256
#: After those, one in this many is counted.
EVERY = 16
#: The weight of a newly counted request in the mean.
GAIN = 0.05

NO_SIZE = Size(1, 0, None, 1)


class Sizes:
    """The sizes of a run's requests.

    Counting tokens takes longer than anything else that is done to a request, and is of no use without a token limit.
    Then most requests are taken to be as large as the mean of those that were counted.

    >>> sizes, request = Sizes(), APIRequest({"model": "m", "prompt": "Hello."})
    >>> request.measure = lambda request: Size(3, 6, 16, 1)
    >>> [sizes.of(request, exactly=False) for _ in range(COUNTED + 1)][-1]
    Size(prompt_tokens=3, characters=6, max_output_tokens=16, choices=1)
    """

    __slots__ = ("_characters", "_count", "_mean", "_tokens")

    def __init__(self) -> None:
        self._count = 0
        self._tokens = self._characters = 0.0
        self._mean = NO_SIZE

    def of(self, request: APIRequest, *, exactly: bool) -> Size:
        """The request's size. With `exactly` it is always counted."""
        self._count += 1
        if not exactly and request.measure is not None and self._count > COUNTED and self._count % EVERY:
            return self._mean
        size = request.size
        if size is None:
            return NO_SIZE
        gain = GAIN if self._tokens else 1.0
        self._tokens += gain * (size.prompt_tokens - self._tokens)
        self._characters += gain * (size.characters - self._characters)
        self._mean = Size(round(self._tokens), round(self._characters), size.max_output_tokens, size.choices)
        return size
