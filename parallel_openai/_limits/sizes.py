"""How large requests are for the limiter: counted where a limit may depend on it, else as those before them were."""

from __future__ import annotations

from parallel_openai._records import APIRequest, Size

#: So many requests of a run are counted whatever the server shows, to begin with a mean that can be relied on.
COUNTED = 256
#: From there on one of so many, to follow what the rows are like.
EVERY = 16
#: How fast the mean follows.
GAIN = 0.05

NO_SIZE = Size(1, 0, None, 1)


class Sizes:
    """The sizes of a run's requests.

    Counting tokens takes longer than all else that is done to a request. Where no token limit is in force, nothing
    comes of it; then most requests are taken to be like the mean of those that were counted.

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
        """The request's size; `exactly` where a limit depends on it."""
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
