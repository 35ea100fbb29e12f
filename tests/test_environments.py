"""Unusual environments: odd streams, zip archives, empty variables, and folders with misnamed files."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._requests.encodings import encoding_for_model
from parallel_openai.errors import InvalidInputError, MissingDependencyError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server

ROOT = Path(po.__file__).parent


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
@pytest.mark.parametrize("name", ["base_url", "azure_endpoint"])
def test_an_empty_base_url_is_refused(name: str, empty: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} is empty"):
        po.Client(**{name: empty})  # type: ignore[arg-type]


class Sink:
    """What a program without a console puts in the place of stderr."""

    def __init__(self) -> None:
        self.said = ""

    def write(self, text: str) -> int:
        self.said += text
        return len(text)


def test_an_incomplete_stream_object_does_not_end_a_run(client: po.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Sink())
    out = po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", client=client)
    assert out["status"].tolist() == ["succeeded"]


@pytest.mark.parametrize("serve", ["po.local.simulator.serve(separate_process=True)", "po.local.model.serve()"])
def test_a_local_server_runs_no_file_of_the_working_folder(serve: str) -> None:
    if "model" in serve:
        pytest.importorskip("xllamacpp")
    for name in ("parallel_openai", "argparse", "aiohttp", "xllamacpp"):
        Path(f"{name}.py").write_text("open('owned', 'w').close()\nraise SystemExit(3)\n")
    program = f"import sys; sys.path.remove(''); import parallel_openai as po\nwith {serve} as server: print('served')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "served\n", done.stderr
    assert not Path("owned").exists()


def test_tokens_are_counted_if_the_package_is_imported_from_a_zip() -> None:
    with zipfile.ZipFile("package.zip", "w") as archive:
        for path in ROOT.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(ROOT.parent))
    program = "from parallel_openai._requests import encodings as e; "
    program += "print(e.__file__, e.get_encoding('o200k_base').encode('hello'))"
    environment = {**os.environ, "PYTHONPATH": str(Path("package.zip").absolute()), "TIKTOKEN_CACHE_DIR": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "package.zip" in done.stdout, done.stderr
    assert done.stdout.endswith("[24912]\n")


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("ft:gpt-4.1-mini-2025-04-14:acme::a1b2", "o200k_base"),
        ("ft:gpt-3.5-turbo-0125:acme::a1b2", "cl100k_base"),
        ("openai/gpt-3.5-turbo", "cl100k_base"),
    ],
)
def test_a_fine_tuned_model_uses_the_encoding_of_its_base_model(model: str, encoding: str) -> None:
    assert encoding_for_model(model) == encoding


def test_a_broken_package_is_not_reported_as_missing() -> None:
    Path("broken_extra.py").write_text("import no_such_library_of_c\n")
    sys.path.insert(0, "")
    try:
        with pytest.raises(ImportError) as failed:
            __import__("broken_extra")
    finally:
        sys.path.remove("")
    told = str(MissingDependencyError.of("Plots need", "broken_extra", failed.value))
    assert told.endswith("which is installed but cannot be imported: No module named 'no_such_library_of_c'")


def test_a_client_is_pickled_by_its_settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment-0123")
    with po.Client(server.base_url, max_requests_per_minute=600, headers={"X-Team": "blue"}) as client:
        content = pickle.dumps(client)
    assert b"sk-of" not in content
    with pickle.loads(content) as other:
        assert repr(other) == repr(client)
        assert other.account()["headers"] == client.account()["headers"]


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "sk-0123456789"},
        {"headers": {"X-Team-Pass": "swordfish"}},
        {"query": {"subscription": "blue-whale"}},
    ],
)
def test_a_client_with_a_key_of_its_own_is_not_pickled(server: Server, options: dict[str, object]) -> None:
    with (
        po.Client(server.base_url, **options) as client,  # type: ignore[arg-type]
        pytest.raises(pickle.PicklingError, match="OPENAI_API_KEY"),
    ):
        pickle.dumps(client)


def test_a_pool_is_pickled_with_its_members(server: Server) -> None:
    with po.Client.pool([{"base_url": server.base_url}, po.Client(server.base_url)]) as pool:
        assert repr(pickle.loads(pickle.dumps(pool))) == repr(pool)


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import json, pandas as pd, parallel_openai as po
from pathlib import Path
asked = [{"model": "m", "messages": [{"role": "user", "content": str(number)}]} for number in range(100)]
Path("in.jsonl").write_text("".join(json.dumps(each) + chr(10) for each in asked))
with po.Client(sys.argv[1], "none") as client:
    po.process_dataframe(pd.DataFrame({"text": range(100)}), "Say {text}.", model="m", client=client)
with po.Client(sys.argv[1], "none") as client:
    po.process_api_requests_from_file("in.jsonl", client=client)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files to lower")
def test_the_closing_line_mentions_a_limit_of_open_files_that_slowed_the_run(server: Server) -> None:
    server.set(latency=2.0)
    done = subprocess.run([sys.executable, "-c", FEW_FILES, server.base_url], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    told = re.findall(r"only about [345]\d requests at once, since this process may open no more files", done.stderr)
    assert len(told) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_local_server_process_does_not_inherit_api_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("https_proxy", "http://me:very-secret@127.0.0.1:9")
    with simulator.serve(separate_process=True):
        places = [each for each in Path("/proc").glob("[0-9]*") if _is_child(each)]
        children = [
            (each / "environ").read_bytes() for each in places if b"simulator" in (each / "cmdline").read_bytes()
        ]
    assert children
    assert not any(b"very-secret" in each for each in children)


def _is_child(process: Path) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:  # it has ended
        return False
