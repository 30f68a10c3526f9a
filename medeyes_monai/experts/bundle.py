"""A MONAI segmentation bundle in a folder as an expert."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, LoadImaged
from safetensors import SafetensorError
from safetensors.torch import load_file

from medeyes_monai.errors import CheckpointError, ConfigError, ExpertError
from medeyes_monai.experts.network import SegmentationExpert
from medeyes_monai.io.literals import set_literals
from medeyes_monai.scenes.content import digest_of

__all__ = ["DictionaryPreprocessing", "bundle_expert", "load_weights"]

CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/evaluate.json")
"""Where a bundle says how it is run; the first that exists is read."""
METADATA = "configs/metadata.json"
WEIGHTS = ("models/model.safetensors", "models/model.pt")
_NESTED = ("model", "state_dict")  # keys under which training scripts put a network's weights


def bundle_expert(folder: str | PathLike[str], **settings: Any) -> SegmentationExpert:
    """Make an expert of a segmentation bundle in MONAI's layout.

    Read are ``network_def``, ``preprocessing`` and ``inferer`` of ``configs/inference``; the labels in
    ``channel_def`` of ``configs/metadata.json``; and the weights, ``models/model.safetensors`` or, without
    objects, ``models/model.pt``. A section ``expert`` of the configuration, which is ours, gives arguments of
    :class:`SegmentationExpert`. Transforms that read files are left out, because a scene has read its image.

    A bundle is a program: building these runs its ``_target_`` and ``$`` entries. Name only folders that you
    trust.

    Args:
        folder: Root of the bundle.
        settings: Arguments of :class:`SegmentationExpert`, over what the bundle says.

    Raises:
        ConfigError: If the folder is no bundle, or does not say what is needed.
        CheckpointError: If the weights are missing, damaged, or of another network.
    """
    root = Path(folder)
    file = next((root / name for name in CONFIGS if (root / name).is_file()), None)
    if file is None:
        raise ConfigError(f"{root.name} is no bundle: it needs one of {', '.join(CONFIGS)}")
    parser = ConfigParser()
    parser.read_config(str(file))
    set_literals(parser, {"bundle_root": str(root)})
    network = _built(parser, "network_def", file)
    load_weights(network, root)
    said: dict[str, Any] = {
        "spatial_dims": parser.get("network_def::spatial_dims", 2),
        "inferer": _built(parser, "inferer", file),
        "version": digest_of(file.read_text("utf-8")),
        **(_built(parser, "expert", file) if "expert" in parser else {}),
    }
    if "preprocessing" in parser:
        said["preprocessing"] = DictionaryPreprocessing(_built(parser, "preprocessing", file))
    labels = settings.pop("labels", None) or _labels(root)
    return SegmentationExpert(network, labels, **{**said, **settings})


def load_weights(network: torch.nn.Module, root: Path) -> None:
    """Load a bundle's weights into its network.

    Raises:
        CheckpointError: If the weights are missing, damaged, hold objects, or belong to another network.
    """
    path = next((root / name for name in WEIGHTS if (root / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{root.name} has no weights: it needs one of {', '.join(WEIGHTS)}")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        nested = next((state[key] for key in _NESTED if isinstance(state.get(key), Mapping)), state)
        network.load_state_dict(nested)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        AttributeError,
        TypeError,
    ) as error:
        raise CheckpointError(
            f"{path.name} of {root.name} cannot be loaded into its network_def: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


class DictionaryPreprocessing:
    """A bundle's dictionary transforms, applied to an image that a scene has read.

    Args:
        transforms: A ``Compose`` or a single transform, on ``{"image": ...}``. Readers of files are left out.

    Example:
        >>> from monai.transforms import ScaleIntensityRanged
        >>> scale = ScaleIntensityRanged(["image"], 0, 255, 0, 1)
        >>> DictionaryPreprocessing(scale)(MetaTensor(torch.full((1, 2, 2), 255.0))).max().item()
        1.0
    """

    def __init__(self, transforms: Any) -> None:
        """Leave out what reads files; see the class."""
        steps = transforms.flatten().transforms if isinstance(transforms, Compose) else (transforms,)
        self.transforms = Compose([s for s in steps if not isinstance(s, (LoadImage, LoadImaged))])

    def __call__(self, image: MetaTensor) -> torch.Tensor:
        """Apply them to ``(C, X, Y[, Z])``.

        Raises:
            ExpertError: If no image comes out of them.
        """
        clean = MetaTensor(image.as_tensor(), affine=image.affine, meta={"original_channel_dim": 0})
        done = self.transforms({"image": clean})
        if not isinstance(done, Mapping) or not isinstance(done.get("image"), torch.Tensor):
            raise ExpertError("the preprocessing of a bundle returns a dictionary with an image, got another")
        prepared: torch.Tensor = done["image"]
        return prepared


def _built(parser: ConfigParser, part: str, file: Path) -> Any:
    if part not in parser:
        raise ConfigError(f"{file.name} has no {part}, which an expert needs")
    return parser.get_parsed_content(part)


def _labels(root: Path) -> list[str]:
    """Return the names of the channels, in order, from a bundle's metadata."""
    file = root / METADATA
    if not file.is_file():
        raise ConfigError(f"{root.name} has no {METADATA}, which names the classes; or give labels")
    try:
        outputs = json.loads(file.read_text("utf-8"))["network_data_format"]["outputs"]
        (channels,) = (output["channel_def"] for output in outputs.values())
        return [str(channels[str(number)]) for number in range(len(channels))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{METADATA} of {root.name} names no classes in network_data_format::outputs::pred::channel_def; "
            "give labels"
        ) from error
