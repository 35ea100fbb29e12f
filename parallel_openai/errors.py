"""Everything that can stop a run, as one tree; what only one row suffers from is data, not an exception.

```
ParallelOpenAIError
├── InvalidInputError (ValueError)      what was asked cannot be done; nothing was sent
│   ├── ColumnNotFoundError             a column that the frame does not have
│   ├── ColumnExistsError               a result column that the frame already has
│   └── TemplateError                   a prompt template that cannot be filled
├── MissingDependencyError (ImportError) an optional part is not installed
├── JournalError (OSError)              the file of results cannot be used
│   ├── JournalLockedError              somebody else is writing it
│   └── JournalWriteError               the disk refused; what was written before is kept, `.partial` has all
└── RunStoppedError                     the server will refuse every row; `.partial` holds what was finished
    ├── AuthenticationError             the key is wrong or missing
    ├── PermissionDeniedError           the key may not do this
    ├── RequestRefusedError             the server refuses all requests alike: the model, a parameter, the URL
    ├── QuotaExceededError              no credit, or a spending limit
    ├── RateLimitedError                the limit of a day, say: it refuses for longer than the client waits
    ├── ServerUnreachableError          nobody answers at that address
    └── BatchError                      the Batch API refuses a file or a batch
```
"""

from __future__ import annotations

from typing import Any

from parallel_openai._printable import printable


class ParallelOpenAIError(Exception):
    """The root of every exception that this package raises."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(each) if isinstance(each, str) else each for each in args))


class InvalidInputError(ParallelOpenAIError, ValueError):
    """What was asked cannot be done. Raised before anything is sent."""


class ColumnNotFoundError(InvalidInputError):
    """A column is named that the frame does not have."""


class ColumnExistsError(InvalidInputError):
    """A result column would overwrite one of the frame's own."""


class TemplateError(InvalidInputError):
    """A prompt template is malformed or asks for more than a column's value."""


class MissingDependencyError(ParallelOpenAIError, ImportError):
    """An optional part is not installed; the message carries the install line."""

    @classmethod
    def of(cls, what: str, packages: str, error: ImportError) -> MissingDependencyError:
        """The error for something that needs packages of which one could not be imported.

        >>> try:
        ...     import no_such_package
        ... except ImportError as error:
        ...     print(MissingDependencyError.of("Plots need", "no_such_package", error))
        Plots need no_such_package, which is not installed: pip install no_such_package
        """
        if isinstance(error, ModuleNotFoundError) and error.name in list(map(_module_of, packages.split())):
            return cls(f"{what} {error.name}, which is not installed: pip install {packages}")
        return cls(f"{what} {packages}, which is installed and cannot be imported: {error}")


def _module_of(package: str) -> str:
    """The module that a requirement such as `ray[data]` brings."""
    return package.partition("[")[0].replace("-", "_")


class JournalError(ParallelOpenAIError, OSError):
    """The file of results cannot be read or written."""


class JournalLockedError(JournalError):
    """Another run is writing the same file of results."""


class JournalWriteError(JournalError):
    """The disk refused a write. Everything written before is kept.

    Attributes:
        partial: what was finished, also what the disk did not take: the DataFrame with the rest `cancelled`, or the
            counts of a run on files.
    """

    partial: Any = None


class RunStoppedError(ParallelOpenAIError):
    """The server will refuse every row, so the run was stopped.

    Attributes:
        partial: what was finished: the DataFrame with the rest `cancelled`; the counts of a run on files, a
            `StatusTracker`; the dataset of `process_dataset`. None from other calls, such as `collect_batches`.
    """

    partial: Any = None


class AuthenticationError(RunStoppedError):
    """The API key is wrong or missing (HTTP 401)."""


class PermissionDeniedError(RunStoppedError):
    """The key, the project or the country may not do this (HTTP 403)."""


class RequestRefusedError(RunStoppedError):
    """The server refuses all requests in the same words, such as for a model or a parameter that it does not know.

    Attributes:
        model: the model, where it is to blame.
    """

    model: str | None = None


class QuotaExceededError(RunStoppedError):
    """The account has no credit left, or a spending limit was reached."""


class RateLimitedError(RunStoppedError):
    """The server refuses, and asks for a longer wait than `Client(max_wait=...)` allows."""


class ServerUnreachableError(RunStoppedError):
    """Nobody answers at the base URL."""


class BatchError(RunStoppedError):
    """The Batch API refuses a file or a batch as a whole. What was submitted before goes on at the server."""
