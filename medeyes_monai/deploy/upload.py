"""A form with a file and a question, read piece by piece and never further than its limit."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from medeyes_monai.deploy.questions import Question
from medeyes_monai.errors import ConfigError

__all__ = ["FORM", "TooLargeError", "Upload", "read_form"]

CHUNK_BYTES = 2**18
MOST_TEXT = 2**16
"""Most bytes of a field that is not the file."""
KEYS = ("study", "question", "options", "series", "slices")

_TEXT = {"type": "string"}
FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["study", "question"],
                "properties": {
                    "study": {
                        "type": "string",
                        "format": "binary",
                        "description": "a zip of DICOM files, one DICOM file, NIfTI, NRRD, PNG or JPEG",
                    },
                    "question": _TEXT,
                    "options": _TEXT | {"description": "JSON list of answers to choose from"},
                    "series": _TEXT | {"description": "JSON mapping of tags to words in their values"},
                    "slices": _TEXT | {"description": "middle, each, or a JSON list of numbers from 0"},
                },
            }
        }
    },
}
"""The form, for the OpenAPI page."""


class TooLargeError(Exception):
    """An upload is larger than accepted.

    Args:
        most: The limit. Unit: bytes.
    """

    def __init__(self, most: int) -> None:
        """Say the limit."""
        super().__init__(f"the upload is larger than {most:,} bytes")


@dataclass(frozen=True, slots=True)
class Upload:
    """What came.

    Args:
        file: Where the study lies.
        question: What is asked about it.
    """

    file: Path
    question: Question


async def read_form(request: Request, target: Path, most: int) -> Upload:
    """Read a form, its file to a place on disk.

    Args:
        request: The request.
        target: File that the study is written to.
        most: Most bytes of the whole body.

    Raises:
        TooLargeError: If there are more.
        ConfigError: If it is no such form, or the question is wrong.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ConfigError("send a form (multipart/form-data) with the fields study and question")
    parser = MultiPartParser(
        request.headers, _bounded(request, most), max_files=1, max_fields=8, max_part_size=MOST_TEXT
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise ConfigError("the form cannot be read; send the fields study (a file) and question") from error
    try:
        unknown = [key for key in form if key not in KEYS]
        if unknown:
            raise ConfigError(f"the form has an unknown field; known are {', '.join(KEYS)}")
        study = form.get("study")
        if not isinstance(study, UploadFile):
            raise ConfigError("the form lacks the file 'study'")
        question = _question({key: form.get(key) for key in KEYS[1:] if key in form})
        with target.open("xb") as file:
            while chunk := await study.read(CHUNK_BYTES):
                file.write(chunk)
        return Upload(target, question)
    finally:
        await form.close()


async def _bounded(request: Request, most: int) -> AsyncIterator[bytes]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > most:
            raise TooLargeError(most)
        yield chunk


def _question(fields: dict[str, Any]) -> Question:
    if not all(isinstance(value, str) for value in fields.values()):
        raise ConfigError("only the field study is a file")
    slices = fields.get("slices", "middle")
    return Question(
        fields.get("question", ""),
        name="question",
        options=tuple(_json(fields, "options", list, [])),
        series={tag: _literal(words) for tag, words in _json(fields, "series", dict, {}).items()},
        slices=slices if slices in ("middle", "each") else tuple(_json(fields, "slices", list, [])),
    )


def _literal(words: Any) -> Any:
    """Return an expression that finds the words as they are: those of strangers could take for ever."""
    return re.escape(words) if isinstance(words, str) else words


def _json(fields: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    try:
        value = json.loads(fields[key]) if key in fields else default
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the field {key} is not JSON") from error
    if not isinstance(value, kind):
        raise ConfigError(f"the field {key} has to be a JSON {kind.__name__}")
    return value
