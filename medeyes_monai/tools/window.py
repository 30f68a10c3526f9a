"""The tool that changes which values are shown as grey."""

from __future__ import annotations

from typing import Any

from medeyes_monai.protocol import ToolForm
from medeyes_monai.scenes import Scene
from medeyes_monai.tools.base import Outcome
from medeyes_monai.trajectory import ToolCall

__all__ = ["Window"]


class Window:
    """Shows later looks from ``centre - width / 2`` (black) to ``centre + width / 2`` (white).

    Only a volume keeps its own values (HU for CT); for a picture the reply says so and nothing changes.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.scenes import VolumeScene
        >>> scene = VolumeScene(np.full((1, 32, 32, 8), 40, np.int16), key="a", window="lung", labels=False)
        >>> call = ToolCall("Window", values=(("centre", 40), ("width", 80)))
        >>> Window().use(call, scene).scene.overview().pixels.max().item()
        128
    """

    form = ToolForm("Window", numbers=("centre", "width"))
    hint = (
        '<action>{"name":"Window","centre":c,"width":w}</action> shows later looks from c - w/2 to c + w/2.'
    )

    def use(self, call: ToolCall, scene: Scene) -> Outcome:
        """Return the scene with another window."""
        (_, centre), (_, width) = call.values
        anew: Any = getattr(scene, "with_window", None)
        if anew is None:
            return Outcome("this image has no window", scene)
        if width <= 0:
            return Outcome("the width of a window is above 0", scene)
        return Outcome(f"centre {centre:g}, width {width:g}", anew((float(centre), float(width))))
