"""A folder that someone else prepared: nothing outside the call's own files is written, deleted or moved."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._limits.sharing import SharedAccount
from parallel_openai.errors import InvalidInputError, JournalError, ParallelOpenAIError
from parallel_openai.local.simulator import Server

DF = pd.DataFrame({"text": ["A wonderful lamp.", "It broke, terrible.", "Great value."]})
FOLDER = Path(".parallel_openai")
Verb = Callable[[], Any]


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What nobody named, beside the working folder: somebody's texts, journal, list and empty files."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.jsonl").write_text('{"chapter": 1}\n{"chapter": 2}')
    (outside / "thesis.txt").write_text("Chapter 1")
    (outside / "empty").write_bytes(b"")
    (outside / "journal.jsonl").write_text('[{"model":"m","messages":[]},{"choices":[]}]\n[{"model"')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return outside


def everything(folder: Path) -> dict[str, Any]:
    return {
        str(each): (each.lstat().st_mode, each.lstat().st_mtime_ns, each.read_bytes() if each.is_file() else None)
        for each in sorted(folder.rglob("*"))
    }


def verbs(client: po.Client, save_to: Path | None = None) -> dict[str, Verb]:
    how: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "save_to": save_to, "progress": False}
    labels, lane = ["positive", "negative"], po.BatchLane(wait=False)
    Path("requests.jsonl").write_text('{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}\n')
    labelled = pd.DataFrame({"text": DF["text"], "label": ["positive"] * 3})
    return {
        "process": partial(po.process_dataframe, DF, "text", **how),
        "label": partial(po.label_dataframe, DF, "text", labels=labels, **how),
        "embed": partial(po.embed_dataframe, DF, "text", **{**how, "model": "text-embedding-3-small"}),
        "preview": partial(po.preview, DF, "text", **{name: how[name] for name in ("model", "client", "save_to")}),
        "batch": partial(po.process_dataframe, DF, "text", lane=lane, **how),
        "review": lambda: po.review(labelled, labels=labels, text="text", save_to=save_to).correct(0, "negative"),
        "peek": partial(po.peek, save_to) if save_to else po.peek,
        "read": partial(po.read_journal, save_to or FOLDER / "a.jsonl"),
        "status": partial(po.batch_status, save_to or FOLDER / "a.jsonl", client=client),
        "collect": partial(po.collect_batches, save_to or FOLDER / "a.jsonl", client=client, lane=lane, progress=False),
        "cancel": partial(po.cancel_batches, save_to or FOLDER / "a.jsonl", client=client),
        "file": partial(
            po.process_api_requests_from_file, "requests.jsonl", save_to or "requests_results.jsonl", client=client
        ),
    }


def run_all(client: po.Client, save_to: Path | None = None) -> dict[str, Exception]:
    """Every verb; what each says against it, which is always a sentence of ours."""
    said: dict[str, Exception] = {}
    for name, verb in verbs(client, save_to).items():
        try:
            verb()
        except ParallelOpenAIError as error:
            said[name] = error
    return said


def test_a_default_folder_that_is_a_link_is_refused_by_every_function(client: po.Client, foreign: Path) -> None:
    FOLDER.symlink_to(foreign, target_is_directory=True)
    before = everything(foreign)
    said = run_all(client)
    assert everything(foreign) == before
    for name in ("process", "label", "embed", "batch"):
        assert "is a link" in str(said[name])


@pytest.mark.parametrize("ending", ["", ".lock", ".lock.holder"])
@pytest.mark.parametrize("target", ["thesis.txt", "thesis.jsonl", "journal.jsonl", "empty", "missing"])
def test_a_journal_or_lock_that_is_a_link_is_not_followed(
    client: po.Client, foreign: Path, ending: str, target: str
) -> None:
    said = run_all(client)
    journals = sorted(FOLDER.glob("*.jsonl"))
    assert len(journals) == 3
    assert not set(said) & {"process", "label", "embed", "file"}
    for each in journals:
        place = each.with_name(each.name + ending)
        place.unlink(missing_ok=True)
        place.symlink_to(foreign / target)
    before = everything(foreign)
    said = run_all(client)
    assert everything(foreign) == before
    assert all("is a link" in str(said[name]) for name in ("process", "label", "embed"))


def test_default_results_are_not_written_through_a_link(client: po.Client, foreign: Path) -> None:
    Path("in.jsonl").write_text('{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}\n')
    Path("in_results.jsonl").symlink_to(foreign / "journal.jsonl")
    before = everything(foreign)
    with pytest.raises(JournalError, match="is a link"):
        po.process_api_requests_from_file("in.jsonl", client=client)
    assert everything(foreign) == before


@pytest.mark.parametrize("fence", ["link", "!*\n", "*\n!*.jsonl\n", "# *\n"])
def test_a_gitignore_that_does_not_exclude_the_folder_is_refused(client: po.Client, foreign: Path, fence: str) -> None:
    FOLDER.mkdir()
    if fence == "link":
        (FOLDER / ".gitignore").symlink_to(foreign / "empty")
    else:
        (FOLDER / ".gitignore").write_text(fence)
    before = everything(foreign), everything(FOLDER)
    with pytest.raises(JournalError, match="is a link" if fence == "link" else "lets git take in"):
        po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
    assert (everything(foreign), everything(FOLDER)) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
def test_a_pipe_at_a_default_path_does_not_block(client: po.Client, foreign: Path) -> None:
    FOLDER.mkdir()
    other_journal = FOLDER / "gpt-4o-mini-000000000000.jsonl"
    os.mkfifo(other_journal)
    assert not set(run_all(client)) & {"process", "label", "embed", "file"}
    other_journal.unlink()
    beside = [f"{each}{ending}" for each in FOLDER.glob("*.jsonl") for ending in (".lock", ".batches", ".origins")]
    beside += ["requests_results.jsonl.origins", "requests_results.jsonl.lock.holder", "answers.review.jsonl"]
    for each in map(Path, beside):
        shutil.rmtree(each, ignore_errors=True)
        each.unlink(missing_ok=True)
        os.mkfifo(each)
    said = run_all(client)
    for name in ("process", "label", "embed", "batch", "review", "file"):
        assert "is no ordinary file" in str(said[name])
    (FOLDER / ".gitignore").unlink()
    os.mkfifo(FOLDER / ".gitignore")
    assert ".gitignore is no ordinary file" in str(run_all(client)["process"])
    with pytest.raises(JournalError, match="is no ordinary file"):
        po.review(DF.assign(label="a"), labels=["a"], text="text", save_to="answers.review.jsonl")


def test_a_users_file_named_like_a_lock_is_not_overwritten(client: po.Client, foreign: Path) -> None:
    lock = Path("mine.jsonl.lock")
    lock.write_text("Chapter 1")
    with pytest.raises(JournalError, match="is not a lock file"):
        po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False, save_to="mine.jsonl")
    assert lock.read_text() == "Chapter 1"
    lock.write_text("process 1 on another host")
    po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False, save_to="mine.jsonl")


def test_a_gitignore_may_exclude_itself(client: po.Client) -> None:
    FOLDER.mkdir()
    (FOLDER / ".gitignore").write_text("*\n!.gitignore\n")
    po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)


def test_a_link_given_as_save_to_is_followed(client: po.Client, foreign: Path) -> None:
    Path("mine.jsonl").symlink_to(foreign / "mine.jsonl")
    po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False, save_to="mine.jsonl")
    assert len((foreign / "mine.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("name", ["thesis.jsonl", "thesis.txt"])
def test_a_file_that_is_not_a_journal_is_unchanged_by_every_function(
    client: po.Client, foreign: Path, name: str
) -> None:
    before = everything(foreign)
    said = run_all(client, foreign / name)
    assert everything(foreign) == before
    assert {"process", "label", "embed", "batch", "review", "file"} <= set(said)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_files_owned_by_another_user_are_refused(client: po.Client, foreign: Path) -> None:
    FOLDER.mkdir()
    os.chown(FOLDER, 12345, -1)
    before = everything(FOLDER)
    with pytest.raises(JournalError, match=r"belongs to another user \(number 12345\)"):
        po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
    assert everything(FOLDER) == before


def test_a_shared_accounts_folder_that_is_a_link_is_refused(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: ".")
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    (foreign / "lab").mkdir()
    (foreign / "lab" / "a.lease").write_text("")
    Path("parallel_openai-ann").symlink_to(foreign, target_is_directory=True)
    before = everything(foreign)
    with pytest.raises(JournalError, match="is a link"):
        asyncio.run(SharedAccount("lab").join())
    assert everything(foreign) == before


@pytest.mark.parametrize("name", ["thesis.jsonl", "new/folder/a.jsonl"])
def test_a_loaded_frame_cannot_choose_where_a_review_is_written(client: po.Client, foreign: Path, name: str) -> None:
    out = po.label_dataframe(
        DF, "text", labels=["positive", "negative"], model="gpt-4o-mini", client=client, progress=False
    )
    out.attrs["parallel_openai"]["journal"] = str(foreign / name)
    before = everything(foreign)
    with pytest.raises(InvalidInputError, match="save_to="):
        po.review(out)
    assert everything(foreign) == before


def test_a_review_is_written_beside_a_journal_used_in_this_process(client: po.Client, foreign: Path) -> None:
    out = po.label_dataframe(
        *(DF, "text"),
        labels=["positive", "negative"],
        model="gpt-4o-mini",
        client=client,
        progress=False,
        save_to=foreign / "mine.jsonl",
    )
    po.review(out).correct(0, "negative")
    assert (foreign / "mine.review.jsonl").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_a_journal_with_open_permissions_is_made_private_before_it_is_extended(client: po.Client) -> None:
    out = po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
    path = Path(out.attrs["parallel_openai"]["journal"])
    for mode, then in ((0o644, 0o600), (0o666, 0o600), (0o640, 0o640)):
        path.chmod(mode)
        po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
        assert stat.S_IMODE(path.stat().st_mode) == then
    po.append_to_jsonl([1, 2], "notes.jsonl")
    assert stat.S_IMODE(Path("notes.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("model", ["模" * 90, "é" * 300, "a/b\\c:d\0e\n", "x" * 300, ".." * 10])
def test_any_model_name_gives_a_valid_file_name(client: po.Client, model: str) -> None:
    out = po.process_dataframe(DF, "text", model=model, client=client, progress=False)
    assert Path(out.attrs["parallel_openai"]["journal"]).parent == FOLDER
    assert all(each.parent == FOLDER for each in FOLDER.rglob("*"))


@pytest.mark.parametrize("name", ["a\0b.jsonl", "x" * 300, "模" * 90, "x" * 252])
def test_an_invalid_path_is_refused_with_a_clear_error(client: po.Client, name: str) -> None:
    for verb, said in ((verb, str(error)) for verb, error in run_all(client, Path(name)).items()):
        assert said.endswith((".", "'")), verb
    with pytest.raises(ParallelOpenAIError):
        po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False, save_to=name)


def test_a_manipulated_journal_gives_no_answers_and_breaks_no_function(client: po.Client, foreign: Path) -> None:
    out = po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
    path = Path(out.attrs["parallel_openai"]["journal"])
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    keys = [line[3]["key"] for line in lines]
    for line, key in zip(lines, [*keys[1:], keys[0]], strict=True):
        line[3]["key"] = key
    deep = b"[" * 700 + b"]" * 700
    odd = [b'[{"model":"m"},' + deep + b"]", b"[{}]", b'[{"model":"m"},{},null,{"key":5}]', b'[{"model":"m"},[],null]']
    half = [{"model": "\ud800"}, lines[0][1], None, {**lines[0][3], "key": keys[0]}]  # of a pair: no text
    odd.append(json.dumps(half).encode())
    path.write_bytes(b"".join(each + b"\n" for each in [*(json.dumps(line).encode() for line in lines), *odd]))
    before = everything(foreign)
    again = po.process_dataframe(DF, "text", model="gpt-4o-mini", client=client, progress=False)
    assert again["response"].tolist() == out["response"].tolist()
    run_all(client, path)
    assert everything(foreign) == before


#: What a frame's attrs may be made to say, by the field of theirs.
LIES: list[tuple[str, Any]] = [
    *((name, lie) for name in ("prefix", "answer", "journal", "endpoint") for lie in (None, 1, [], {"a": 1})),
    *((name, lie) for name in ("params", "labels", "metadata", "made", "earlier", "columns") for lie in (None, 5, "x")),
    ("began", None),
    ("began", "yesterday"),
    ("samples", []),
    ("labels", {"label": None}),
    ("labels", {"label": {"kind": 5, "labels": 5}}),
    ("labels", {"label": {"kind": "one", "labels": [[1]]}}),
    ("columns", [[1]]),
    ("made", {"process ": None}),
    ("made", {"process ": {"sums": {"response": 5}}}),
    ("earlier", [None, {"prefix": 5}]),
]


@pytest.mark.filterwarnings("ignore:For fine-tuning")
@pytest.mark.parametrize("whole", [True, False], ids=["alone", "beside-what-is-true"])
def test_invalid_attrs_of_a_frame_break_no_function(client: po.Client, whole: bool, server: Server) -> None:
    how: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False}
    out = po.label_dataframe(DF, "{text}", labels=["positive", "negative"], **how)
    asked = server.stats()["received"]
    told = {} if whole else out.attrs["parallel_openai"]
    for name, lie in LIES:
        out.attrs = {"parallel_openai": {**told, name: lie}}
        verbs: list[Verb] = [
            partial(po.explain, out, 0),
            partial(po.review, out, text="text"),
            partial(po.evaluate, out, gold="text"),
            partial(po.evaluate, out),
            partial(po.agreement, out, ["label", "text"]),
            partial(po.label_dataframe, out, "{text}", labels=["positive", "negative"], **how),
            partial(po.vectors, out),
            *(
                partial(po.to_jsonl, out, "out.jsonl", format=kind)
                for kind in ("records", "results", "batch", "fine-tuning", "label-studio")
            ),
        ]
        for verb in verbs:
            with suppress(ParallelOpenAIError):
                verb()
    assert server.stats()["received"] == asked
