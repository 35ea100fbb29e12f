"""The layers of imports and the public interface, as read from the source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import parallel_openai

ROOT = Path(parallel_openai.__file__).parent
PACKAGE = "parallel_openai"

#: From the ground to the roof; a module imports from its own room and from those before it.
LAYERS = (
    ("_printable",),
    ("errors",),
    ("_log", "_arguments"),
    ("_json",),
    ("_records",),
    ("_disk",),
    ("_loop",),
    ("_requests",),
    ("_limits",),
    ("_progress",),
    ("_http",),
    ("_journal",),
    ("_run",),
    ("_display",),
    ("_client",),
    ("_batch",),
    ("_frames",),
    ("_files",),
    ("_labels",),
    ("_ray",),
    ("_preview",),
    ("_accessor",),
    ("local",),
    ("", "cli", "__main__"),
)

#: Where a third-party library comes in: the modules, or folders of modules, that may import it.
DOORS = {
    "pandas": ("_frames", "_labels", "_preview", "_ray", "_accessor", "_display", "local"),
    "numpy": ("_frames", "_labels", "_preview", "_ray", "_display", "local"),
    "aiohttp": ("_http", "local"),
    "aiohttp_socks": ("_http.addresses.proxies",),
    "yarl": ("_http", "local"),
    "tqdm": ("_progress.bars",),
    "IPython": ("_progress.bars",),
    "tiktoken": ("_requests.encodings", "_requests.vocabularies"),
    "genai_prices": ("_requests.prices",),
    "orjson": ("_json", "local"),
    "nest_asyncio": ("_loop.background",),
    "uvloop": ("_loop.background",),
    "filelock": ("_disk.locking", "_limits.sharing"),
    "pydantic": ("_requests.schemas.structured_outputs",),
    "jinja2": ("_display.html",),
    "matplotlib": ("_display.charts",),
    "jsonschema": ("_requests.schemas.structured_outputs",),
    "jsonschema_specifications": ("_requests.schemas.structured_outputs",),
    "referencing": ("_requests.schemas.structured_outputs",),
    "typing_extensions": ("_requests.schemas.structured_outputs",),
    "statsmodels": ("_labels.evaluation.agreement",),
    "krippendorff": ("_labels.evaluation.agreement",),
    "pyarrow": ("_frames.exporting.arrow",),
    "anywidget": ("_labels.reviewing.widget",),
    "traitlets": ("_labels.reviewing.widget",),
    "ray": ("_ray",),
    "xllamacpp": ("local",),
    "hatchling": ("_requests.vocabularies.hatch_build",),
}


def modules() -> dict[str, Path]:
    """Every module by its name below the package; the package itself is ``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The absolute names that a module imports anywhere, for types too."""
    path = MODULES[name]
    package = [PACKAGE, *filter(None, name.split("."))]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:  # what is imported may be a module itself
                whole = f"{source}.{alias.name}"
                yield whole if whole.removeprefix(f"{PACKAGE}.") in MODULES else source


def ours(name: str) -> set[str]:
    """The modules of the package that a module imports, by their names below it."""
    found = {each.removeprefix(PACKAGE).removeprefix(".") for each in imports(name) if _is_ours(each)}
    return found - {name}


def _is_ours(imported: str) -> bool:
    return imported.split(".")[0] == PACKAGE


def layer(name: str) -> int:
    top = name.split(".")[0]
    [level] = [number for number, layer in enumerate(LAYERS) if top in layer] or [-1]
    assert level >= 0, f"{name} has no layer yet; give it one in LAYERS."
    return level


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_nothing_from_above_it(name: str) -> None:
    assert [each for each in ours(name) if layer(each) > layer(name)] == []


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: ours(name) & MODULES.keys() for name in MODULES if name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for each in graph.get(name, ()):
                visit(each, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_a_third_party_library_comes_in_by_its_door(name: str) -> None:
    for imported in imports(name):
        top = imported.split(".")[0]
        if top == PACKAGE or top in sys.stdlib_module_names:
            continue
        assert top in DOORS, f"{name} imports {top}, which has no door."
        doors = DOORS[top]
        assert any(name == door or name.startswith(f"{door}.") for door in doors), f"{name} imports {top}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("local.simulator")])
def test_the_simulator_imports_nothing_of_ours(name: str) -> None:
    assert {each for each in ours(name) if not each.startswith("local.simulator")} == set()


def test_the_runner_imports_no_http_pandas_or_progress_bar() -> None:
    assert {"aiohttp", "pandas", "tqdm"}.isdisjoint(imports("_run.runner"))
    assert ours("_run.runner").isdisjoint(
        {"_http.transport", "_journal.journal", "_progress.progress", "_progress.bars"}
    )


def test_all_but_five_places_is_private() -> None:
    assert {name.split(".")[0] for name in MODULES if not name.startswith("_")} == {"", "cli", "errors", "local"}
    assert "__main__" in MODULES


def test_no_two_files_share_a_name() -> None:
    """But for the simulator's, which is a house of its own."""
    names = [
        name.rpartition(".")[2] for name in MODULES if not name.startswith("local.simulator") and not _is_room(name)
    ]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def _is_room(name: str) -> bool:
    return MODULES[name].name == "__init__.py"


