"""Requests from a pipe and results to standard output, stored in files in between so that a run can be resumed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path

from parallel_openai._files.file_run import default_results
from parallel_openai._files.requests_file import is_pipe

_PIPE = "-"
_CHUNK_BYTES = 1 << 18


@contextmanager
def piped(requests_filepath: str, save_filepath: str | None) -> Iterator[tuple[str, str | None]]:
    """The paths of the files of a run, either of which may be `-`; the requests may also be another pipe, such as
    `<(...)`. Results for standard output are written there at the end.

    The files are named by a digest of the requests, so that the same input resumes the run.
    """
    is_piped = requests_filepath == _PIPE or is_pipe(Path(requests_filepath))
    if not is_piped and save_filepath != _PIPE:
        yield requests_filepath, save_filepath
        return
    source = _saved(requests_filepath) if is_piped else Path(requests_filepath)
    if save_filepath not in (None, _PIPE):
        yield str(source), save_filepath
        return
    results = default_results(source)
    try:
        yield str(source), str(results)
    finally:
        if results.exists():
            with open(results, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)


def _saved(pipe: str) -> Path:
    """Save the content of a pipe in a file named by its digest."""
    from parallel_openai._frames.journal_path import JOURNAL_FOLDER, make_private  # brings pandas

    folder = Path(JOURNAL_FOLDER)
    make_private(folder)
    digest = blake2b(digest_size=8)
    descriptor, saved = tempfile.mkstemp(dir=folder, suffix=".jsonl")
    try:
        with (
            open(descriptor, "wb") as file,
            nullcontext(sys.stdin.buffer) if pipe == _PIPE else open(pipe, "rb") as stream,
        ):
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        return Path(saved).replace(folder / f"piped-{digest.hexdigest()}.jsonl")
    except BaseException:  # as on Ctrl-C: a part of the requests is of no use to anybody
        Path(saved).unlink()
        raise
