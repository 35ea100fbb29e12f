"""Uploaded files: `/v1/files`. The contents are in a temporary directory, since a batch's may be large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import BodyPartReader, web

from parallel_openai.local.simulator.refusals import Refusal

MAX_FILE_BYTES = 512 * 2**20
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


@dataclass(frozen=True)
class StoredFile:
    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    path: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """The files of the account, oldest first."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writers: list[Writer] = []
        self._files: dict[str, StoredFile] = {}
        self.uploaded = 0

    async def upload(self, request: web.Request) -> StoredFile:
        """Store the file of a multipart form with `purpose` and `file`."""
        if not request.content_type.startswith("multipart/"):
            raise Refusal(400, "The request must be multipart/form-data, with the fields 'purpose' and 'file'.")
        purpose, filename, path, size = None, None, self._new_path(), 0
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refusal(400, "A part of the form is itself multipart.")
            if part.name == "purpose":
                purpose = await part.text()
            elif part.name == "file":
                filename = part.filename or "file"
                size = await _store(part, _open_new(path))
        if purpose is None:
            raise Refusal(400, "'purpose' is a required property", param="purpose")
        if filename is None:
            raise Refusal(400, "'file' is a required property", param="file")
        if purpose not in PURPOSES:
            raise Refusal(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'", param="purpose")
        if purpose == "batch" and not filename.endswith(".jsonl"):
            raise Refusal(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
        if not size:
            raise Refusal(400, "File is empty.", code="empty_file", param="file")
        self.uploaded += 1
        return self._add(filename, purpose, size, path)

    def writer(self, filename: str) -> Writer:
        writer = Writer(self, filename)
        self._writers.append(writer)
        return writer

    def get(self, file_id: str) -> StoredFile:
        try:
            return self._files[file_id]
        except KeyError:
            raise self.unknown(file_id) from None

    def unknown(self, file_id: str) -> Refusal:
        return Refusal(404, f"No such File object: {file_id}", param="id")

    def delete(self, file_id: str) -> dict[str, Any]:
        self.get(file_id).path.unlink(missing_ok=True)
        del self._files[file_id]
        return {"id": file_id, "object": "file", "deleted": True}

    def listed(self, purpose: str | None, order: str) -> list[dict[str, Any]]:
        found = [each.as_json() for each in self._files.values() if purpose in (None, each.purpose)]
        return found if order == "asc" else found[::-1]

    def close(self) -> None:
        for writer in self._writers:  # of batches in progress
            writer.abandon()
        if self._folder is not None:
            self._folder.cleanup()

    def _add(self, filename: str, purpose: str, size: int, path: Path) -> StoredFile:
        file = StoredFile(f"file-simulated{os.urandom(8).hex()}", filename, purpose, size, int(self._time()), path)
        self._files[file.id] = file
        return file

    def _new_path(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="simulated-files-")
        return Path(self._folder.name) / os.urandom(8).hex()


class Writer:
    """Writes a file line by line; `close` returns it, or None if nothing was written."""

    def __init__(self, files: Files, filename: str) -> None:
        self._files, self._filename = files, filename
        self._path = files._new_path()
        self._file = _open_new(self._path)

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.write(b"\n")

    def close(self) -> StoredFile | None:
        size = self._file.tell()
        self._file.close()
        self._files._writers.remove(self)
        return self._files._add(self._filename, "batch_output", size, self._path) if size else None

    def abandon(self) -> None:
        self._file.close()


async def _store(part: BodyPartReader, file: BinaryIO) -> int:
    size = 0
    with file:
        while chunk := await part.read_chunk(2**18):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise Refusal(413, f"The file is larger than {MAX_FILE_BYTES} bytes.", code="file_too_large")
            file.write(chunk)
    return size


def _open_new(path: Path) -> BinaryIO:
    return open(path, "wb")
