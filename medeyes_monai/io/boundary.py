"""Everything that a reading library throws becomes one exception that names the file and no header value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medeyes_monai.errors import GeometryError, MedEyesError, UnreadableImageError
from medeyes_monai.io.limits import RefusedError

__all__ = ["Reading", "naming"]


@dataclass
class Reading:
    """What is known of a file that is being read.

    Args:
        kind: Its format, for messages.
    """

    kind: str


@contextmanager
def naming(file: Path, kind: str = "an image") -> Iterator[Reading]:
    """Turn what goes wrong inside into ``UnreadableImageError`` with the file's name.

    Warnings of the readers are silenced: they quote header values.

    Raises:
        UnreadableImageError: Instead of whatever was raised, except this package's other errors.
    """
    reading = Reading(kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield reading
    except (RefusedError, GeometryError) as refusal:
        raise UnreadableImageError(f"{file.name}: {refusal}") from refusal
    except MedEyesError:
        raise
    except ImportError as missing:
        raise UnreadableImageError(
            f"{file.name}: its format needs the package {missing.name}; install it"
        ) from missing
    except Exception as error:
        raise UnreadableImageError(
            f"{file.name}: cannot be read as {reading.kind} ({type(error).__name__}); it is damaged or uses "
            "an encoding that is not supported"
        ) from error