def test_no_folder_holds_more_than_a_dozen_files() -> None:
    folders = Counter(path.parent for path in MODULES.values())
    assert {str(folder): count for folder, count in folders.items() if count > 12} == {}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'proces_dataframe'"):
        parallel_openai.proces_dataframe  # noqa: B018


def test_dir_of_the_package_equals_its_all() -> None:
    assert dir(parallel_openai) == parallel_openai.__all__


def test_all_is_sorted_and_every_name_exists() -> None:
    listed = parallel_openai.__all__
    assert listed == sorted(listed)
    imported = [alias.name for node in _imports_of_the_face() for alias in node.names]
    assert sorted(name for name in imported if not name.startswith("_")) == listed
    assert all(hasattr(parallel_openai, name) for name in listed)


def test_lazy_imports_match_those_for_type_checkers() -> None:
    later = {node.module: " ".join(alias.name for alias in node.names) for node in _imports_of_the_face(later=True)}
    assert later == {f"{PACKAGE}.{place}": names for place, names in parallel_openai._LATER.items()}


def _imports_of_the_face(*, later: bool = False) -> list[ast.ImportFrom]:
    body = ast.parse(MODULES[""].read_text("utf-8")).body
    inner = [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    nodes = [node for node in (inner if later else body + inner) if isinstance(node, ast.ImportFrom)]
    return [node for node in nodes if (node.module or "").startswith(PACKAGE)]


@pytest.mark.parametrize("name", sorted(set(parallel_openai.__all__) - {"errors", "local"}))
def test_everything_public_is_documented(name: str) -> None:
    assert (getattr(parallel_openai, name).__doc__ or "").strip()


@pytest.mark.parametrize("name", [name for name in parallel_openai.__all__ if f"a{name}" in parallel_openai.__all__])
def test_async_functions_have_the_signature_of_the_blocking_ones(name: str) -> None:
    import inspect

    blocking, awaitable = (inspect.signature(getattr(parallel_openai, each)) for each in (name, f"a{name}"))
    assert blocking == awaitable


HEAVY = [
    "jinja2",
    "tiktoken",
    "genai_prices",
    "matplotlib",
    "sklearn",
    "statsmodels",
    "aiohttp.web",
    "tqdm",
    "pydantic",
    "nest_asyncio",
]


def run(code: str, **further: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), **further}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run(f"import sys, parallel_openai; print([name for name in {HEAVY} if name in sys.modules])") == "[]\n"


def test_importing_the_package_is_quick(tmp_path: Path) -> None:
    code = (
        "import time; began = time.process_time(); import pandas; between = time.process_time();"
        "import parallel_openai; print((time.process_time() - between) / (between - began))"
    )
    # Compiled once, as pip does it, which the environment may forbid.
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    run(code, **compiled)
    # Against pandas, which it needs, in processor time, and the best of three: machines differ, and are busy.
    assert min(float(run(code, **compiled)) for _ in range(3)) < 0.5
