"""Replace paths of local image files in a request body by data URLs."""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallel_openai._requests.template import BadPromptError

#: The fields of a body that hold messages or their parts.
_CONTAINERS = ("messages", "input", "content")


def with_images(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with each Path that is an `image_url` replaced by a data URL; the same object without any.

    >>> with_images({"input": [{"type": "image_url", "image_url": Path("a.txt")}]})
    Traceback (most recent call last):
        ...
    parallel_openai._requests.template.BadPromptError: The suffix of 'a.txt' is not that of an image, such as .png.
    """
    changed: dict[str, Any] = {}
    for name in _CONTAINERS:
        given = body.get(name)
        if isinstance(given, (list, tuple)):
            items = [with_images(each) if isinstance(each, Mapping) else each for each in given]
            if any(new is not old for new, old in zip(items, given, strict=True)):
                changed[name] = items
    image = body.get("image_url")
    if isinstance(image, os.PathLike):
        url = data_url(image)
        changed["image_url"] = url if body.get("type") == "input_image" else {"url": url}
    elif isinstance(image, Mapping) and isinstance(image.get("url"), os.PathLike):
        changed["image_url"] = {**image, "url": data_url(image["url"])}
    return {**body, **changed} if changed else body


def data_url(path: os.PathLike[str]) -> str:
    """Return an image file as a data URL, with its type guessed from the suffix."""
    kind, _ = mimetypes.guess_type(Path(path).name)
    if kind is None or not kind.startswith("image/"):
        raise BadPromptError("invalid_prompt", f"The suffix of {str(path)!r} is not that of an image, such as .png.")
    try:
        content = Path(os.path.expanduser(path)).read_bytes()
    except OSError as error:
        raise BadPromptError("missing_file", f"The image {str(path)!r} cannot be read: {error.strerror}.") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
