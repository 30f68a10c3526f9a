"""What an image shows, as a short name that changes with it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["digest_of"]


def digest_of(*parts: object) -> str:
    """Return a digest of pixels, affines and settings, 32 hexadecimal digits.

    Args:
        parts: Tensors and arrays, by their type, shape and bytes (a ``MetaTensor``'s affine with them);
            everything else by its ``repr``, which must tell it apart from others.

    Example:
        >>> one = torch.zeros(1, 4, 4, dtype=torch.uint8)
        >>> digest_of(one, (64, 64)) == digest_of(one.clone(), (64, 64))
        True
        >>> digest_of(one, 1) == digest_of(one + 1, 1)
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if not isinstance(part, (np.ndarray, torch.Tensor)):
            digest.update(f"{part!r}\x1f".encode())
            continue
        values = np.ascontiguousarray(part)
        digest.update(f"{values.dtype}{values.shape}\x1f".encode())
        digest.update(values.data.cast("B") if values.size else b"")
        if hasattr(part, "affine"):
            digest.update(np.ascontiguousarray(part.affine, dtype=np.float64).tobytes())
    return digest.hexdigest()
