"""What a run depends on, as plain values that a later run can be compared with."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from medeyes_monai.policy import Policy

__all__ = ["data_identity", "settings_of", "weights_digest"]

_SAMPLE = 1024
"""Values of each parameter that count towards the digest of weights."""
_PLACES = ("root", "path", "base_dir", "device")
"""Settings that say where something is and not what."""


def weights_digest(policy: Policy) -> str:
    """Return a digest of a policy's parameters: names, shapes, and the first 1,024 values of each.

    So it is quick for large models; training changes it, and where the weights lie does not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(policy.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        sample = weight.detach().flatten()[:_SAMPLE].float().cpu()
        digest.update(torch.nan_to_num(sample).numpy().tobytes())
    return digest.hexdigest()


def data_identity(dataset: Any) -> dict[str, Any]:
    """Describe a data set: its class, its length, what it was made with, and its questions where it has them.

    Example:
        >>> from medeyes_monai.data.phantom import PhantomVQA
        >>> described = data_identity(PhantomVQA("val", size=3))
        >>> described["class"], described["length"], described["split"]
        ('PhantomVQA', 3, 'val')
    """
    described = {"class": type(dataset).__name__, "length": len(dataset)} | settings_of(dataset)
    inner = getattr(dataset, "dataset", None)  # of a torch.utils.data.Subset
    if inner is not None:
        described |= {"of": data_identity(inner), "indices": _digest(list(map(int, dataset.indices)))}
    items = getattr(dataset, "items", None)
    if items is not None:
        described["items"] = _digest([_item(item) for item in items])
    scene = getattr(dataset, "scene", getattr(dataset, "_make_scene", None))
    return described | ({} if scene is None else {"scene": _made_by(scene)})


def settings_of(thing: Any) -> dict[str, Any]:
    """Return the attributes of an object that are plain values, but for private ones and places."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(vars(thing).items())
        if not name.startswith("_") and name not in _PLACES and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, (tuple, list)) else [value]
    return all(part is None or isinstance(part, (str, int, float, bool)) for part in parts)


def _made_by(factory: Any) -> dict[str, Any]:
    if not isinstance(factory, functools.partial):
        return {"class": getattr(factory, "__name__", type(factory).__name__)}
    given = {name: value for name, value in sorted(factory.keywords.items()) if _is_plain(value)}
    return _made_by(factory.func) | given


def _item(item: Any) -> Mapping[str, Any]:
    names = ("key", "image", "question", "answer", "options", "scoring", "tolerance", "family")
    return {name: getattr(item, name, None) for name in names}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=16).hexdigest()
