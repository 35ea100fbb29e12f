"""Requests from a pipe, and results to standard output; between them files, so that a run can go on."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path

from parallel_openai._files.file_run import results_beside
from parallel_openai._files.requests_file import is_pipe

_PIPE = "-"
_PIECE = 1 << 18


@contextmanager
def piped(requests_filepath: str, save_filepath: str | None) -> Iterator[tuple[str, str | None]]:
    """The files of a run. `-` may stand for them, and for the requests any other pipe, such as `<(...)`. Results for
    standard output go there at the end of the run.

    They are named after what came in, so that the same again goes on with the same answers.
    """
    comes_once = requests_filepath == _PIPE or is_pipe(Path(requests_filepath))
    if not comes_once and save_filepath != _PIPE:
        yield requests_filepath, save_filepath
        return
    source = _spool(requests_filepath) if comes_once else Path(requests_filepath)
    if save_filepath not in (None, _PIPE):
        yield str(source), save_filepath
        return
    results = results_beside(source)
    try:
        yield str(source), str(results)
    finally:
        if results.exists():
            with open(results, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)


def _spool(pipe: str) -> Path:
    """All that comes out of a pipe, in a file whose name tells its content."""
    from parallel_openai._frames.journal_path import JOURNAL_FOLDER, make_private  # brings pandas

    folder = Path(JOURNAL_FOLDER)
    make_private(folder)
    digest = blake2b(digest_size=8)
    descriptor, place = tempfile.mkstemp(dir=folder, suffix=".jsonl")
    try:
        with (
            open(descriptor, "wb") as file,
            nullcontext(sys.stdin.buffer) if pipe == _PIPE else open(pipe, "rb") as stream,
        ):
            while piece := stream.read(_PIECE):
                digest.update(piece)
                file.write(piece)
        return Path(place).replace(folder / f"piped-{digest.hexdigest()}.jsonl")
    except BaseException:  # as on Ctrl-C: a part of the requests is of no use to anybody
        Path(place).unlink()
        raise
