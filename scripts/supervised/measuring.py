"""Teaches to measure: scans that stop at a lesion and call the tool, and what to repeat of its replies."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from medeyes_monai.data.phantom3d_words import QUESTIONS_3D, WORDS
from medeyes_monai.data.phantom_image import KINDS
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Reading
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.protocol import render_answer
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.tools import Measure, Measurement, in_words
from medeyes_monai.trajectory import Episode, Fixation, ToolCall, Trajectory
from supervised.reading import in_text
from supervised.volumes import COURSE, region_about

__all__ = ["FAMILIES", "Taught", "taught_path", "told_reply"]

FAMILIES = ("diameter", "volume")
SAID = {"diameter": re.compile(r"a ball of ([\d.]+ mm)"), "volume": re.compile(r"mm, ([\d.]+ ml)")}
"""What of the reply of the tool is repeated for a family, and where the answer stands in it."""
WIDE_MM = (15.0, 95.0)
"""Diameters of balls that are told. Unit: millimetres."""


def taught_path(case: Case, policy: HuggingFacePolicy, tool: Measure | None) -> Trajectory | None:
    """Return a scan that stops at the lesion that is asked about, and measures it if there is a tool.

    Looks are in the middle of candidates: what is taught of their places is how to hit, and chance in them
    would only be learned by heart.

    Args:
        case: A question of :data:`FAMILIES`.
        policy: In whose frame the tool's box is written, so that its reply is that of the box as written.
        tool: The tool; None has the size said at once.

    Returns:
        The path, boxes in voxels of the scene; None where what the tool says is not within the tolerance of
        the question.

    Raises:
        ConfigError: If no candidate is of the kind that is asked about.
    """
    spots = sorted((finding for finding in case.scene.findings if finding.subtle), key=COURSE.order)
    labels = [" ".join(spot.label.split()[:WORDS]) for spot in spots]
    asked = [n for n, label in enumerate(labels) if f" {label.split()[-1]} lesion" in case.question]
    if not asked:
        raise ConfigError(f"{case.key}: no candidate is what {case.question!r} asks about: {labels}")
    thought, looks = f"{len(spots)} candidates", []
    for spot, label in zip(spots[: asked[0] + 1], labels, strict=False):
        looks.append(Fixation(thought, region_about(spot, case.scene)))
        thought = conclusion(label, Reading(None, decisive=False))
    if tool is None:
        return Trajectory(tuple(looks), thought, case.answer)
    shape, frame = case.scene.shape, policy.frame(case.scene)
    box = region_about(spots[asked[0]], case.scene).scale(shape, frame).scale(frame, shape)
    call = ToolCall("Measure", thought, box, after=len(looks))
    call = replace(call, reply=tool.use(call, case.scene).reply)
    said = SAID[case.family].search(call.reply)
    if said is None or not answers_match(said[1], case):
        return None
    return Trajectory(tuple(looks), said[0], said[1], (call,))


class Taught(Dataset[tuple[Episode, Episode] | None]):
    """Of each volume an episode with the tool and the same scan without; None where the tool is wrong."""

    def __init__(self, cases: Dataset[Case], policy: HuggingFacePolicy) -> None:
        """Remember what is taught."""
        self.cases, self.policy = cases, policy

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.cases)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Episode, Episode] | None:
        """Write both episodes about one volume."""
        case = self.cases[index]
        paths = [taught_path(case, self.policy, tool) for tool in (Measure(), None)]
        written = [write_episode(path, case, self.policy) for path in paths if path is not None]
        return (written[0], written[1]) if len(written) == 2 else None


def told_reply(policy: HuggingFacePolicy, rng: np.random.Generator) -> Episode:
    """Write an episode without pictures: a reply of the tool is told, what to repeat of it is taught.

    Its numbers are drawn, more of them than the volumes of a training have, so that they are read and not
    known by heart. What stands before a reply is the question alone, so that it is short.
    """
    family = str(rng.choice(FAMILIES))
    wide = float(rng.uniform(*WIDE_MM))
    object_mm = [wide * float(v) for v in rng.uniform(0.9, 1.1, 3)]
    region_mm = [side * float(rng.uniform(1.0, 1.6)) for side in object_mm]
    hu, sd = float(rng.uniform(60, 200)), float(rng.uniform(20, 70))
    ball_ml = np.pi / 6 * wide**3 / 1000
    region, ball = (
        Measurement(tuple(sides), float(np.linalg.norm(sides)), hu, sd, ml)
        for sides, ml in ((region_mm, None), (object_mm, ball_ml))
    )
    reply = in_words(region, ball)
    (said,) = SAID[family].finditer(reply)
    question = QUESTIONS_3D[family].format(str(rng.choice(KINDS)))
    known = [*policy.encode(question), policy.end_of_turn, *policy.reply(reply).token_ids]
    answer = [*policy.encode(render_answer(said[0], said[1])), policy.end_of_turn]
    return in_text([*known, *answer], [False] * len(known) + [True] * len(answer))
