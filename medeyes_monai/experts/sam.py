"""Segment Anything as an expert's second pair of eyes: boxes become outlines, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import checked
from medeyes_monai.experts.base import Candidate, Expert, Verdict, axes_of
from medeyes_monai.experts.checked import check_axes
from medeyes_monai.experts.native import crop_of, native_image
from medeyes_monai.experts.pretrained import DType, Pretrained, refusals_named
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of
from medeyes_monai.trajectory import Picture
from medeyes_monai.transforms.array import ToPicture

__all__ = ["BoxSegmenter", "OutlineExpert", "Outliner", "Outlines"]

CONTEXT = 2.0
"""A drill shows the model this many times the sides of its region; chosen: an outline needs its outside."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """What a model says of some boxes in a picture (N boxes).

    Args:
        masks: What belongs to the thing in each box, bool ``[N, rows, columns]``.
        fits: The IoU with the truth that the model expects of each mask; not bounded. Shape ``[N]``.
    """

    masks: npt.NDArray[np.bool_]
    fits: npt.NDArray[np.float64]


@runtime_checkable
class Outliner(Protocol):
    """A model that outlines what is in a box."""

    @property
    def name(self) -> str:
        """Short name; other weights or settings, other name."""

    def outline(self, picture: Picture, boxes: Sequence[Box]) -> Outlines:
        """Outline what is in some boxes, in pixels ``(x, y)`` of a picture ``uint8 (rows, columns, 3)``."""


class BoxSegmenter:
    """SAM, SAM 2 or a fine-tuned relative in transformers, asked with boxes, for one mask each.

    SAM works without torchvision; SAM 2 needs it. Weights are read at the first call, so a run whose memo
    knows all replies needs none.

    Args:
        path: Checkpoint directory or hub name, such as ``facebook/sam-vit-base``.
        revision: Commit of the hub; pin one.
        dtype: Type of the weights.
        device: Where the model runs.

    Raises:
        ConfigError: If a setting is out of its range; at the first call, if the model cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        *,
        revision: str | None = None,
        dtype: DType = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the settings; see the class."""
        self.checkpoint = Pretrained(path, revision, dtype, device)

    @cached_property
    def name(self) -> str:
        """``segmenter-`` and a digest of the weights."""
        return f"segmenter-{seed_of(self.checkpoint.digest):016x}"

    def outline(self, picture: Picture, boxes: Sequence[Box]) -> Outlines:
        """Outline what is in some boxes.

        Raises:
            ConfigError: If the model cannot be loaded.
        """
        processor, model = self._loaded
        corners = [[float(v) for v in box.corners] for box in boxes]
        inputs = processor(images=Image.fromarray(picture), input_boxes=[corners], return_tensors="pt")
        sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        with torch.inference_mode():
            outputs = model(**self.checkpoint.inputs(inputs), multimask_output=False)
        (masks,) = processor.post_process_masks(outputs.pred_masks.cpu(), *sizes)
        return Outlines(masks[:, 0].numpy(), outputs.iou_scores[0, :, 0].double().cpu().numpy())

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        return self.checkpoint.part(AutoProcessor), self.checkpoint.model(AutoModelForMaskGeneration)


class OutlineExpert:
    """Outlines what another expert points at. Pictures only.

    A scan is the other expert's, its regions with outlines where they have none. A drill outlines the
    region on its crop at the image's own resolution; finding and answer are the other expert's.

    **Confidence** of a drill is the IoU that the model predicts for its outline, cut to [0, 1], and 0 where
    the outline is empty: how well something in the box can be told from what surrounds it, *not* whether it
    is abnormal or matters for the question. It is not calibrated. ``product`` multiplies it with the other
    expert's confidence, so that a sharp outline of nothing does not stop a search. Confidences of a scan are
    the other expert's.

    Args:
        expert: Who points.
        outliner: Who outlines, such as :class:`BoxSegmenter`.
        confidence: ``outline``, or ``product``.

    Raises:
        ConfigError: If ``confidence`` is neither, or the other expert takes no pictures.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts import RandomBoxExpert
        >>> from medeyes_monai.scenes import ImageScene
        >>> bright = lambda picture, boxes: Outlines(np.stack([picture[..., 0] > 9] * len(boxes)), np.ones(1))
        >>> expert = OutlineExpert(RandomBoxExpert(1), SimpleNamespace(name="a", outline=bright))
        >>> scene = ImageScene(np.full((1, 200, 100), 99, np.uint8), key="a")
        >>> int(expert.scan(scene, "")[0].mask.min()), expert.drill(scene, Box((0, 0), (9, 9)), "").confidence
        (1, 1.0)
    """

    axes = (2,)

    def __init__(
        self, expert: Expert, outliner: Outliner, *, confidence: Literal["outline", "product"] = "outline"
    ) -> None:
        """Check the settings; see the class."""
        if confidence not in ("outline", "product"):
            raise ConfigError(f"confidence is 'outline' or 'product', got {confidence!r}")
        if 2 not in axes_of(expert):
            raise ConfigError(f"{expert.name} takes no pictures; give an expert that does")
        self.expert, self.outliner, self.confidence = expert, outliner, confidence

    @property
    def name(self) -> str:
        """``outline-`` and a digest of expert, model and settings, so that memos of others stay apart."""
        return f"outline-{seed_of(self.expert.name, self.outliner.name, self.confidence):016x}"

    @property
    def reads_key(self) -> bool:
        """Whether replies of the other expert depend on the scene's key, see ``MemoExpert``."""
        return bool(getattr(self.expert, "reads_key", False))

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the other expert's regions, each with an outline.

        Raises:
            ExpertError: If the other expert fails, the scene is no picture or gives no voxels, or the
                model's output is not in order.
        """
        candidates = checked.scan(self.expert, scene, query)
        bare = [n for n, candidate in enumerate(candidates) if candidate.mask is None]
        masks, _ = self._outline(scene, [candidates[n].box for n in bare], Box.whole(scene.shape))
        drawn = dict(zip(bare, masks, strict=True))
        return tuple(replace(c, mask=drawn.get(n, c.mask)) for n, c in enumerate(candidates))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return the other expert's finding, with the fit of an outline as confidence.

        Raises:
            ExpertError: If the other expert fails, the scene is no picture or gives no voxels, or the
                model's output is not in order.
        """
        verdict = checked.drill(self.expert, scene, box, query)
        (mask,), (fit,) = self._outline(scene, [box], box.expand(scene.shape, factor=CONTEXT))
        sharp = fit if mask.any() else 0.0
        trust = verdict.confidence if self.confidence == "product" else 1.0
        return replace(verdict, confidence=sharp * trust)

    def _outline(
        self, scene: Scene, boxes: Sequence[Box], region: Box
    ) -> tuple[list[npt.NDArray[np.bool_]], list[float]]:
        """Return a mask and its fit for each box, from the pixels of a region that holds them all."""
        check_axes(self, scene)
        if not boxes:
            return [], []
        picture = ToPicture()(crop_of(native_image(scene, self.name), region))
        local = [box.moved([-v for v in region.start]) for box in boxes]
        with refusals_named(self.name, picture):
            said = self.outliner.outline(picture, local)
        if said.masks.shape != (len(boxes), *picture.shape[:2]) or said.fits.shape != (len(boxes),):
            raise ExpertError(
                f"{self.name}: {len(boxes)} boxes need as many masks of the picture and fits, got "
                f"{said.masks.shape} and {said.fits.shape}"
            )
        if not np.isfinite(said.fits).all():
            raise ExpertError(f"{self.name}: the model returned a fit that is not finite")
        masks = [mask.T[box.slices] for mask, box in zip(said.masks, local, strict=True)]
        return masks, said.fits.clip(0, 1).tolist()
