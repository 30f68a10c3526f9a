"""All results of a series in one folder, which appears complete or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset

from medeyes_monai.deploy.encapsulated import encapsulated
from medeyes_monai.deploy.focus_seg import segmentation_of
from medeyes_monai.deploy.pages import pdf_of
from medeyes_monai.deploy.plain import plain
from medeyes_monai.deploy.presentation import presentations_of
from medeyes_monai.deploy.report_sr import report_of
from medeyes_monai.deploy.result import FocusResult
from medeyes_monai.deploy.source import Source
from medeyes_monai.errors import ConfigError

__all__ = ["contents_of", "write_results"]


def contents_of(results: Sequence[FocusResult], source: Source | None) -> dict[str, bytes]:
    """Return the files by name: ``results.json``, ``report.pdf``, and of DICOM ``sr.dcm``, ``pdf.dcm`` and,
    where a region was looked at, ``seg.dcm`` and the presentation states ``pr_1.dcm`` and so on.

    Args:
        results: What was found.
        source: The series; None for an image that is not DICOM.

    Raises:
        ConfigError: If there is no result.
    """  # noqa: D205
    if not results:
        raise ConfigError("there is nothing to write: no question was answered")
    text = json.dumps(plain(results, source), indent=1, ensure_ascii=False) + "\n"
    pdf = pdf_of(results)
    files = {"results.json": text.encode("utf-8", errors="replace"), "report.pdf": pdf}
    if source is not None:
        segmentation = segmentation_of(source, results)
        files["sr.dcm"] = _bytes_of(report_of(source, results))
        files["pdf.dcm"] = _bytes_of(encapsulated(source, pdf))
        states = enumerate(presentations_of(source, results), start=1)
        files |= {f"pr_{number}.dcm": _bytes_of(state) for number, state in states}
        files |= {"seg.dcm": _bytes_of(segmentation)} if segmentation is not None else {}
    return files


def write_results(
    folder: str | os.PathLike[str], results: Sequence[FocusResult], source: Source | None = None
) -> list[Path]:
    """Write all results into a new folder, which is renamed into place when it is complete.

    Args:
        folder: The folder; it must not exist, or be empty.
        results: What was found.
        source: The series; None for an image that is not DICOM.

    Returns:
        The files, by name.

    Raises:
        ConfigError: If the folder holds something, or there is no result.
        OSError: If it cannot be written; nothing is then left behind.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} holds something already; give a new folder for the results")
    files = contents_of(results, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        for name, content in files.items():
            (part / name).write_bytes(content)
        part.chmod(0o755)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return [target / name for name in sorted(files)]


def _bytes_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
