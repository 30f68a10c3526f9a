"""SAM 3's image processing without torchvision, which that of transformers cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

__all__ = ["Sam3ImageProcessorPil"]


class Sam3ImageProcessorPil(PilBackend):
    """Prepares pictures for SAM 3 with Pillow, and reads its output as transformers' processor does.

    Pictures are squeezed into a square without regard to their sides, as the model was trained.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"height": 1008, "width": 1008}  # noqa: RUF012  # transformers copies it for each instance
    do_resize = do_rescale = do_normalize = do_convert_rgb = True

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.3,
        mask_threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] = (),
    ) -> list[dict[str, torch.Tensor]]:
        """Return scores, boxes and masks of the instances above a threshold, for each picture.

        Args:
            outputs: Of ``Sam3Model``: boxes ``[x1, y1, x2, y2]`` relative to the picture, and logits.
            threshold: A score is above this.
            mask_threshold: A pixel is inside above this probability.
            target_sizes: Rows and columns of each picture.
        """
        scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
        results = []
        for number, (rows, columns) in enumerate(target_sizes):
            kept = scores[number] > threshold
            masks = outputs.pred_masks[number][kept].sigmoid()
            if len(masks):
                masks = torch.nn.functional.interpolate(masks[None], (rows, columns), mode="bilinear")[0]
            scale = torch.tensor([columns, rows, columns, rows], device=kept.device)
            results.append(
                {
                    "scores": scores[number][kept],
                    "boxes": outputs.pred_boxes[number][kept] * scale,
                    "masks": (masks > mask_threshold).long(),
                }
            )
        return results
