"""What attention maps say in numbers: how much falls on the gazed box, and how far it moves between steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.policy.attention import Map, attention_maps
from medeyes_monai.policy.huggingface import HuggingFacePolicy
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["box_preference", "box_share", "describe_attention", "map_distance"]


def box_share(attention: Map, box: Box, shape: Sequence[int]) -> float:
    """Return the share of an overview map's mass that lies inside a box.

    A cell's mass counts as spread evenly over the cell, so a box may cut through cells.

    Args:
        attention: Map over the overview, ``[rows, columns]``.
        box: The box. Unit: voxels of the scene.
        shape: Extent of the scene, ``(x, y)``. Unit: voxels.

    Raises:
        ConfigError: If the box does not have two axes, or the map holds nothing.

    Example:
        >>> box_share(np.array([[1.0, 3.0]]), Box((0, 0), (75, 50)), (100, 100))  # (1 + 3 / 2) / 2 / 4
        0.3125
    """
    if box.ndim != 2:
        raise ConfigError(f"a map over a picture needs a box of 2 axes, got one of {box.ndim}")
    rows, columns = attention.shape
    across = _covered(columns, box.start[0] / shape[0], box.stop[0] / shape[0])
    down = _covered(rows, box.start[1] / shape[1], box.stop[1] / shape[1])
    return float(down @ _scaled(attention) @ across)


def box_preference(attention: Map, box: Box, shape: Sequence[int]) -> float:
    """Return :func:`box_share` over the box's share of the area: 1 means no preference for the box.

    Example:
        >>> box_preference(np.array([[1.0, 3.0]]), Box((50, 0), (100, 100)), (100, 100))  # 3/4 of it in 1/2
        1.5
    """
    return box_share(attention, box, shape) * math.prod(shape) / box.size


def map_distance(first: Map, second: Map) -> float:
    """Return how far attention moved from one map to another of the same picture.

    The Jensen-Shannon distance of the maps, each scaled to a sum of 1: the root of the mean, over the two, of
    the divergence from their average in bits. 0 for equal maps, 1 for maps that share no cell.

    Example:
        >>> map_distance(np.array([[0.1, 0.0]]), np.array([[0.0, 0.3]]))
        1.0
    """
    p, q = _scaled(first), _scaled(second)
    middle = (p + q) / 2
    return math.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def describe_attention(
    policy: HuggingFacePolicy, episodes: Sequence[Episode], cases: Mapping[str, Case]
) -> dict[str, float]:
    """Return means over the steps of some episodes on pictures, those that are known.

    ``attention/images``: share of all attention that goes to image tokens. ``attention/last_look``: of that,
    the share on the latest look, of turns after one. ``attention/box_preference``: of turns that ask for a
    look, see :func:`box_preference`. ``attention/moved``: from each turn to the next, see
    :func:`map_distance`.

    Raises:
        ConfigError: See :func:`attention_maps`.
    """
    numbers: dict[str, list[float]] = {}
    for episode in episodes:
        steps, shape = attention_maps(policy, episode), cases[episode.case].scene.shape
        for number, step in enumerate(steps):
            numbers.setdefault("images", []).append(sum(step.mass))
            if len(step.maps) > 1:
                numbers.setdefault("last_look", []).append(step.mass[-1] / sum(step.mass))
            if number:
                moved = map_distance(steps[number - 1].maps[0], step.maps[0])
                numbers.setdefault("moved", []).append(moved)
        for step, box in zip(steps, episode.trajectory.boxes, strict=False):
            if box.ndim == 2:
                preference = box_preference(step.maps[0], box, shape)
                numbers.setdefault("box_preference", []).append(preference)
    return {f"attention/{name}": fmean(values) for name, values in numbers.items()}


def _scaled(attention: Map) -> Map:
    total = float(attention.sum())
    if not total > 0:
        raise ConfigError("a map that holds no attention cannot be compared; average over more layers")
    scaled: Map = attention / total
    return scaled


def _covered(cells: int, start: float, stop: float) -> Map:
    """Return which share of each of some equal cells of [0, 1] lies between two points."""
    edges = np.linspace(0, 1, cells + 1)
    overlap = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    covered: Map = np.clip(overlap * cells, 0, 1)
    return covered


def _divergence(p: Map, q: Map) -> float:
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())
