"""The contract of a tool: an action with a form of its own, answered in words."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from medeyes_monai.protocol import ToolForm
from medeyes_monai.scenes import Scene
from medeyes_monai.trajectory import ToolCall

__all__ = ["Outcome", "Tool"]


class Outcome(NamedTuple):
    """What the use of a tool brings.

    Args:
        reply: What it says.
        scene: The image as later looks see it; the same unless the tool changes how it is shown.
    """

    reply: str
    scene: Scene


class Tool(Protocol):
    """Something that a policy can do beside looking and answering.

    A call that makes no sense is answered in words: it is the policy's mistake, from which it can learn.
    """

    @property
    def form(self) -> ToolForm:
        """What its action looks like."""

    @property
    def hint(self) -> str:
        """A line that tells a policy how to call it."""

    def use(self, call: ToolCall, scene: Scene) -> Outcome:
        """Answer a call.

        Args:
            call: What was asked; its box lies inside the scene. Unit: voxels of the scene.
            scene: The image.
        """
