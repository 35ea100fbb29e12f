"""Requests that come while others are being worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from parallel_openai._records import APIRequest


class Incoming(Iterator[APIRequest | None]):
    """An iterable of requests for a run that is to wait for more of them until it is closed.

    >>> incoming = Incoming()
    >>> incoming.put([APIRequest({"model": "m"})])
    >>> len(list(incoming)), len(list(incoming))
    (1, 0)
    """

    def __init__(self) -> None:
        self.closed = False
        self._requests: deque[APIRequest] = deque()
        self._tell: Callable[[], None] = lambda: None

    def put(self, requests: Iterable[APIRequest]) -> None:
        self._requests.extend(requests)
        self._tell()

    def close(self) -> None:
        """No more will come; what is there will still be worked on."""
        self.closed = True
        self._tell()

    def on_news(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when there is something new."""
        self._tell = tell

    def __next__(self) -> APIRequest:
        if not self._requests:
            raise StopIteration
        return self._requests.popleft()
