"""Where the answers to a frame lie on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from parallel_openai.arguments import path_of
from parallel_openai.frames.recipe import Recipe

JOURNAL_FOLDER = ".parallel_openai"


def journal_path(recipe: Recipe, place: str, save_to: str | os.PathLike[str] | None) -> Path:
    """Where the answers of a call lie: in the file it names, else in one named after what is asked and where."""
    if save_to is not None:
        return path_of(save_to, "save_to")
    model = "".join(c if c.isalnum() or c in "-._" else "-" for c in recipe.model or "requests")
    return Path(JOURNAL_FOLDER) / f"{model[:80]}-{recipe.digest(place)}.jsonl"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner reads and git leaves alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    fence = folder / ".gitignore"
    if not fence.exists() or not fence.stat().st_size:  # a full disk leaves an empty one
        fence.write_text("# Answers and the data they are about: not to be published by accident.\n*\n", "utf-8")
