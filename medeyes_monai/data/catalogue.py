"""The data sets that can be prepared, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medeyes_monai.data.ct_questions import CtQuestionsRelease
from medeyes_monai.data.deep_tumor_vqa import DeepTumorVqaRelease
from medeyes_monai.data.detection import BccdRelease, DetectionRelease
from medeyes_monai.data.mmmu import MmmuRelease
from medeyes_monai.data.path_vqa import PathVqaRelease
from medeyes_monai.data.pmc_vqa import PmcVqaRelease
from medeyes_monai.data.releases import Release
from medeyes_monai.data.slake import SlakeRelease
from medeyes_monai.data.vqa_rad import VqaRadRelease
from medeyes_monai.errors import ConfigError

__all__ = ["RELEASES", "open_release"]

RELEASES: Mapping[str, Callable[..., Release]] = MappingProxyType(
    {
        "vqa_rad": VqaRadRelease,
        "slake": SlakeRelease,
        "path_vqa": PathVqaRelease,
        "pmc_vqa": PmcVqaRelease,
        "mmmu": MmmuRelease,
        "bccd": BccdRelease,
        "detection": DetectionRelease,
        "deep_tumor_vqa": DeepTumorVqaRelease,
        "ct_questions": CtQuestionsRelease,
    }
)


def open_release(name: str, source: str | Path, **settings: Any) -> Release:
    """Return a copy of a data set by its name.

    Args:
        name: One of :data:`RELEASES`.
        source: Its folder; for some, ``hub``.
        settings: What else its class takes.

    Raises:
        ConfigError: If the name or a setting is unknown, or the copy is not in the data set's form.

    Example:
        >>> open_release("slake", "data", langage="zh")
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: slake takes encoding, language, regions, not 'langage'
    """
    if name not in RELEASES:
        near = difflib.get_close_matches(name, RELEASES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(RELEASES)}"
        raise ConfigError(f"unknown data set {name!r}; {hint}")
    known = sorted(set(inspect.signature(RELEASES[name]).parameters) - {"source"})
    for key in settings:
        if key not in known:
            raise ConfigError(f"{name} takes {', '.join(known) or 'no settings'}, not {key!r}")
    return RELEASES[name](source, **settings)
