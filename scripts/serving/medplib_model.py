"""MedPLIB's model, loaded and asked as its own repository does. Not tested: its weights were not at hand.

Written by reading https://github.com/ShawnHuang497/MedPLIB: ``model/serve/model_worker.py`` for loading,
pictures and prompts, ``model/MedPLIB.py`` for masks. For that repository's environment; Python 3.8 or later.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from PIL import Image

__all__ = ["MARKS", "MedPLIB", "region_cells"]

SAM_SIDE, CLIP_SIDE, CLIP_PATCH = 256, 336, 14
MARKS = ("<image>", "<im_start>", "<im_end>", "<region>", "</region>", "<SEG>", "<mask>", "</mask>")
"""What means something to the model and is taken out of a question."""


class MedPLIB:
    """The model behind two questions: what is marked, and what is said of a region.

    Args:
        repository: Folder of MedPLIB's repository.
        checkpoint: Folder of its weights.
        sam: File of SAM-Med2D's weights (``sam-med2d_b.pth``).
        device: Where it runs.
        max_tokens: Longest answer.
    """

    def __init__(self, repository, checkpoint, sam, device="cuda", max_tokens=256):
        """Load the weights as the repository's own worker does."""
        sys.path.insert(0, repository)
        import deepspeed
        import torch
        from model.medplib import conversation
        from model.medplib.mm_utils import tokenizer_image_token
        from model.medplib.model.builder import load_pretrained_model
        from utils.utils import IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX

        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        for name, value in alone.items():  # a mixture of experts wants a process group, of one process here
            os.environ.setdefault(name, value)
        os.environ.setdefault("MASTER_PORT", "63999")
        deepspeed.init_distributed(dist_backend="nccl")
        self.torch, self.device, self.max_tokens = torch, device, max_tokens
        self.tokenizer, self.model, self.processor, _ = load_pretrained_model(
            checkpoint, None, "medplib", device_map=device, vision_pretrained=sam
        )
        self.model.eval()
        self._template, self._tokens = conversation.conv_templates["v1"], tokenizer_image_token
        self._image_token, self._region_token = IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX

    def segment(self, picture, prompt):
        """Return the probability of each pixel ``(rows, columns)``, or None where nothing is marked.

        Args:
            picture: ``uint8 (rows, columns, 3)``.
            prompt: What is asked for.
        """
        torch = self.torch
        ids = self._ids(prompt)
        with torch.inference_mode():
            _, masks = self.model.evaluate(
                self._clip(picture),
                self._sam(picture),
                ids,
                [fit(picture.shape[:2], SAM_SIDE)],
                [torch.ones(picture.shape[:2])],
                max_new_tokens=self.max_tokens,
                tokenizer=self.tokenizer,
                attention_mask=torch.ones_like(ids, dtype=torch.bool),
                inference_demo=True,
            )
        return torch.sigmoid(masks[0][0].float()).cpu().numpy() if len(masks) else None

    def tell(self, picture, prompt, box):
        """Return what is said in answer to a prompt in which ``<region>`` stands for a box.

        Args:
            picture: ``uint8 (rows, columns, 3)``.
            prompt: What is asked.
            box: ``(x1, y1, x2, y2)``.
        """
        torch = self.torch
        ids = self._ids(prompt.replace("<region>", "<region></region>"))
        region = torch.from_numpy(region_cells(box, picture.shape[:2]))[None, None].to(self.device)
        with torch.inference_mode():
            written = self.model.generate(
                images=self._clip(picture),
                input_ids=ids,
                region_masks=region.float(),
                valid_region_masks_bool=[[torch.ones(1).bool()]],
                attention_mask=torch.ones_like(ids, dtype=torch.bool),
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.max_tokens,
                use_cache=True,
            )
        answer = self.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)[0]
        return answer.strip()

    def _ids(self, prompt):
        talk = self._template.copy()
        talk.messages = []
        talk.append_message(talk.roles[0], "<im_start><image><im_end>\n" + prompt)
        talk.append_message(talk.roles[1], None)
        ids = list(self._tokens(talk.get_prompt(), self.tokenizer, self._image_token))
        start, stop = (self.tokenizer(t, add_special_tokens=False).input_ids[0] for t in MARKS[3:5])
        for place in range(len(ids) - 1, 0, -1):
            if ids[place - 1] == start and ids[place] == stop:
                ids.insert(place, self._region_token)
        return self.torch.tensor([ids], device=self.device)

    def _clip(self, picture):
        mean = (np.array([0.48145466, 0.4578275, 0.40821073]) * 255).astype(np.uint8)
        square = padded(resized(picture, CLIP_SIDE), CLIP_SIDE, mean)
        pixels = self.processor.preprocess(Image.fromarray(square), return_tensors="pt")["pixel_values"]
        return pixels.bfloat16().to(self.device)

    def _sam(self, picture):
        mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        square = padded((resized(picture, SAM_SIDE) - mean) / deviation, SAM_SIDE, np.zeros(3))
        pixels = self.torch.from_numpy(square).permute(2, 0, 1)[None]
        return pixels.bfloat16().to(self.device)


def fit(shape, side):
    """Return rows and columns of a picture whose longer side becomes ``side``.

    Example:
        >>> fit((512, 400), 256)
        (256, 200)
    """
    scale = side / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def resized(picture, side):
    """Return a picture resized so that its longer side is ``side``."""
    rows, columns = fit(picture.shape[:2], side)
    return np.asarray(Image.fromarray(picture).resize((max(1, columns), max(1, rows)), Image.BILINEAR))


def padded(picture, side, colour):
    """Return a picture in the middle of a square of one colour."""
    square = np.empty((side, side, 3), dtype=picture.dtype)
    square[:] = colour
    top, left = ((side - n) // 2 for n in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def region_cells(box, shape):
    """Return which cells of the vision tower's grid a box covers, at least one, ``uint8 (24, 24)``.

    Args:
        box: ``(x1, y1, x2, y2)`` in a picture of ``shape``.
        shape: Rows and columns of the picture.

    Example:
        >>> cells = region_cells((0, 0, 168, 336), (336, 336))
        >>> cells.shape, int(cells.sum()), int(cells[:, :12].sum())
        ((24, 24), 288, 288)
    """
    inner = fit(shape, CLIP_SIDE)
    cells = np.zeros((CLIP_SIDE // CLIP_PATCH,) * 2, dtype=np.uint8)
    spans = []
    for axis, (start, stop) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        margin, scale = (CLIP_SIDE - inner[axis]) // 2, inner[axis] / shape[axis]
        first = int((margin + start * scale) // CLIP_PATCH)
        last = int(-(-(margin + stop * scale) // CLIP_PATCH))
        spans.append(slice(min(first, len(cells) - 1), max(last, first + 1)))
    cells[spans[0], spans[1]] = 1
    return cells
