"""Encodings: the shipped vocabularies, where they are loaded from, and that they count as tiktoken does."""

import hashlib
import inspect
import json
import lzma
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiktoken

from parallel_openai._requests import encodings, vocabularies
from parallel_openai._requests.encodings import encoding_for_model, get_encoding
from parallel_openai._requests.tokens import count_tokens
from parallel_openai._requests.vocabularies import hatch_build
from parallel_openai.errors import InvalidInputError, ParallelOpenAIError

ROOT = Path(__file__).parents[2]

TEXTS = [
    "",
    "What is the sentiment of this review?",
    "Ce n'était pas mal du tout : 12 345,67 € !",
    "これは日本語の文章です。한국어도 있어요. И по-русски.",
    "def f(x):\n    return x ** 2  # square\n\n\n",
    "👩‍👩‍👧‍👦 🇩🇪 zero\u200dwidth",
    "trailing spaces   \n \t mixed \r\n ends  ",
    "I'LL we've THEY'RE don't",
    "<|endoftext|> and <|im_start|>",
    "lone \ud800 surrogate",
    "a b " * 20_000,
    "one longer paragraph of words that differ a little, 1 2 3. " * 1_500,
]


def in_a_new_process(script: str, *arguments: str, **environment: str) -> str:
    """Run where tiktoken has loaded nothing yet and can reach no network."""
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **unreachable, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cache_name(vocabulary: str) -> str:
    url = f"https://openaipublic.blob.core.windows.net/encodings/{vocabulary}.tiktoken"
    return hashlib.sha1(url.encode()).hexdigest()


@pytest.fixture
def tiktoken_cache(tmp_path: Path) -> Path:
    """A folder as tiktoken leaves it after its downloads."""
    for name in ("cl100k_base", "o200k_base"):
        (tmp_path / cache_name(name)).write_bytes(vocabularies.read(name))
    return tmp_path


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A copy of the vocabularies, one of which has other content."""
    for name in ("cl100k_base.tiktoken.xz", "o200k_base.tiktoken.xz", "SHA256SUMS"):
        shutil.copy(vocabularies.FOLDER / name, tmp_path)
    (tmp_path / "o200k_base.tiktoken.xz").write_bytes(lzma.compress(b"IQ== 0\n"))
    return tmp_path


# The shipped files


def test_the_checksums_are_those_that_tiktoken_expects() -> None:
    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public)

    assert all(digest in source for digest in vocabularies.sums().values())


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_each_shipped_vocabulary_has_the_expected_checksum(name: str) -> None:
    digest = hashlib.sha256(vocabularies.read(name)).hexdigest()

    assert digest == vocabularies.sums()[f"{name}.tiktoken"]


def test_every_shipped_vocabulary_has_a_checksum() -> None:
    assert {path.stem for path in vocabularies.FOLDER.glob("*.xz")} == set(vocabularies.sums())


def test_a_damaged_vocabulary_is_refused_with_a_clear_error(damaged: Path) -> None:
    with pytest.raises(ValueError, match=r"o200k_base\.tiktoken\.xz is damaged: its sha256 is wrong; install"):
        vocabularies.ranks("o200k_base", folder=damaged)


def test_a_truncated_vocabulary_is_refused_with_a_clear_error(damaged: Path) -> None:
    (damaged / "o200k_base.tiktoken.xz").write_bytes(b"not xz")

    with pytest.raises(ValueError, match="cannot be read"):
        vocabularies.ranks("o200k_base", folder=damaged)


def test_a_damaged_vocabulary_is_one_of_our_errors_when_counting(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))

    with pytest.raises(ParallelOpenAIError, match="is damaged"):
        encodings._load_shipped("o200k_base", folder=damaged)


def test_the_build_refuses_a_damaged_vocabulary(damaged: Path) -> None:
    with pytest.raises(ValueError, match="is damaged"):
        hatch_build.check(damaged)


def test_the_build_hook_accepts_the_shipped_vocabularies() -> None:
    pytest.importorskip("hatchling", reason="hatchling runs the hook; it is a part of the build, not of the package")
    hook = hatch_build.get_build_hook()(str(ROOT), {}, None, None, "", "wheel")  # type: ignore[arg-type]

    hook.initialize("standard", {})


# Encodings


def test_importing_the_counter_does_not_import_tiktoken() -> None:
    script = "import sys; import parallel_openai._requests.tokens; print('tiktoken' in sys.modules)"

    assert in_a_new_process(script).strip() == "False"


COUNT = """
import json, sys
from parallel_openai._requests import tokens
texts = json.loads(open(sys.argv[1], encoding="utf-8").read())
names = ["cl100k_base", "o200k_base", "o200k_harmony"]
print(json.dumps([[tokens.count_tokens(text, name) for text in texts] for name in names]))
"""

COUNT_BY_TIKTOKEN = """
import json, sys, tiktoken
texts = json.loads(open(sys.argv[1], encoding="utf-8").read())
names = ["cl100k_base", "o200k_base", "o200k_harmony"]
print(json.dumps([[len(tiktoken.get_encoding(name).encode_ordinary(text)) for text in texts] for name in names]))
"""


def test_offline_token_counts_equal_tiktokens(tiktoken_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("empty")
    texts = folder / "texts.json"
    texts.write_text(json.dumps(TEXTS), encoding="utf-8")

    theirs = in_a_new_process(COUNT_BY_TIKTOKEN, str(texts), TIKTOKEN_CACHE_DIR=str(tiktoken_cache))
    offline = in_a_new_process(COUNT, str(texts), TIKTOKEN_CACHE_DIR=str(folder))

    assert json.loads(offline) == json.loads(theirs)


def test_the_shipped_encodings_split_text_and_name_special_tokens_as_tiktoken_does(tiktoken_cache: Path) -> None:
    script = """
