"""Remembers what the vision tower made of a picture, so that no picture is encoded twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b

import torch

from medeyes_monai.trajectory import Picture

__all__ = ["Features", "VisionMemo"]

Features = tuple[torch.Tensor, ...]
"""What stands for one picture: its tokens ``[n, D]``, and those that deeper layers add, each ``[n, D]``."""

_Key = tuple[torch.dtype, bytes]
"""Precision of the pass, and a picture's digest."""


class VisionMemo:
    """Encodes pictures, each distinct one once.

    What was encoded is kept for later passes as long as it is valid: the tower's weights are the same, and no
    gradient is to reach them. With a frozen tower that is a whole run; with a trained one, a rollout.

    Args:
        tower: The vision tower.
        encode: Encodes some distinct pictures, with gradient where the tower is trained.
        budget: What is kept at most; the least recently used goes first. Unit: bytes.
    """

    def __init__(
        self,
        tower: torch.nn.Module,
        encode: Callable[[Sequence[Picture]], list[Features]],
        budget: int,
    ) -> None:
        """Begin empty."""
        self._tower, self._encode, self._budget = tower, encode, budget
        self._kept: OrderedDict[_Key, Features] = OrderedDict()
        self._bytes = 0
        self._state: Hashable = None
        self.encoded = 0
        """Number of pictures that went through the tower."""

    def __call__(self, pictures: Sequence[Picture]) -> list[Features]:
        """Return the features of some pictures, in their order."""
        precision = self._precision()
        keys = [(precision, _digest(picture)) for picture in pictures]
        distinct = dict(zip(keys, pictures, strict=True))
        trained = any(parameter.requires_grad for parameter in self._tower.parameters())
        if trained and torch.is_grad_enabled():
            found = self._fresh(distinct)
        else:
            self._forget_if_changed()
            found = {key: self._kept[key] for key in distinct if key in self._kept}
            with torch.no_grad():
                made = self._fresh({key: picture for key, picture in distinct.items() if key not in found})
            # Copies, because the features of one pass are views of one block, which would be kept whole.
            found |= {key: tuple(part.clone() for part in features) for key, features in made.items()}
            self._keep(found)
        return [found[key] for key in keys]

    def _fresh(self, pictures: dict[_Key, Picture]) -> dict[_Key, Features]:
        self.encoded += len(pictures)
        made = self._encode(list(pictures.values())) if pictures else []
        return dict(zip(pictures, made, strict=True))

    def _forget_if_changed(self) -> None:
        """Drop everything if the weights, their place or an adapter's switch are not what they were."""
        weights = tuple((w.device, w.data_ptr(), w._version) for w in self._tower.parameters())
        switches = tuple(getattr(module, "disable_adapters", False) for module in self._tower.modules())
        state = (weights, switches)
        if state != self._state:
            self._kept.clear()
            self._bytes, self._state = 0, state

    def _precision(self) -> torch.dtype:
        weight = next(self._tower.parameters())
        kind = weight.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype

    def _keep(self, found: dict[_Key, Features]) -> None:
        for key, features in found.items():
            if key not in self._kept:
                self._bytes += _size(features)
            self._kept[key] = features
            self._kept.move_to_end(key)
        while self._bytes > self._budget and self._kept:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _digest(picture: Picture) -> bytes:
    return blake2b(picture.tobytes(), digest_size=16, person=str(picture.shape).encode()[:16]).digest()


def _size(features: Features) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features)
