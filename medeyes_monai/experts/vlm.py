"""A vision-language model as an expert: it is asked for boxes, and for an opinion on a crop, as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.checked import check_axes
from medeyes_monai.experts.native import native_image
from medeyes_monai.experts.vlm_chat import Chat, Reply
from medeyes_monai.experts.vlm_reading import Opinion, Pointed, read_boxes, read_opinion
from medeyes_monai.experts.vlm_votes import Vote, elect, settle
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene, Scene
from medeyes_monai.seeding import seed_of
from medeyes_monai.trajectory import Picture

__all__ = ["DRILL_PROMPT", "SCAN_PROMPT", "VLMExpert"]

RELATIVE_EXTENT = 1000
"""Extent of every axis of relative coordinates."""
SCAN_PROMPT = (
    "{query}\n"
    "Point at every region of the image that may matter for this. Reply with a JSON array alone, one object "
    'for each region, the most important first: [{"bbox_2d": [x1, y1, x2, y2], "label": "what it shows"}]. '
    "Coordinates are {coordinates}. Reply [] where there is no such region."
)
"""What is asked in a scan; ``{query}`` and ``{coordinates}`` are filled in."""
DRILL_PROMPT = (
    "{query}\n"
    "This is a region of a larger image. Reply with a JSON object alone: "
    '{"relevant": true or false, "finding": "what it shows", "answer": "your answer"}. Say whether the '
    "region matters for the question, and null for an answer that the region does not give."
)
"""What is asked in a drill; ``{query}`` is filled in."""

_Read = TypeVar("_Read", Opinion, tuple[Pointed, ...])


class VLMExpert:
    """Asks any image-text-to-text model, in this process or behind an OpenAI-compatible server.

    A scan shows the whole picture and asks for boxes, a drill shows the crop and asks for a finding and an
    answer, both as JSON that is read strictly. A reply that is malformed anywhere counts as a draw without a
    box; where every draw is malformed, the call is an ``ExpertError``.

    **The confidence** of a candidate is the mean over the draws of what each gives to a box at that place
    (IoU of 0.5 or more), 0 where it has none. Under ``agreement`` a draw gives 1, so the confidence is the
    share of draws that point there (self-consistency). Under ``tokens`` it gives the geometric mean of the
    probabilities of the tokens that write the box's numbers. A drill's confidence is the mean over the draws
    of 1, or of the probability of the written values, where a draw calls the region relevant and answers as
    most do. Neither is calibrated.

    One draw takes the likeliest words; several are drawn from seeds that belong to the words and pixels that
    are sent.

    Args:
        chat: The model, see :class:`~medeyes_monai.experts.openai_chat.OpenAIChat` and
            :class:`~medeyes_monai.policy.chat.PolicyChat`.
        draws: Number of replies to each question.
        confidence: ``tokens`` or ``agreement``; the latter needs several draws.
        coordinates: Frame of the boxes: ``pixels`` of the picture that is shown (Qwen2.5-VL), or ``relative``
            from 0 to 1000 (Qwen3-VL and others).
        pixels: Most pixels of a picture that is shown.
        max_candidates: Most regions of a scan.
        scan_prompt: What is asked in a scan, with ``{query}`` and ``{coordinates}`` in it.
        drill_prompt: What is asked in a drill, with ``{query}`` in it.
        seed: Everything is drawn by address from here.

    Raises:
        ConfigError: If there is nothing to draw, or a choice or a prompt is none.

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> written = '[{"bbox_2d": [500, 0, 1000, 500], "label": "ring"}]'
        >>> chat = SimpleNamespace(name="a", grid=28, ask=lambda picture, text, seeds: [Reply(written)] * 2)
        >>> scene = ImageScene(np.zeros((1, 200, 100), np.uint8), key="a")
        >>> VLMExpert(chat, draws=2, confidence="agreement").scan(scene, "Is there a ring?")[0].box
        Box(start=(100, 0), stop=(200, 50))
    """

    axes = (2,)

    def __init__(
        self,
        chat: Chat,
        *,
        draws: int = 1,
        confidence: Literal["tokens", "agreement"] = "tokens",
        coordinates: Literal["pixels", "relative"] = "relative",
        pixels: int = 448 * 448,
        max_candidates: int = 8,
        scan_prompt: str = SCAN_PROMPT,
        drill_prompt: str = DRILL_PROMPT,
        seed: int = 0,
    ) -> None:
        """Check the settings; see the class."""
        if min(draws, pixels, max_candidates) < 1:
            raise ConfigError(
                "draws, pixels and max_candidates must be at least 1, "
                f"got {draws}, {pixels} and {max_candidates}"
            )
        if confidence not in ("tokens", "agreement") or coordinates not in ("pixels", "relative"):
            raise ConfigError(
                "confidence is 'tokens' or 'agreement' and coordinates 'pixels' or 'relative', "
                f"got {confidence!r} and {coordinates!r}"
            )
        if confidence == "agreement" and draws < 2:
            raise ConfigError("confidence 'agreement' compares draws; ask for at least 2, or use 'tokens'")
        if "{query}" not in scan_prompt or "{query}" not in drill_prompt:
            raise ConfigError("scan_prompt and drill_prompt must hold {query}")
        self.chat, self.draws, self.confidence = chat, draws, confidence
        self.coordinates, self.pixels, self.max_candidates = coordinates, pixels, max_candidates
        self.scan_prompt, self.drill_prompt, self.seed = scan_prompt, drill_prompt, seed

    @property
    def name(self) -> str:
        """``vlm-`` and a digest of model and settings, so that memos of others stay apart."""
        choices = (self.confidence, self.coordinates, self.scan_prompt, self.drill_prompt)
        numbers = (self.draws, self.pixels, self.max_candidates, self.seed)
        return f"vlm-{seed_of(self.chat.name, *choices, *numbers):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the places that the model points at in the whole picture, the most confident first.

        Raises:
            ExpertError: If the scene is no picture, or the model cannot be asked or gives no readable reply.
        """
        picture = self._shown(scene).overview().pixels
        size = (picture.shape[1], picture.shape[0])
        frame = size if self.coordinates == "pixels" else (RELATIVE_EXTENT,) * 2
        asked = self.scan_prompt.replace("{coordinates}", _coordinates(frame, self.coordinates))
        replies = self._ask(picture, asked, query)
        votes = [
            Vote(
                draw,
                pointed.box.scale(frame, scene.shape),
                pointed.label,
                self._weight(reply, [pointed.span]),
            )
            for draw, (reply, read) in enumerate(
                self._readable(replies, lambda text: read_boxes(text, frame))
            )
            for pointed in read
        ]
        return elect(votes, self.draws)[: self.max_candidates]

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return what the model says of the crop.

        Raises:
            ExpertError: If the scene is no picture, or the model cannot be asked or gives no readable reply.
        """
        picture = self._shown(scene).look(box).pixels
        replies = self._ask(picture, self.drill_prompt, query)
        said = [
            (read, self._weight(reply, read.spans)) for reply, read in self._readable(replies, read_opinion)
        ]
        return settle(said, self.draws)

    def _shown(self, scene: Scene) -> ImageScene:
        """Return the scene at the resolution that the model is shown."""
        check_axes(self, scene)
        image, budget = native_image(scene, self.name), self.pixels
        return ImageScene(
            image,
            key=scene.key,
            patch=self.chat.grid,
            overview_pixels=budget,
            look_pixels=budget,
            min_extent=1,
        )

    def _ask(self, picture: Picture, prompt: str, query: str) -> Sequence[Reply]:
        text, pixels = prompt.replace("{query}", query), hashlib.blake2b(picture.tobytes()).hexdigest()
        seeds = [seed_of(self.seed, "vlm", text, pixels, draw) for draw in range(self.draws)]
        replies = self.chat.ask(picture, text, seeds if self.draws > 1 else [None])
        if len(replies) != self.draws:
            raise ExpertError(f"{self.name}: asked for {self.draws} replies, got {len(replies)}")
        return replies

    def _readable(self, replies: Sequence[Reply], read: Callable[[str], _Read]) -> list[tuple[Reply, _Read]]:
        """Return the replies that can be read with what they say.

        Raises:
            ExpertError: If there is none.
        """
        good, defects = [], []
        for reply in replies:
            try:
                good.append((reply, read(reply.text)))
            except ValueError as defect:
                defects.append(str(defect))
        if not good:
            raise ExpertError(
                f"{self.name}: {self.chat.name} gave no readable reply in {len(replies)}: "
                f"{'; '.join(dict.fromkeys(defects))}"
            )
        return good

    def _weight(self, reply: Reply, spans: Sequence[tuple[int, int]]) -> float:
        """Return what a draw gives to something that it wrote."""
        if self.confidence == "agreement":
            return 1.0
        if reply.tokens is None:
            raise ExpertError(
                f"{self.name}: {self.chat.name} does not tell the probabilities of tokens; use several draws "
                "and confidence 'agreement'"
            )
        return reply.probability(spans, str.isalnum) or 0.0


def _coordinates(frame: Sequence[int], kind: str) -> str:
    if kind == "relative":
        return f"relative, from 0 to {RELATIVE_EXTENT} along each side"
    return f"pixels of the image, which is {frame[0]} wide and {frame[1]} high"
