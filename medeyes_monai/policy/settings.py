"""What a policy needs to be asked as it was trained: sizes, limits, tools, coordinates, instruction."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from medeyes_monai.errors import ConfigError

__all__ = [
    "POLICY_FILE",
    "Coordinates",
    "DType",
    "PolicySettings",
    "acting_settings",
    "read_settings",
    "report_overrides",
    "served_settings",
]

logger = logging.getLogger(__name__)

POLICY_FILE = "policy_config.json"
"""File beside the weights, or beside an adapter, that holds the settings."""
Coordinates = Literal["pixels", "relative"]
DType = Literal["float32", "bfloat16", "float16"]
Reading = Literal["strict"]
ACTING = ("overview_pixels", "look_pixels", "max_looks", "max_turn_tokens", "tools")
"""Settings that act in the scene and the inferer, not in the policy."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The settings that travel with a policy's weights.

    Args:
        coordinates: Frame in which the policy writes boxes; None for the convention of its family.
        instruction: Prompt with ``{question}`` in it; None for the general one.
        dtype: Type of the weights; None for the type in which the checkpoint is stored.
        overview_pixels: Most pixels of an overview.
        look_pixels: Most pixels of a look.
        image_tokens: Most tokens of one picture, for families whose processor chooses the size itself.
        max_looks: Most looks of an episode.
        max_turn_tokens: Most tokens of a turn.
        tools: Names of the tools that the policy may use beside looking.
        reading: How replies are read; ``strict`` is the grammar of the paper.

    Raises:
        ConfigError: If a value is of another kind or out of range.

    Example:
        >>> PolicySettings(max_looks=0).max_turn_tokens
        256
        >>> PolicySettings(look_pixels=-1)
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: look_pixels must be a whole number of at least 1, got -1
    """

    coordinates: Coordinates | None = None
    instruction: str | None = None
    dtype: DType | None = None
    overview_pixels: int = 336 * 336
    look_pixels: int = 224 * 224
    image_tokens: int = 1024
    max_looks: int = 4  # method, section 2: T_max
    max_turn_tokens: int = 256
    tools: tuple[str, ...] = ()
    reading: Reading = "strict"

    def __post_init__(self) -> None:
        """Check every value."""
        _check_choice("coordinates", self.coordinates, (*get_args(Coordinates), None))
        _check_choice("dtype", self.dtype, (*get_args(DType), None))
        _check_choice("reading", self.reading, get_args(Reading))
        if self.instruction is not None and (
            not isinstance(self.instruction, str) or "{question}" not in self.instruction
        ):
            raise ConfigError(
                "instruction must be text that holds {question} where the question goes, got "
                f"{self.instruction!r}"
            )
        for name in ("overview_pixels", "look_pixels", "image_tokens", "max_looks", "max_turn_tokens"):
            value, least = getattr(self, name), 0 if name == "max_looks" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if isinstance(self.tools, str) or not all(isinstance(tool, str) for tool in self.tools):
            raise ConfigError(f"tools must be a list of names, got {self.tools!r}")
        object.__setattr__(self, "tools", tuple(self.tools))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> PolicySettings:
        """Return the settings that a JSON object holds; what it leaves out has its default.

        Args:
            values: The object.
            source: Where it comes from, for messages.

        Raises:
            ConfigError: If a key is unknown or a value does not fit.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                way_out = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ConfigError(f"{source}: unknown setting {name!r}; {way_out}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    def to_json(self, **more: Any) -> str:
        """Return the text of a settings file, ``more`` beside the settings."""
        return json.dumps({**asdict(self), **more}, indent=1) + "\n"

    def over(self, **given: Any) -> PolicySettings:
        """Return these settings with those that are given and not None in their place."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def read_settings(directory: str | Path) -> tuple[PolicySettings | None, dict[str, Any]]:
    """Return the settings in a directory and what its file says of a base; None where there is no file.

    Raises:
        ConfigError: If the file is not a JSON object of settings.
    """
    file = Path(directory) / POLICY_FILE
    if not file.is_file():
        return None, {}
    try:
        values = dict(json.loads(file.read_text(encoding="utf-8")))
        base = dict(values.pop("base", {}))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: is not a JSON object of settings ({error})") from error
    return PolicySettings.from_mapping(values, str(file)), base


def served_settings(stored_in: str | Path | None = None, **otherwise: Any) -> PolicySettings:
    """Return the settings of a policy that runs on a server.

    Args:
        stored_in: Directory of the adapter or checkpoint that the server runs; None where it has no settings.
        otherwise: Values where nothing is stored.

    Raises:
        ConfigError: If the directory holds no settings, or a value does not fit.
    """
    if stored_in is None:
        return PolicySettings(**otherwise)
    settings, _ = read_settings(stored_in)
    if settings is None:
        raise ConfigError(
            f"{stored_in}: holds no {POLICY_FILE}; give the directory that a training has saved"
        )
    return settings


def acting_settings(settings: PolicySettings, scene: Callable[..., Any], inferer: Any) -> PolicySettings:
    """Return settings with the sizes and limits that a scene and an inferer really have.

    Args:
        settings: The policy's own.
        scene: Makes scenes; its ``overview_pixels`` and ``look_pixels``, bound or by default.
        inferer: Draws episodes; its ``max_looks``, ``max_turn_tokens`` and ``tools``.

    Example:
        >>> from types import SimpleNamespace
        >>> inferer = SimpleNamespace(max_looks=2, max_turn_tokens=96, tools=())
        >>> def scene(image, overview_pixels=16384, look_pixels=4096): ...
        >>> acting = acting_settings(PolicySettings(), scene, inferer)
        >>> acting.overview_pixels, acting.max_looks
        (16384, 2)
    """
    parameters = inspect.signature(scene).parameters
    return replace(
        settings,
        overview_pixels=parameters["overview_pixels"].default,
        look_pixels=parameters["look_pixels"].default,
        max_looks=inferer.max_looks,
        max_turn_tokens=inferer.max_turn_tokens,
        tools=tuple(tool.form.name for tool in inferer.tools),
    )


def report_overrides(settings: PolicySettings, scene: Callable[..., Any], inferer: Any) -> list[str]:
    """Log each size and limit that differs from the policy's own; return their names.

    Args:
        settings: The policy's own.
        scene: See :func:`acting_settings`.
        inferer: See :func:`acting_settings`.
    """
    acting = acting_settings(settings, scene, inferer)
    changed = [name for name in ACTING if getattr(acting, name) != getattr(settings, name)]
    for name in changed:
        logger.warning(
            f"{name} is {getattr(acting, name)}; the policy was stored with {getattr(settings, name)}"
        )
    return changed


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices if choice is not None)
        raise ConfigError(f"{name} must be one of {known}, got {value!r}")
