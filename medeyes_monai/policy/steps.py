"""A path of looks and calls as the turns and the feedback that a policy would have had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from medeyes_monai.policy.base import Policy, Segment, ToolPolicy
from medeyes_monai.protocol import render_step
from medeyes_monai.scenes import Case
from medeyes_monai.tools import Tool
from medeyes_monai.trajectory import Fixation, Trajectory

__all__ = ["Step", "written_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One look or call as the policy would have written it.

    Args:
        text: The turn.
        said: Its token ids, with the end of the turn.
        feedback: What the environment said to it.
    """

    text: str
    said: tuple[int, ...]
    feedback: Segment


def written_steps(
    path: Trajectory, case: Case, policy: Policy, tools: Sequence[Tool] = ()
) -> tuple[Trajectory, list[Step]]:
    """Write the looks and calls of a path as a policy's turns, without the answer.

    Boxes are rounded to the frame in which the policy speaks, and pictures are taken at the coordinates that
    were written. Replies of tools are those of the path.

    Args:
        path: Boxes in voxels of the scene.
        case: The question.
        policy: Whose frame, tokens and pictures are used.
        tools: Tools that change how later looks are shown.

    Returns:
        The path as written, boxes in voxels of the scene, and its steps in order.

    Raises:
        ProtocolError: If the path has a text that the protocol cannot hold.
    """
    scene, frame = case.scene, policy.frame(case.scene)
    spoken = path.scale(scene.shape, frame)
    written = spoken.scale(frame, scene.shape)
    by_name = {tool.form.name: tool for tool in tools}
    steps = []
    for said, done in zip(spoken.steps, written.steps, strict=True):
        if isinstance(done, Fixation):
            feedback = policy.feedback(scene.look(done.box))
        else:
            if done.name in by_name:
                scene = by_name[done.name].use(done, scene).scene
            feedback = cast("ToolPolicy", policy).reply(done.reply)
        text = render_step(said)
        steps.append(Step(text, (*policy.encode(text), policy.end_of_turn), feedback))
    return written, steps
