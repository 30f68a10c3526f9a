"""A volume with one thing to be found in it, and an expert that finds it and counts."""

import numpy as np
import torch
from monai.data import MetaTensor

from medeyes_monai.experts import Candidate, Verdict
from medeyes_monai.geometry import Box, carry_box

QUESTION = "Where is the ball?"
BRIGHT = 200


def ball(shape=(48, 40, 60), box=((30, 10, 40), (38, 18, 46))):
    """A dark volume with one bright block, and where it is."""
    image = np.full(shape, -900, np.int16)
    image[Box(*box).slices] = BRIGHT
    return MetaTensor(image[None], affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))), Box(*box)


def oriented(volume, box, axes, flips):
    """The same block at the same place of the world, stored with other axes."""
    voxels, affine = volume.numpy()[0].transpose(axes), volume.affine.numpy()[:, [*axes, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:, axis] *= -1
    stored = np.flip(voxels, flips)[None].copy()
    return MetaTensor(stored, affine=torch.as_tensor(affine)), carry_box(box, volume.affine.numpy(), affine)


class Counting:
    """An expert that finds what is bright in what it is shown, and counts what it was asked."""

    name, axes = "counting", (3,)

    def __init__(self, sure: float = 0.5) -> None:
        self.sure, self.scanned, self.drilled = sure, [], []

    def scan(self, scene, query):
        self.scanned.append(scene.key)
        places = (scene.image[0] > 0).nonzero()
        if not len(places):
            return []
        low, high = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
        return [Candidate(Box(tuple(low), tuple(high)), 0.5, "something bright")]

    def drill(self, scene, box, query):
        self.drilled.append(box)
        return Verdict(self.sure, "bright", "there")
