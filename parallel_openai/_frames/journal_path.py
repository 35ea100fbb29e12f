"""Finds the journal of a call on a frame: the file it names, or one in `.parallel_openai/`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from parallel_openai._arguments import path_of
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._http.addresses.url_checks import one_spelling
from parallel_openai._journal.neighbours import OF_ANY_MODEL
from parallel_openai.errors import JournalError

JOURNAL_FOLDER = ".parallel_openai"
#: Earlier versions had the number of samples in the name; names with up to this many are looked for.
MOST_FORMER_SAMPLES = 16
#: The most bytes of the model in a file's name, of whose 255 suffixes need some.
_MODEL_BYTES = 180
#: The journals of this process's calls. A frame read from a file may name any path.
USED: set[str] = set()


def journal_path(builder: RequestBuilder, place: str, save_to: str | os.PathLike[str] | None) -> Path:
    """The file of a call's answers: the one it names, else one named after the question and the place."""
    if save_to is not None:
        return path_of(save_to, "save_to")
    model = "".join(c if c.isalnum() or c in "-._" else "-" for c in builder.model or OF_ANY_MODEL)[:80]
    model = model.encode()[:_MODEL_BYTES].decode(errors="ignore")
    folder, plain = Path(JOURNAL_FOLDER), builder.digest(one_spelling(place))
    if folder.is_dir():
        numbers = dict.fromkeys((builder.samples, *range(1, MOST_FORMER_SAMPLES + 1)))
        for former in (builder.former_digest(place, samples) for samples in numbers):
            path = folder / f"{model}-{former}.jsonl"
            if path.exists():
                return path
    return folder / f"{model}-{plain}.jsonl"


def own_journal(builder: RequestBuilder, place: str, save_to: str | os.PathLike[str] | None) -> Path:
    """The journal of a call that is about to write it, in a folder that only its owner can read.

    Raises:
        JournalError: the folder cannot be made, or the file is another user's.
    """
    try:
        path = journal_path(builder, place, save_to)
        if save_to is None:
            make_private(path.parent)
            check_own(path)
        USED.add(os.path.abspath(path))
    except JournalError:
        raise
    except OSError as error:  # also if the working folder was removed or is another user's
        raise JournalError(
            f"The folder {JOURNAL_FOLDER} for the answers cannot be made or read: {error.strerror}. Choose a place "
            "for them with save_to=."
        ) from error
    return path


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can read and git ignores."""
    check_own(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    fence = folder / ".gitignore"
    check_own(fence)
    if not fence.exists() or not fence.stat().st_size:  # a full disk leaves an empty one
        fence.write_text("# Answers and the data they are about: not to be published by accident.\n*\n", "utf-8")
    elif not _keeps_out(fence.read_text("utf-8", "replace").splitlines()):
        raise JournalError(
            f"{fence} lets git take in what lies beside it, which are your data and the answers. Remove it, and one "
            "that keeps them out is made; to have them in git, choose a place for them with save_to=."
        )


def _keeps_out(lines: Iterable[str]) -> bool:
    """Whether a .gitignore excludes everything, except perhaps itself."""
    patterns = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
    return "*" in patterns and not any(each.startswith("!") and each != "!.gitignore" for each in patterns)
