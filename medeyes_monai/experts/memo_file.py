"""The file in which one reply of an expert is kept: JSON with a checksum, read without trust."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import MedEyesError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.checked import check_candidate, check_verdict
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["Asked", "MemoError", "Reply", "decode", "encode"]

FORMAT = 2
"""Number of the layout; a file with another number is asked for again."""

Reply = tuple[Candidate, ...] | Verdict
"""What a scan or a drill gives."""


class MemoError(MedEyesError, ValueError):
    """A memo file is damaged or belongs to something else."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an expert was asked: all that its reply depends on.

    Args:
        image: Digest of what the image shows.
        expert: Name of the expert, which tells its settings apart.
        version: Version of the expert, where its name does not tell it.
        query: What was asked.
        box: The region of a drill; None for a scan. Unit: voxels of the scene.
    """

    image: str
    expert: str
    version: str
    query: str
    box: Box | None = None

    @property
    def key(self) -> str:
        """Digest of all of it, 32 hexadecimal digits."""
        return hashlib.blake2b(json.dumps(self.to_dict()).encode(), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "image": self.image,
            "expert": self.expert,
            "version": self.version,
            "query": self.query,
            "box": None if self.box is None else list(self.box.corners),
        }


def encode(asked: Asked, reply: Reply) -> bytes:
    """Write a reply as JSON.

    Args:
        asked: What was asked.
        reply: Candidates of a scan, or the verdict of a drill.

    Example:
        >>> from types import SimpleNamespace
        >>> scene = SimpleNamespace(shape=(20, 20))
        >>> asked = Asked("0a1b", "me", "", "what?", Box((0, 0), (4, 4)))
        >>> decode(encode(asked, Verdict(0.5, "ring")), asked, scene)
        Verdict(confidence=0.5, finding='ring', answer=None, disagreement=0.0)
    """
    said: Any = [_from_candidate(c) for c in reply] if isinstance(reply, tuple) else _from_verdict(reply)
    content = {"format": FORMAT, "asked": asked.to_dict(), "reply": said}
    return json.dumps({"sha256": _checksum(content), "content": content}).encode()


def decode(data: bytes, asked: Asked, scene: Scene) -> Reply:
    """Read a reply and hold it to the contract of an expert.

    Raises:
        MemoError: If the data are damaged, or are the reply to something else.
    """
    try:
        whole = json.loads(data)
        content = whole["content"]
        if whole["sha256"] != _checksum(content):
            raise MemoError("its checksum does not fit")
        if (content["format"], content["asked"]) != (FORMAT, asked.to_dict()):
            raise MemoError("it belongs to another image, expert, question or version")
        return _reply(content["reply"], asked, scene)
    except MemoError:
        raise
    except (MedEyesError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise MemoError(f"it cannot be read ({type(problem).__name__})") from problem


def _reply(said: Any, asked: Asked, scene: Scene) -> Reply:
    if asked.box is not None:
        verdict = Verdict(said["confidence"], said["finding"], said["answer"], said["disagreement"])
        check_verdict(verdict, asked.expert)
        return verdict
    candidates = tuple(_to_candidate(record) for record in said)
    for candidate in candidates:
        check_candidate(candidate, scene, asked.expert)
    return candidates


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _from_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "confidence": verdict.confidence,
        "finding": verdict.finding,
        "answer": verdict.answer,
        "disagreement": verdict.disagreement,
    }


def _from_candidate(candidate: Candidate) -> dict[str, Any]:
    mask = (
        None if candidate.mask is None else base64.b64encode(np.packbits(candidate.mask).tobytes()).decode()
    )
    return {
        "box": candidate.box.corners,
        "confidence": candidate.confidence,
        "finding": candidate.finding,
        "mask": mask,
        "disagreement": candidate.disagreement,
    }


def _to_candidate(record: Mapping[str, Any]) -> Candidate:
    box = Box.from_corners(record["box"])
    mask = None if record["mask"] is None else _unpack(record["mask"], box)
    return Candidate(box, record["confidence"], record["finding"], mask, record["disagreement"])


def _unpack(text: str, box: Box) -> npt.NDArray[np.bool_]:
    bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(bits) != -(-box.size // 8):
        raise MemoError("a mask does not fit its box")
    return np.unpackbits(bits, count=box.size).astype(bool).reshape(box.extent)
