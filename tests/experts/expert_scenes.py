"""Scenes and a reader for the tests of experts."""

from types import SimpleNamespace

import numpy as np
import torch
from monai.data import MetaTensor

from medeyes_monai.experts import Reading
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Case, Finding, ImageScene, View

QUERY = "Is there a ring?"
EXACT = {"miss_rate": 0.0, "false_alarm_rate": 0.0, "confidence_noise": 0.0, "drill_error": 0.0}
"""Settings of an ``AnnotationExpert`` that never errs."""


FINDINGS = (
    Finding(Box((136, 86), (164, 114)), "ring"),
    Finding(Box((336, 286), (364, 314)), "disc"),
    Finding(Box((20, 200), (220, 380)), "large heart", subtle=False),
)
"""What the picture of ``make_scene`` shows."""


class RingReader:
    """Yes as soon as a ring was seen, else no."""

    def read(self, query, seen, candidates):
        return Reading("yes", True) if "ring" in seen else Reading("no", False)


def make_scene(key="scene-0", findings=FINDINGS):
    """A grey image with a bright spot at (150, 100), (x, y), and a dark one at (350, 300)."""
    image = np.full((1, 512, 400), 100, np.uint8)
    x, y = np.ogrid[:512, :400]
    image[0][np.hypot(x - 150, y - 100) < 14] = 220
    image[0][np.hypot(x - 350, y - 300) < 14] = 10
    return ImageScene(image, key=key, findings=findings)


class PlainVolume:
    """The least scene of a volume: native voxels, and the middle slice of what is looked at."""

    def __init__(self, image, key="volume", findings=()):
        self.image, self.key, self.findings = MetaTensor(image), key, tuple(findings)
        self.shape = self.frame = tuple(image.shape[1:])

    def overview(self):
        return self.look(Box.whole(self.shape))

    def look(self, box):
        inside = box.clip(self.shape)
        crop = self.image.as_tensor()[(slice(None), *inside.slices)]
        slab = crop[0, :, :, crop.shape[-1] // 2].numpy().T
        return View(np.repeat(slab[..., None], 3, axis=-1), inside)

    def to_world(self, box):
        return tuple(map(float, box.start)), tuple(map(float, box.stop))


def make_volume(key="volume-0"):
    """A grey volume with a bright ball about (30, 40, 12) and a dark one about (70, 60, 28), (x, y, z)."""
    image = torch.full((1, 96, 80, 40), 100, dtype=torch.uint8)
    x, y, z = np.ogrid[:96, :80, :40]
    image[0][torch.from_numpy(np.sqrt((x - 30) ** 2 + (y - 40) ** 2 + (z - 12) ** 2) < 6)] = 220
    image[0][torch.from_numpy(np.sqrt((x - 70) ** 2 + (y - 60) ** 2 + (z - 28) ** 2) < 6)] = 10
    findings = (
        Finding(Box((24, 34, 6), (36, 46, 18)), "ring"),
        Finding(Box((64, 54, 22), (76, 66, 34)), "disc"),
    )
    return PlainVolume(image, key, findings)


def small_scene(key="small"):
    """A picture smaller than any region that an expert would like to show."""
    return ImageScene(np.arange(30 * 22, dtype=np.int64).reshape(1, 30, 22) % 255, key=key)


def bare_scene(key="bare", findings=FINDINGS, shape=(512, 400)):
    """A scene without pixels, for experts that need none."""
    return SimpleNamespace(key=key, shape=shape, frame=shape, findings=findings)


def case_of(scene):
    return Case(scene.key, scene, QUERY)
