"""Progressive focus as a MONAI inferer: an image and a question in; answer, path and places out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

from monai.inferers import Inferer

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Expert
from medeyes_monai.focus import Focus
from medeyes_monai.geometry import Box
from medeyes_monai.inferers.inputs import Asked, are_cases, grid_of, images_of
from medeyes_monai.navigator import KeepSlab, Navigator, Search, SlabExpert
from medeyes_monai.policy import Policy
from medeyes_monai.rollout import MAX_LOOKS, rollout
from medeyes_monai.scenes import Case, ImageScene, Scene, VolumeScene
from medeyes_monai.tools import Tool, make_tools
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["FocusInferer"]

SIDE_BY_SIDE = 128
"""Most episodes that a policy writes at a time."""
MakeAsked = Callable[[], Asked]
"""Makes the scene of an image that was handed over, when its turn has come."""


class FocusInferer(Inferer):
    """Answers a question about an image by looking closer and closer, within a budget.

    With an expert, a coarse pass scans the image, a volume slab by slab, and ranks what it finds; the best is
    looked at first, closer where that pays, until a look is sure enough or the budget is spent (the
    navigator's rules). With a policy, the policy looks where it wants and answers. With both, the expert's
    looks come first and the policy sees them as if it had asked for them; then it looks on by itself. Handed
    questions (:class:`~medeyes_monai.scenes.Case`) and a policy it returns episodes, so that it may stand
    where an :class:`EpisodeInferer` does: in a bundle, an evaluation, the application for DICOM.

    Args:
        expert: Who scans and drills; None leaves everything to the policy.
        max_looks: Most looks, the expert's and the policy's together.
        expert_looks: Most looks of the expert where there is a policy; None: half of them, rounded up.
        max_seconds: Time for one image, from before its scene is made. No look is begun after it; what was
            begun is finished, and a coarse pass leaves out the slabs that are left. None: any time.
        navigator: Makes the navigator, called with the expert and ``max_steps``: ``Navigator`` with a reader,
            thresholds and the like bound (``_mode_: callable`` in a bundle's configuration).
        slab_mm: Thickness of a slab of the coarse pass. Unit: millimetres.
        overlap: Share of a slab that the next one repeats.
        filter_fn: Tells which slabs are scanned, as in ``monai.inferers.SlidingWindowSplitter``.
        tools: What the policy may use beside looking, by name or as it is; none in the paper's protocol.
        max_turn_tokens: Most tokens in a turn of the policy.
        scene: Makes a scene of a picture, called with the image and ``key``.
        volume_scene: Makes a scene of a volume likewise.
        spatial_dims: 2 or 3 where inputs could be either, see :func:`~.inputs.images_of`.
        clock: Seconds since some moment.

    Raises:
        ConfigError: If a limit leaves nothing to do, or there is no such tool.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.experts import BlobExpert
        >>> image = np.zeros((1, 200, 200), np.uint8)
        >>> image[:, 130:150, 40:60] = 255
        >>> focus = FocusInferer(BlobExpert(), max_looks=1)(image, None, question="What stands out?")
        >>> focus.boxes[0].contains((140, 50)), focus.focus_map().shape
        (True, torch.Size([1, 200, 200]))
    """

    def __init__(
        self,
        expert: Expert | None = None,
        *,
        max_looks: int = MAX_LOOKS,
        expert_looks: int | None = None,
        max_seconds: float | None = None,
        navigator: Callable[..., Navigator] = Navigator,
        slab_mm: float = 80.0,
        overlap: float = 0.25,
        filter_fn: KeepSlab | None = None,
        tools: Sequence[str | Tool] = (),
        max_turn_tokens: int = 48,
        scene: Callable[..., Scene] = ImageScene,
        volume_scene: Callable[..., Scene] = VolumeScene,
        spatial_dims: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the budget; see the class."""
        super().__init__()
        half = -(-max_looks // 2)
        self.expert_looks = half if expert_looks is None else expert_looks
        if max_looks < 1 or not 1 <= self.expert_looks <= max_looks or max_turn_tokens < 1:
            raise ConfigError(
                "max_looks and max_turn_tokens must be at least 1 and expert_looks from 1 to max_looks, got "
                f"{max_looks}, {max_turn_tokens} and {self.expert_looks}"
            )
        if max_seconds is not None and not max_seconds > 0:
            raise ConfigError(f"max_seconds must be above 0, or None for any time; got {max_seconds}")
        if spatial_dims not in (None, 2, 3):
            raise ConfigError(f"spatial_dims is 2, 3 or None, got {spatial_dims}")
        self.expert, self.max_looks, self.max_seconds = expert, max_looks, max_seconds
        self.navigator, self.slabs = navigator, {"slab_mm": slab_mm, "overlap": overlap}
        self.filter_fn, self.tools, self.max_turn_tokens = filter_fn, make_tools(tools), max_turn_tokens
        self.scene, self.volume_scene, self.spatial_dims = scene, volume_scene, spatial_dims
        self.clock = clock

    @overload
    def __call__(self, inputs: Sequence[Case], network: Policy) -> list[Episode]: ...

    @overload
    def __call__(
        self, inputs: Any, network: Policy | None = None, *args: Any, **kwargs: Any
    ) -> Focus | list[Focus]: ...

    def __call__(
        self,
        inputs: Any,
        network: Policy | None = None,
        *args: Any,
        question: str | Sequence[str] = "",
        options: Sequence[str] = (),
        **kwargs: Any,
    ) -> Focus | list[Focus] | list[Episode]:
        """Answer a question about an image, or about each image of a batch.

        Args:
            inputs: A picture ``(C, X, Y)`` or a volume ``(1, X, Y, Z)``, a batch or list of them, or scenes,
                such as a ``StreamedScene`` of a study that is larger than memory; or a list of questions,
                each with its scene, words and options.
            network: The policy; None where the expert is to search alone.
            args: Not read; part of MONAI's signature.
            question: What is asked about each image, or one question for each.
            options: Answers to choose from.
            kwargs: Not read; part of MONAI's signature.

        Returns:
            The result, or one for each image where they came as a batch or list. Of questions, the policy's
            episodes; their looks hold what the expert said of them.

        Raises:
            ConfigError: If there is neither a policy nor an expert, or no question for each image.
            GeometryError: If something is no image, or its affine cannot place it.
            ExpertError: If the expert breaks its contract, or does not take such images.
        """
        if network is None and self.expert is None:
            raise ConfigError("nobody is there to look: pass a policy as network, give an expert, or both")
        if are_cases(inputs):
            return self._written(inputs, network)
        images, batched = images_of(inputs, self.spatial_dims)
        questions = [question] * len(images) if isinstance(question, str) else list(question)
        if len(questions) != len(images) or not all(asked.strip() for asked in questions):
            raise ConfigError(f"{len(images)} images need a question each, got {questions}")
        makers = [
            partial(self._asked, number, image, words, tuple(options))
            for number, (image, words) in enumerate(zip(images, questions, strict=True))
        ]
        found = self._found(makers, network)
        return found if batched else found[0]

    def _asked(self, number: int, image: Any, question: str, options: tuple[str, ...]) -> Asked:
        key = f"image-{number}"
        if isinstance(image, Scene):
            return Asked(Case(image.key, image, question, options=options), grid_of(image))
        make = self.scene if image.ndim == 3 else self.volume_scene
        scene = make(image, key=key)
        # A volume without an affine has the scene's axes and affine, as VolumeScene says.
        plain = not hasattr(image, "affine") and len(scene.shape) == 3
        return Asked(Case(key, scene, question, options=options), grid_of(scene if plain else image))

    def _written(self, cases: Sequence[Case], network: Policy | None) -> list[Episode]:
        if network is None:
            raise ConfigError("questions are answered by a policy; pass it as network")
        found = self._found([partial(Asked, case, grid_of(case.scene)) for case in cases], network)
        return [
            replace(focus.episode, trajectory=focus.trajectory)
            for focus in found
            if focus.episode is not None
        ]

    def _found(self, makers: Sequence[MakeAsked], network: Policy | None) -> list[Focus]:
        """Search image by image; where time is no matter, the policy looks at all images side by side."""
        if network is None or self.max_seconds is not None:
            return [self._one(make, network) for make in makers]
        starts = range(0, len(makers), SIDE_BY_SIDE)
        return [focus for n in starts for focus in self._together(makers[n : n + SIDE_BY_SIDE], network)]

    def _together(self, makers: Sequence[MakeAsked], network: Policy) -> list[Focus]:
        begun = [self._searched(make, _Watch(self.clock), network) for make in makers]
        watch = _Watch(self.clock)
        episodes = self._episodes(network, begun)
        pairs = zip(begun, episodes, strict=True)
        return [_finished(focus, episode, focus.seconds + watch.passed, False) for focus, episode in pairs]

    def _one(self, make: MakeAsked, network: Policy | None) -> Focus:
        watch = _Watch(self.clock, self.max_seconds)
        focus = self._searched(make, watch, network)
        if network is None:
            return focus
        (episode,) = self._episodes(network, [focus], watch.is_over)
        return _finished(focus, episode, watch.passed, watch.is_over())

    def _searched(self, make: MakeAsked, watch: _Watch, network: Policy | None) -> Focus:
        """Make the scene, and let the expert search; without one, nothing has been looked at yet."""
        asked = make()
        if self.expert is None:
            return Focus(asked.case, asked.grid, Trajectory(), "", watch.passed)
        expert = SlabExpert(self.expert, filter_fn=self.filter_fn, stop=watch.is_over, **self.slabs)
        looks = self.max_looks if network is None else self.expert_looks
        navigator = self.navigator(expert, max_steps=looks)
        search = navigator.search(asked.case.scene, asked.case.question, _surest, watch.is_over)
        return Focus(
            asked.case, asked.grid, search.trajectory, _ended(search), watch.passed, search.decisions
        )

    def _episodes(
        self,
        network: Policy,
        begun: Sequence[Focus],
        stop: Callable[[], bool] | None = None,
    ) -> list[Episode]:
        return rollout(
            network,
            [focus.case for focus in begun],
            draws=1,
            max_looks=self.max_looks,
            max_turn_tokens=self.max_turn_tokens,
            greedy=True,
            tools=self.tools,
            begun=[Trajectory(focus.trajectory.fixations) for focus in begun],
            stop=stop,
        )


class _Watch:
    """Time that has passed since it was made, and whether that is all there is."""

    def __init__(self, clock: Callable[[], float], limit: float | None = None) -> None:
        self.clock, self.limit = clock, math.inf if limit is None else limit
        self.began = clock()

    @property
    def passed(self) -> float:
        return self.clock() - self.began

    def is_over(self) -> bool:
        return self.passed >= self.limit


def _surest(regions: Sequence[Box], confidences: Sequence[float]) -> int:
    return max(range(len(regions)), key=lambda index: confidences[index])


def _ended(search: Search) -> str:
    return search.decisions[-1].reason if search.decisions else "nothing"


def _finished(focus: Focus, episode: Episode, seconds: float, is_over: bool) -> Focus:
    """Return the expert's part with what the policy made of it; looks keep what the expert said of them."""
    path = episode.trajectory
    before = focus.trajectory.fixations
    looks = (
        *(
            replace(look, mode=known.mode, confidence=known.confidence, disagreement=known.disagreement)
            for look, known in zip(path.fixations, before, strict=False)
        ),
        *path.fixations[len(before) :],
    )
    broken = "budget" if is_over and episode.defect == "no_answer" else episode.defect
    return replace(
        focus,
        trajectory=replace(path, fixations=looks),
        ended=broken or "answered",
        seconds=seconds,
        episode=episode,
    )
