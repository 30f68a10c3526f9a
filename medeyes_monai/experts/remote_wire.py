"""What ``RemoteExpert`` and a server of an expert say to each other; see docs/expert_http.md."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.checked import MAX_CANDIDATES
from medeyes_monai.experts.native import native_image
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = [
    "VERSION",
    "candidate_record",
    "finding_records",
    "image_record",
    "png_bytes",
    "read_candidates",
    "read_verdict",
    "verdict_record",
]

VERSION = 1
"""Version of the interface."""


def image_record(scene: Scene, name: str) -> dict[str, str]:
    """Return the native voxels of a scene as they are sent: a picture as PNG, a volume as compressed NIfTI.

    Args:
        scene: A scene with an ``image``, as ``ImageScene`` and ``VolumeScene`` have.
        name: Name of the expert, for messages.

    Raises:
        ExpertError: If the scene has no such voxels, or they cannot be written in that form.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> image_record(ImageScene(np.zeros((1, 40, 30), np.uint8), key="a"), "x")["format"]
        'png'
    """
    image = native_image(scene, name)
    voxels = image.as_tensor().cpu().numpy()
    if len(scene.shape) == 2:
        return {"format": "png", "data": _text(png_bytes(_rows(voxels, name)))}
    affine = np.asarray(image.affine, dtype=np.float64)
    return {"format": "nifti.gz", "data": _text(_nifti(voxels, affine, name))}


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture ``uint8 (rows, columns[, 3])`` as PNG."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


def finding_records(scene: Scene) -> list[dict[str, Any]]:
    """Return what the data say is in the image, for experts that are made of annotations."""
    return [{"box": list(f.box.corners), "label": f.label, "subtle": f.subtle} for f in scene.findings]


def candidate_record(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as JSON; a mask as base64 of its bits in C order, eight to a byte.

    Example:
        >>> candidate_record(Candidate(Box((0, 0), (4, 4)), 0.5, "ring", np.ones((4, 4), bool)))["mask"]
        '//8='
    """
    mask = None if candidate.mask is None else _text(np.packbits(candidate.mask).tobytes())
    return {
        "box": list(candidate.box.corners),
        "confidence": candidate.confidence,
        "finding": candidate.finding,
        "mask": mask,
        "disagreement": candidate.disagreement,
    }


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON."""
    return {
        "confidence": verdict.confidence,
        "finding": verdict.finding,
        "answer": verdict.answer,
        "disagreement": verdict.disagreement,
    }


def read_candidates(reply: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """Read the candidates of a reply; the contract of an expert is checked elsewhere.

    Raises:
        ValueError: If something is not of the form that it should have, or their order is not best first.
        KeyError: If something is missing.
        TypeError: If something is of another type.
    """
    records = reply["candidates"]
    if not isinstance(records, list) or len(records) > MAX_CANDIDATES:
        raise ValueError(f"candidates is a list of at most {MAX_CANDIDATES:,}")
    candidates = tuple(_candidate(record) for record in records)
    confidences = [candidate.confidence for candidate in candidates]
    if confidences != sorted(confidences, reverse=True):
        raise ValueError("candidates stand best first, these do not")
    return candidates


def read_verdict(reply: Mapping[str, Any]) -> Verdict:
    """Read the verdict of a reply; the contract of an expert is checked elsewhere.

    Raises:
        ValueError: If something is not of the form that it should have.
        KeyError: If something is missing.
        TypeError: If something is of another type.
    """
    record = _object(reply["verdict"])
    disagreement = _number(record.get("disagreement", 0.0))
    return Verdict(_number(record["confidence"]), record["finding"], record.get("answer"), disagreement)


def _candidate(value: Any) -> Candidate:
    record = _object(value)
    corners = record["box"]
    if not isinstance(corners, list) or not all(type(v) is int for v in corners):
        raise ValueError("a box is a list of whole numbers")
    box = Box.from_corners(corners)
    mask = record.get("mask")
    return Candidate(
        box,
        _number(record["confidence"]),
        record["finding"],
        None if mask is None else _mask(mask, box),
        _number(record.get("disagreement", 0.0)),
    )


def _mask(text: str, box: Box) -> npt.NDArray[np.bool_]:
    bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(bits) != -(-box.size // 8):
        raise ValueError(f"a mask of {box.extent} has {-(-box.size // 8):,} bytes, got {len(bits):,}")
    return np.unpackbits(bits, count=box.size).astype(bool).reshape(box.extent)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object is wanted, got {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a number is wanted, got {type(value).__name__}")
    return float(value)


def _rows(voxels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Return a channel-first picture ``(C, X, Y)`` as ``(rows, columns)`` or ``(rows, columns, 3)``."""
    if voxels.dtype != np.uint8 or voxels.ndim != 3 or voxels.shape[0] not in (1, 3):
        raise ExpertError(
            f"{name}: a picture is sent as uint8 (1 or 3, X, Y), got {voxels.dtype} {voxels.shape}"
        )
    rows = voxels.transpose(2, 1, 0)
    return np.ascontiguousarray(rows[..., 0] if rows.shape[-1] == 1 else rows)


def _nifti(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], name: str) -> bytes:
    if voxels.ndim != 4 or voxels.shape[0] != 1:
        raise ExpertError(f"{name}: a volume is sent with one channel, (1, X, Y, Z); got {voxels.shape}")
    try:
        image = nibabel.Nifti1Image(voxels[0], affine)
    except (HeaderDataError, ValueError) as problem:
        raise ExpertError(f"{name}: {voxels.dtype} voxels cannot be sent; use uint8 or float32") from problem
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
