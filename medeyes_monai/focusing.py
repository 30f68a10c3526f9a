"""Progressive focus on one image, from its file to the files of what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from monai.bundle import ConfigParser
from monai.data import MetaTensor

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Expert
from medeyes_monai.focus import Focus, write_focus
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io.configs import read_config
from medeyes_monai.io.literals import set_literals
from medeyes_monai.navigator import Navigator
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.settings import PolicySettings
from medeyes_monai.reports import write_focus_report
from medeyes_monai.scenes import ImageScene, VolumeScene

__all__ = ["configured_search", "focus_on"]

PATCH = 32  # pixels; without a policy, nobody reads the pictures but the reader of the page
WITHOUT_POLICY = PolicySettings(overview_pixels=128 * 128, look_pixels=64 * 64)
NEEDS_ANNOTATIONS = "AnnotationExpert"
"""Reads what data say of an image; of an image that has just come, nothing is said."""


def configured_search(
    file: str | Path, bundle: str | Path, device: str = "cpu"
) -> tuple[Expert, Callable[..., Navigator]]:
    """Build the expert of a configuration such as those of ``configs/experts``, without the rest of it.

    Args:
        file: The configuration.
        bundle: Folder of the bundle, in which experts may have their weights.
        device: Where networks run.

    Returns:
        The expert, and what makes a navigator that asks it as the configuration says.

    Raises:
        ConfigError: If the file holds no expert, or one that reads annotations.
    """
    given = read_config(file)
    if "expert" not in given:
        raise ConfigError(f"{file}: describes no expert; give a file like those in configs/experts")
    if NEEDS_ANNOTATIONS in str(given["expert"]):
        raise ConfigError(f"{file}: its expert reads annotations, which a new image lacks; take another")
    around = {"bundle_root": None, "device": device, "seed": 0, "reader": None}
    asking = {"expert": given["expert"], "queries": given.get("navigator::queries")}
    parser = ConfigParser(around | asking)
    set_literals(parser, {"bundle_root": str(bundle)})
    queries = parser.get_parsed_content("queries")
    navigator = Navigator if queries is None else partial(Navigator, queries=queries)
    return parser.get_parsed_content("expert"), navigator


def focus_on(
    image: MetaTensor,
    question: str,
    directory: str | Path,
    *,
    expert: Expert | None = None,
    policy: HuggingFacePolicy | None = None,
    window: Any = None,
    overview_pixels: int | None = None,
    look_pixels: int | None = None,
    max_looks: int | None = None,
    **budget: Any,
) -> Focus:
    """Look for what a question asks about, and write what was found.

    Args:
        image: A picture or a volume.
        question: What is asked.
        directory: Gets the files of :func:`~medeyes_monai.focus.write_focus` and a page, ``index.html``.
        expert: Who points at places; None leaves them to the policy.
        policy: Who looks and answers; None has the expert search alone.
        window: How a volume is shown, see :class:`~medeyes_monai.scenes.VolumeScene`.
        overview_pixels: Most pixels of the overview; None for the policy's own setting, or 128 x 128.
        look_pixels: Most pixels of a look; None likewise, or 64 x 64.
        max_looks: Most looks; None likewise, or 4.
        budget: Further arguments of :class:`~medeyes_monai.inferers.FocusInferer`, such as ``max_seconds``.

    Raises:
        ConfigError: If there is neither an expert nor a policy, or a limit leaves nothing to do.
        GeometryError: If the image cannot be placed.
        ExpertError: If the expert does not take such images.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.experts import BlobExpert
        >>> ct = np.full((1, 64, 64, 32), -900, np.int16)
        >>> ct[:, 40:48, 8:16, 20:28] = 100
        >>> out = getfixture("tmp_path")
        >>> focus = focus_on(MetaTensor(ct), "What stands out?", out, expert=BlobExpert(min_extent=8))
        >>> focus.boxes[0].contains((44, 12, 24)), (out / "index.html").is_file()
        (True, True)
    """
    own = WITHOUT_POLICY if policy is None else policy.settings
    views: dict[str, Any] = {
        "patch": PATCH if policy is None else policy.patch,
        "overview_pixels": own.overview_pixels if overview_pixels is None else overview_pixels,
        "look_pixels": own.look_pixels if look_pixels is None else look_pixels,
    }
    if policy is not None:
        budget = {"max_turn_tokens": own.max_turn_tokens, "tools": own.tools} | budget
    infer = FocusInferer(
        expert,
        scene=partial(ImageScene, **views),
        volume_scene=partial(VolumeScene, window=window, **views),
        max_looks=own.max_looks if max_looks is None else max_looks,
        **budget,
    )
    if policy is not None:
        policy.report_overrides(infer.scene, infer)
    found = cast(Focus, infer(image, policy, question=question))  # one image, not a batch
    write_focus(found, directory)
    write_focus_report(directory, [found], title=question)
    return found
