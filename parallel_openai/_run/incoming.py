"""A source of requests that grows while the run is going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from parallel_openai._records import APIRequest


class Incoming(Iterator[APIRequest | None]):
    """An iterator of requests. The run waits for more of them, until it is cancelled or its budget is used up.

    >>> incoming = Incoming()
    >>> incoming.put([APIRequest({"model": "m"})])
    >>> len(list(incoming)), len(list(incoming))
    (1, 0)
    """

    def __init__(self) -> None:
        self._requests: deque[APIRequest] = deque()
        self._tell: Callable[[], None] = lambda: None

    def put(self, requests: Iterable[APIRequest]) -> None:
        self._requests.extend(requests)
        self._tell()

    def on_news(self, tell: Callable[[], None]) -> None:
        """Set the function to call after each `put`."""
        self._tell = tell

    def __next__(self) -> APIRequest:
        if not self._requests:
            raise StopIteration
        return self._requests.popleft()
