"""The file in which a memo of expert calls is kept: JSON with a checksum, read without trust."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import MedEyesError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.checked import check_candidate, check_verdict
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["ImageMemo", "MemoError", "decode", "encode"]

FORMAT = 1
"""Number of the layout; a file with another number is asked for again."""


class MemoError(MedEyesError, ValueError):
    """A memo file is damaged or belongs to something else."""


@dataclass(slots=True)
class ImageMemo:
    """What an expert said about one image.

    Args:
        scans: Candidates by query.
        drills: Verdicts by query and region.
    """

    scans: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)
    drills: dict[tuple[str, Box], Verdict] = field(default_factory=dict)


def encode(memo: ImageMemo, scene: Scene, name: str) -> bytes:
    """Write a memo as JSON.

    Args:
        memo: What is to be kept.
        scene: The image that it is about.
        name: Name of the expert.

    Example:
        >>> from types import SimpleNamespace
        >>> scene = SimpleNamespace(key="a", shape=(20, 20))
        >>> memo = ImageMemo(drills={("what?", Box((0, 0), (4, 4))): Verdict(0.5, "ring")})
        >>> decode(encode(memo, scene, "me"), scene, "me") == memo
        True
    """
    content = {
        **_address(scene, name),
        "scans": [
            {"query": query, "candidates": [_from_candidate(c) for c in candidates]}
            for query, candidates in memo.scans.items()
        ],
        "drills": [
            {"query": query, "box": box.corners, "verdict": [v.confidence, v.finding, v.answer]}
            for (query, box), v in memo.drills.items()
        ],
    }
    return json.dumps({"sha256": _checksum(content), "content": content}).encode()


def decode(data: bytes, scene: Scene, name: str) -> ImageMemo:
    """Read a memo and hold everything in it to the contract of an expert.

    Raises:
        MemoError: If the data are damaged, or are about another image or expert.
    """
    try:
        whole = json.loads(data)
        content = whole["content"]
        if whole["sha256"] != _checksum(content):
            raise MemoError("its checksum does not fit")
        if any(content[k] != v for k, v in _address(scene, name).items()):
            raise MemoError("it belongs to another image, expert or format")
        memo = ImageMemo(
            scans={s["query"]: tuple(map(_to_candidate, s["candidates"])) for s in content["scans"]},
            drills={
                (d["query"], Box.from_corners(d["box"])): Verdict(*d["verdict"]) for d in content["drills"]
            },
        )
        _check(memo, scene, name)
    except MemoError:
        raise
    except (MedEyesError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise MemoError(f"it cannot be read ({type(problem).__name__})") from problem
    return memo


def _check(memo: ImageMemo, scene: Scene, name: str) -> None:
    for candidates in memo.scans.values():
        for candidate in candidates:
            check_candidate(candidate, scene, name)
    for verdict in memo.drills.values():
        check_verdict(verdict, name)


def _address(scene: Scene, name: str) -> dict[str, Any]:
    return {"format": FORMAT, "expert": name, "image": scene.key, "shape": list(scene.shape)}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _from_candidate(candidate: Candidate) -> dict[str, Any]:
    mask = (
        None if candidate.mask is None else base64.b64encode(np.packbits(candidate.mask).tobytes()).decode()
    )
    return {
        "box": candidate.box.corners,
        "confidence": candidate.confidence,
        "finding": candidate.finding,
        "mask": mask,
    }


def _to_candidate(record: Mapping[str, Any]) -> Candidate:
    box = Box.from_corners(record["box"])
    mask = None if record["mask"] is None else _unpack(record["mask"], box)
    return Candidate(box, record["confidence"], record["finding"], mask)


def _unpack(text: str, box: Box) -> npt.NDArray[np.bool_]:
    bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(bits) != -(-box.size // 8):
        raise MemoError("a mask does not fit its box")
    return np.unpackbits(bits, count=box.size).astype(bool).reshape(box.extent)
