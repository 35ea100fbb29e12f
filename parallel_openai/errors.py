"""The exceptions that stop a run. A failure of a single row is data, not an exception.

```
ParallelOpenAIError
├── InvalidInputError (ValueError)      the arguments are invalid; nothing was sent
│   ├── ColumnNotFoundError             a column that the frame does not have
│   ├── ColumnExistsError               a result column that the frame already has
│   └── TemplateError                   a prompt template that cannot be filled
├── MissingDependencyError (ImportError) an optional dependency is not installed
├── JournalError (OSError)              the file of results cannot be used
│   ├── JournalLockedError              another run is writing it
│   └── JournalWriteError               writing failed; what was written before is kept, `.partial` has all results
└── RunStoppedError                     the server refuses every row; `.partial` has the finished results
    ├── AuthenticationError             the key is wrong or missing
    ├── PermissionDeniedError           the key may not do this
    ├── RequestRefusedError             the server refuses all requests for one reason: the model, a parameter, the URL
    ├── QuotaExceededError              no credit, or a spending limit
    ├── RateLimitedError                a limit, such as a day's, for longer than the client waits
    ├── ServerUnreachableError          no server answers at the address
    └── BatchError                      the Batch API refuses a file or a batch
```
"""

from __future__ import annotations

from typing import Any

from parallel_openai._printable import printable


class ParallelOpenAIError(Exception):
    """The base class of all exceptions of this package."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(each) if isinstance(each, str) else each for each in args))


class InvalidInputError(ParallelOpenAIError, ValueError):
    """The arguments are invalid. Raised before anything is sent."""


class ColumnNotFoundError(InvalidInputError):
    """The frame does not have a named column."""


class ColumnExistsError(InvalidInputError):
    """A result column would overwrite a column of the frame."""


class TemplateError(InvalidInputError):
    """A prompt template is malformed or contains more than column names."""


class MissingDependencyError(ParallelOpenAIError, ImportError):
    """An optional dependency is not installed; the message has the command that installs it."""

    @classmethod
    def of(cls, what: str, packages: str, error: ImportError) -> MissingDependencyError:
        """The error for a feature that needs packages of which one could not be imported.

        >>> try:
        ...     import no_such_package
        ... except ImportError as error:
        ...     print(MissingDependencyError.of("Plots need", "no_such_package", error))
        Plots need no_such_package, which is not installed: pip install no_such_package
        """
        if isinstance(error, ModuleNotFoundError) and error.name in list(map(_module_of, packages.split())):
            return cls(f"{what} {error.name}, which is not installed: pip install {packages}")
        return cls(f"{what} {packages}, which is installed but cannot be imported: {error}")


def _module_of(package: str) -> str:
    """The module of a requirement such as `ray[data]`."""
    return package.partition("[")[0].replace("-", "_")


class JournalError(ParallelOpenAIError, OSError):
    """The file of results cannot be read or written."""


class JournalLockedError(JournalError):
    """Another run is writing the same file of results."""


class JournalWriteError(JournalError):
    """Writing failed. Everything written before is kept.

    Attributes:
        partial: the finished results, including those that could not be written: the DataFrame with the other rows
            `cancelled`, or the counts of a run on files.
    """

    partial: Any = None


class RunStoppedError(ParallelOpenAIError):
    """The server refuses every row, so the run was stopped.

    Attributes:
        partial: the finished results: the DataFrame with the other rows `cancelled`; the counts of a run on files, a
            `StatusTracker`; the dataset of `process_dataset`. None from other calls, such as `collect_batches`.
    """

    partial: Any = None


class AuthenticationError(RunStoppedError):
    """The API key is wrong or missing (HTTP 401)."""


class PermissionDeniedError(RunStoppedError):
    """The key, the project or the country may not do this (HTTP 403)."""


class RequestRefusedError(RunStoppedError):
    """The server refuses all requests for the same reason, such as an unknown model or parameter.

    Attributes:
        model: the model, if that is the reason.
    """

    model: str | None = None


class QuotaExceededError(RunStoppedError):
    """The account has no credit left, or a spending limit was reached."""


class RateLimitedError(RunStoppedError):
    """The server asks to wait longer than `Client(max_wait=...)` allows."""


class ServerUnreachableError(RunStoppedError):
    """No server answers at the base URL."""


class BatchError(RunStoppedError):
    """The Batch API refuses a file or a whole batch. Batches submitted before keep running at the server."""
