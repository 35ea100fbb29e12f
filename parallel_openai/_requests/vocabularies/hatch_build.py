"""A build hook that refuses to build a package with a damaged vocabulary."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def check(folder: Path) -> None:
    """Decompress every vocabulary in the folder and check its sha256; a ValueError stops the build."""
    # By path: the package cannot be imported during the build, because its dependencies are not installed.
    vocabularies = runpy.run_path(str(Path(__file__).with_name("__init__.py")))
    for file_name in vocabularies["sums"](folder):
        vocabularies["read"](Path(file_name).stem, folder=folder)


def get_build_hook() -> type[BuildHookInterface[Any]]:
    """Hatchling's entry point. hatchling is imported here, because only a build has it."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class VocabularyBuildHook(BuildHookInterface[Any]):
        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            check(Path(__file__).parent)

    return VocabularyBuildHook
