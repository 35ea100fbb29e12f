"""Pictures on this machine, as the data URLs that an API takes in their place."""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallel_openai._requests.template import BadPromptError

#: Where messages and their parts stand in a body.
_INSIDE = ("messages", "input", "content")


def with_images(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with the files, given as a Path in the place of an `image_url`, read in; itself where there are none.

    Raises:
        BadPromptError: a file cannot be read, or is no picture by its name.

    >>> with_images({"input": [{"type": "image_url", "image_url": Path("a.txt")}]})
    Traceback (most recent call last):
        ...
    parallel_openai._requests.template.BadPromptError: The file 'a.txt' is no picture by its name; .png or .jpg is one.
    """
    changed: dict[str, Any] = {}
    for name in _INSIDE:
        given = body.get(name)
        if isinstance(given, (list, tuple)):
            items = [with_images(each) if isinstance(each, Mapping) else each for each in given]
            if any(new is not old for new, old in zip(items, given, strict=True)):
                changed[name] = items
    picture = body.get("image_url")
    if isinstance(picture, os.PathLike):
        url = data_url(picture)
        changed["image_url"] = url if body.get("type") == "input_image" else {"url": url}
    elif isinstance(picture, Mapping) and isinstance(picture.get("url"), os.PathLike):
        changed["image_url"] = {**picture, "url": data_url(picture["url"])}
    return {**body, **changed} if changed else body


def data_url(path: os.PathLike[str]) -> str:
    """A picture's file as a data URL; its type is told by the end of its name.

    Raises:
        BadPromptError: it cannot be read, or its name is no picture's.
    """
    kind, _ = mimetypes.guess_type(Path(path).name)
    if kind is None or not kind.startswith("image/"):
        raise BadPromptError(
            "invalid_prompt", f"The file {str(path)!r} is no picture by its name; .png or .jpg is one."
        )
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadPromptError("missing_file", f"The picture {str(path)!r} cannot be read: {error.strerror}.") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
