"""Stored numbers as values: rescaled, finite, and in the smallest type that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.io.limits import RefusedError

__all__ = ["Values", "are_whole", "empty", "narrowed", "put"]

Values = npt.NDArray[Any]

INT16 = np.iinfo(np.int16)


def are_whole(stored: npt.DTypeLike, slope: float = 1.0, intercept: float = 0.0) -> bool:
    """Tell whether numbers of a type, times slope plus intercept, are whole whatever they are.

    Example:
        >>> are_whole(np.uint16, 1.0, -1024.0), are_whole(np.uint16, 0.5)
        (True, False)
    """
    return np.dtype(stored).kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()


def narrowed(values: Values, whole: bool | None = None) -> Values:
    """Return ``uint8`` as it is, whole numbers as ``int16`` if they fit, all others as ``float32``.

    Args:
        values: The values.
        whole: Whether they are whole numbers; None: if their type is one of those.

    Raises:
        RefusedError: If they are not finite.

    Example:
        >>> narrowed(np.array([40, -1000])).dtype, narrowed(np.array([40000])).dtype
        (dtype('int16'), dtype('float32'))
    """
    if values.dtype == np.uint8:
        return values
    is_whole = are_whole(values.dtype) if whole is None else whole
    if is_whole and values.min() >= INT16.min and values.max() <= INT16.max:
        return values.astype(np.int16, copy=False)
    single = values.astype(np.float32, copy=False)
    if not np.isfinite(single).all():
        raise RefusedError("holds voxels that are not finite; give them a number, such as that of air")
    return single


def empty(shape: tuple[int, ...]) -> Values:
    """Return an array to :func:`put` parts into: ``int16``, the first axis fastest in memory."""
    return np.empty(shape, np.int16, order="F")


def put(whole: Values, index: Any, part: Values) -> Values:
    """Put narrowed values into an array, which becomes ``float32`` with the first part that is.

    Args:
        whole: The array. It is changed.
        index: Where the part belongs.
        part: The values.

    Returns:
        The array, or a wider copy.
    """
    if whole.dtype == np.int16 and part.dtype == np.float32:
        whole = whole.astype(np.float32)
    whole[index] = part
    return whole