from tiktoken_ext import openai_public
from parallel_openai._requests import encodings
for name, (_, pattern, special) in encodings._SHIPPED.items():
    theirs = openai_public.ENCODING_CONSTRUCTORS[name]()
    print(theirs["pat_str"] == pattern, theirs["special_tokens"] == special)
"""
    assert in_a_new_process(script, TIKTOKEN_CACHE_DIR=str(tiktoken_cache)).split() == ["True"] * 6


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_tiktokens_own_cache_is_used_when_it_has_the_file(
    variable: str, tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, str(tiktoken_cache))

    assert encodings._load("cl100k_base") is tiktoken.get_encoding("cl100k_base")


def test_a_damaged_file_in_tiktokens_cache_is_left_alone(tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tiktoken would delete it and download another.
    damaged_file = tiktoken_cache / cache_name("o200k_base")
    damaged_file.write_bytes(b"damaged")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))

    assert encodings._load("o200k_base").encode("hello world") == [24912, 2375]
    assert damaged_file.read_bytes() == b"damaged"


@pytest.mark.parametrize("folder", ["", None], ids=["switched off", "the default"])
def test_without_a_cache_folder_the_shipped_file_is_read(
    folder: "str | None", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if folder is not None:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", folder)

    assert encodings._load("o200k_base").encode("hello world") == [24912, 2375]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit on a file's size")
def test_on_a_full_disk_which_has_no_temporary_folder_the_shipped_file_is_read() -> None:
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
from parallel_openai._requests.tokens import count_tokens
count = count_tokens("hello world", "o200k_base")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(count)
"""
    environment = {name: value for name, value in os.environ.items() if "_CACHE_DIR" not in name}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (b"2", b"")


def test_an_encoding_that_cannot_be_fetched_is_replaced_and_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert [count_tokens("hello world", "p50k_base") for _ in range(2)] == [2, 2]
    assert get_encoding("p50k_base").name == "o200k_base"
    assert caplog.messages == ["tiktoken cannot fetch p50k_base (ProxyError); counting with o200k_base."]


def test_an_unknown_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"No token encoding 'o300k'; tiktoken has \['cl100k_base'"):
        get_encoding("o300k")


def test_threads_share_one_encoding() -> None:
    encodings._encodings.clear()
    with ThreadPoolExecutor(8) as threads:
        loaded = set(threads.map(get_encoding, ["cl100k_base"] * 16))

    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        (None, "o200k_base"),
        ("gpt-5-mini", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("ft:gpt-4o-mini-2024-07-18:us::abc", "o200k_base"),
        ("text-davinci-003", "p50k_base"),
        ("smollm2-135m-instruct", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_each_model_has_its_encoding(model: "str | None", encoding: str) -> None:
    assert encoding_for_model(model) == encoding


def test_an_unknown_model_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "parallel_openai")

    encoding_for_model("a-model-of-my-own")
    encoding_for_model("a-model-of-my-own")

    assert caplog.messages == [
        "tiktoken does not know the model 'a-model-of-my-own'; its tokens are counted with o200k_base."
    ]
