"""A bundle of this project as the model: its policy, its way of looking, its limits."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai.bundle import ConfigParser

from medeyes_monai.errors import ConfigError
from medeyes_monai.inferers import EpisodeInferer, FocusInferer
from medeyes_monai.io.configs import check_config
from medeyes_monai.io.literals import literal_settings, set_literals
from medeyes_monai.policy import Policy
from medeyes_monai.scenes import Case, Scene, VolumeScene
from medeyes_monai.trajectory import Episode

__all__ = ["BundleModel", "find_bundle", "load_bundle"]

INFERENCE = Path("configs", "inference.yaml")


@dataclass(frozen=True, slots=True, eq=False)
class BundleModel:
    """What a bundle's inference is made of.

    Args:
        policy: Who looks and answers.
        scene: Makes a scene of an image: ``scene(image, key=..., findings=())``.
        inferer: Lets the policy look, alone (``EpisodeInferer``) or after an expert (``FocusInferer``).
        reads_volumes: Whether scenes are volumes; otherwise they are slices.
    """

    policy: Policy
    scene: Callable[..., Scene]
    inferer: EpisodeInferer | FocusInferer
    reads_volumes: bool

    @property
    def grades(self) -> bool:
        """Whether there is an expert who says how sure looks are."""
        return isinstance(self.inferer, FocusInferer) and self.inferer.expert is not None

    def ask(self, cases: Sequence[Case]) -> list[Episode]:
        """Return one episode for each case."""
        self.policy.train(False)
        return self.inferer(cases, self.policy)


def load_bundle(
    bundle: str | os.PathLike[str],
    settings: Mapping[str, Any] = MappingProxyType({}),
    /,
    *,
    policy: str | os.PathLike[str] | None = None,
    overlays: Sequence[str | os.PathLike[str]] = (),
    **more: Any,
) -> BundleModel:
    """Build policy, scene and inferer as ``inference.yaml`` of a bundle says.

    Args:
        bundle: Folder of the bundle.
        settings: Values by id, such as ``device`` or ``max_looks``; configuration, with its references and
            expressions.
        policy: Checkpoint directory or hub name of a policy that was trained; the bundle's own if None.
        overlays: Further configurations, later ones over earlier ones.
        more: Further settings.

    Raises:
        ConfigError: If the bundle has no inference, its inferer is of another kind, or a setting is wrong.
        CheckpointError: If the policy's weights are missing or damaged.
    """
    root = Path(bundle)
    file = root / INFERENCE
    if not file.is_file():
        raise ConfigError(f"{root} is no bundle of this project: it lacks {INFERENCE}")
    values = {**settings, **more}
    literals = {} if "bundle_root" in values else {"bundle_root": str(root)}
    literals |= {} if policy is None else {"policy_path": str(policy)}
    files = [Path(overlay) for overlay in overlays]
    check_config(file, files, **(values | literal_settings(literals)))
    parser = ConfigParser()
    parser.read_config([str(file), *map(str, files)])
    parser.update(values)
    set_literals(parser, literals)
    scene, built = parser.get_parsed_content("scene"), parser.get_parsed_content("policy")
    inferer = _inferer(parser.get_parsed_content("inferer"))
    built.report_overrides(scene, inferer)
    return BundleModel(
        policy=built,
        scene=scene,
        inferer=inferer,
        reads_volumes=_makes_volumes(scene),
    )


def find_bundle(path: str | os.PathLike[str]) -> Path:
    """Return the bundle in a folder of models: the only one inside it, or else the folder itself.

    The packager of MONAI Deploy puts a bundle beside copies of its own parts.

    Raises:
        ConfigError: If there is none, or there are several.
    """
    root = Path(path)
    inside = sorted(root.iterdir()) if root.is_dir() else []
    found = [folder for folder in inside if (folder / INFERENCE).is_file()] or [root]
    if len(found) != 1 or not (found[0] / INFERENCE).is_file():
        raise ConfigError(f"{root} has to be or to hold one bundle, a folder with {INFERENCE}")
    return found[0]


def _inferer(made: Any) -> EpisodeInferer | FocusInferer:
    """Refuse what gives no or several episodes for a question."""
    if not isinstance(made, (EpisodeInferer, FocusInferer)) or getattr(made, "draws", 1) != 1:
        raise ConfigError(
            "the inferer of a bundle has to be an EpisodeInferer with one draw or a FocusInferer, got "
            f"{type(made).__name__}"
        )
    return made


def _makes_volumes(scene: Any) -> bool:
    made = getattr(scene, "func", scene)
    return inspect.isclass(made) and issubclass(made, VolumeScene)
