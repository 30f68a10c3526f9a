"""The series of a folder, and the one that a question means."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.multival import MultiValue

from medeyes_monai.deploy.questions import RULE_TAGS, Question
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.io.boundary import naming
from medeyes_monai.io.dicom import parse
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS
from medeyes_monai.io.series import MOST_FILES, is_dicom

__all__ = ["Series", "choose_series", "read_study"]

LONGEST_VALUE = 256
"""Letters of a tag's value that a rule is compared with."""


@dataclass(frozen=True, slots=True)
class Series:
    """The images of one series.

    Args:
        tags: Values that rules may ask for; patients are not among them.
        files: Its files, by name.
    """

    tags: Mapping[str, str]
    files: tuple[Path, ...]


def read_study(folder: str | os.PathLike[str], *, max_voxels: int = DEFAULT_MAX_VOXELS) -> list[Series]:
    """Find the image series in a folder and the folders inside it.

    Files that are not DICOM, directories of media, and objects without an image are passed over.

    Args:
        folder: The folder.
        max_voxels: Most voxels of a file.

    Returns:
        The series, in the order of their first file.

    Raises:
        UnreadableImageError: If there is no image, there are too many files, or one is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UnreadableImageError(f"{root.name}: no such folder; give the folder of a study")
    found: dict[str, list[Path]] = {}
    tags: dict[str, Mapping[str, str]] = {}
    for path in _files(root):
        with naming(path, "DICOM"):
            header = parse(path, max_voxels, [*RULE_TAGS, "Rows", "Columns"], stop_before_pixels=True)
            if not {"Rows", "Columns"} <= set(header.dir()):
                continue
            uid = str(header.get("SeriesInstanceUID", ""))
            found.setdefault(uid, []).append(path)
            tags.setdefault(uid, {name: _text(header, name) for name in RULE_TAGS})
    if not found:
        raise UnreadableImageError(f"{root.name}: holds no DICOM image")
    return [Series(tags[uid], tuple(files)) for uid, files in found.items()]


def choose_series(series: Sequence[Series], question: Question) -> Series:
    """Return the one series that a question means.

    Raises:
        ConfigError: If none fits the rule, or several do; the message tells numbers, not values.
    """
    fitting = [one for one in series if question.fits(one.tags)]
    rule = " and ".join(question.series) or "no tag"
    if not fitting:
        raise ConfigError(
            f"{question.name}: none of {len(series)} series fits its rule about {rule}; change the rule"
        )
    if len(fitting) > 1:
        sizes = ", ".join(str(len(one.files)) for one in fitting)
        raise ConfigError(
            f"{question.name}: {len(fitting)} of {len(series)} series (with {sizes} files) fit its rule "
            f"about {rule}; make the rule narrower, or send one series"
        )
    return fitting[0]


def _files(root: Path) -> list[Path]:
    """Return the DICOM files below a folder, links not followed."""
    paths: list[Path] = []
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.is_symlink() or name == "DICOMDIR" or not path.is_file() or not is_dicom(path):
                continue
            paths.append(path)
            if len(paths) > MOST_FILES:
                raise UnreadableImageError(f"{root.name}: holds more than {MOST_FILES:,} DICOM files")
    return paths


def _text(header: Dataset, name: str) -> str:
    value = header.get(name)
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value))[:LONGEST_VALUE]
    return "" if value is None else str(value)[:LONGEST_VALUE]
