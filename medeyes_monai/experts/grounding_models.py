"""Text-prompted models of transformers, through their own pre- and post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from PIL import Image

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.grounding import Grounding
from medeyes_monai.experts.pretrained import DType, Pretrained
from medeyes_monai.seeding import seed_of
from medeyes_monai.trajectory import Picture

__all__ = ["ConceptSegmenter", "ZeroShotDetector"]


class ZeroShotDetector:
    """A model for zero-shot object detection: Grounding DINO, OWLv2 and their kin; boxes alone.

    Works without torchvision for the families named. Weights are read at the first call, so a run whose
    memo knows all replies needs none.

    The score is the sigmoid of the best logit among a box's words (Grounding DINO) or phrases (OWLv2). A
    label is one of the phrases, the one that the model's words for the box resemble most.

    Args:
        path: Checkpoint directory or hub name, such as ``IDEA-Research/grounding-dino-base``.
        threshold: Boxes with a score below are left out.
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
        threshold: float = 0.25,
        revision: str | None = None,
        dtype: DType = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the settings; see the class."""
        self.checkpoint, self.threshold = Pretrained(path, revision, dtype, device), _share(threshold)

    @cached_property
    def name(self) -> str:
        """``zero-shot-`` and a digest of weights and settings."""
        return f"zero-shot-{seed_of(self.checkpoint.digest, repr(self.threshold)):016x}"

    def find(self, picture: Picture, phrases: Sequence[str]) -> Grounding:
        """Find what phrases name.

        Raises:
            ConfigError: If the model cannot be loaded.
        """
        processor, model = self._loaded
        text, sizes = [list(phrases)], [picture.shape[:2]]
        inputs = processor(images=Image.fromarray(picture), text=text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**self.checkpoint.inputs(inputs))
        (found,) = processor.post_process_grounded_object_detection(
            outputs, threshold=self.threshold, target_sizes=sizes, text_labels=text
        )
        return Grounding(
            boxes=_numbers(found["boxes"]),
            scores=_numbers(found["scores"]),
            labels=tuple(_nearest(label, phrases) for label in found["text_labels"]),
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = self.checkpoint.model(AutoModelForZeroShotObjectDetection)
        return self.checkpoint.part(AutoProcessor), model


class ConceptSegmenter:
    """SAM 3, which outlines every instance of a short phrase; one pass of its decoder for each phrase.

    Weights are read at the first call. Where torchvision is absent, the image processor of
    :mod:`medeyes_monai.experts.sam3_images` stands in for that of transformers, which needs it.

    The score is the sigmoid of an instance's logit times that of the phrase being in the picture at all.

    Args:
        path: Checkpoint directory or hub name, such as ``facebook/sam3``.
        threshold: Instances with a score below are left out.
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
        threshold: float = 0.3,
        revision: str | None = None,
        dtype: DType = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the settings; see the class."""
        self.checkpoint, self.threshold = Pretrained(path, revision, dtype, device), _share(threshold)

    @cached_property
    def name(self) -> str:
        """``concepts-`` and a digest of weights and settings."""
        return f"concepts-{seed_of(self.checkpoint.digest, repr(self.threshold)):016x}"

    def find(self, picture: Picture, phrases: Sequence[str]) -> Grounding:
        """Find and outline what phrases name.

        Raises:
            ConfigError: If the model cannot be loaded.
        """
        images, tokenizer, model = self._loaded
        shown = self.checkpoint.inputs(images(Image.fromarray(picture), return_tensors="pt"))
        longest = model.config.text_config.max_position_embeddings
        padded = {"padding": "max_length", "max_length": longest, "truncation": True, "return_tensors": "pt"}
        boxes, scores, labels, masks = [], [], [], []
        with torch.inference_mode():
            seen = model.get_vision_features(shown["pixel_values"])
            for phrase in phrases:
                outputs = model(
                    vision_embeds=seen, **tokenizer([phrase], **padded).to(self.checkpoint.device)
                )
                (found,) = images.post_process_instance_segmentation(
                    outputs, threshold=self.threshold, target_sizes=[picture.shape[:2]]
                )
                boxes.append(_numbers(found["boxes"]))
                scores.append(_numbers(found["scores"]))
                masks.append(_numbers(found["masks"]).reshape(-1, *picture.shape[:2]) > 0)
                labels += [phrase] * len(scores[-1])
        return Grounding(np.concatenate(boxes), np.concatenate(scores), tuple(labels), np.concatenate(masks))

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        from transformers import AutoImageProcessor, AutoTokenizer, Sam3Model

        kind = AutoImageProcessor
        if not optional_import("torchvision")[1]:
            from medeyes_monai.experts.sam3_images import Sam3ImageProcessorPil as kind
        load = self.checkpoint
        return load.part(kind), load.part(AutoTokenizer), load.model(Sam3Model)


def _share(threshold: float) -> float:
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold lies in [0, 1), got {threshold}")
    return threshold


def _numbers(tensor: torch.Tensor) -> Any:
    return tensor.detach().double().cpu().numpy()


def _nearest(label: str, phrases: Sequence[str]) -> str:
    return max(phrases, key=lambda phrase: SequenceMatcher(None, phrase, label).ratio())
