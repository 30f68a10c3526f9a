"""Tries small random models of many families of transformers, and writes what came of it as a table.

    python scripts/try_families.py --output docs/models.md
    python scripts/try_families.py gemma3 internvl          # some of them, to the screen

Each is loaded from a folder like a download, draws 8 episodes of three looks, takes one AdamW step on the
GRPO loss of their rewards, is saved and loaded again. A family passes if the log-probabilities of its draws
are those of a teacher-forced pass, and those of the loaded policy are those of the saved one, up to 1e-5.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny_families import FAMILIES  # noqa: E402

from medeyes_monai.errors import ConfigError  # noqa: E402
from medeyes_monai.policy import HuggingFacePolicy  # noqa: E402
from medeyes_monai.policy.qwen_vl import QwenVL  # noqa: E402
from medeyes_monai.rollout import rollout  # noqa: E402
from medeyes_monai.scenes import Case, ImageScene  # noqa: E402
from medeyes_monai.training.advantages import advantages  # noqa: E402
from medeyes_monai.training.loss import dual_stream_loss, episode_weights  # noqa: E402
from medeyes_monai.trajectory import Episode  # noqa: E402

DRAWS, LOOKS, TURN_TOKENS = 8, 3, 48
TOLERANCE = 1e-5
LARGEST = (3000, 4000)
"""Rows and columns of the largest picture that is asked about."""


@dataclass(frozen=True)
class Trial:
    """What came of a family.

    Args:
        family: Its ``model_type``.
        refused: Why it is not loaded, the first sentence; empty if it is.
        overview: Tokens of an overview.
        look: Most tokens of a look.
        largest: Tokens of a picture of 4,000 x 3,000 pixels; 0 where the scene's sizes bound them.
        as_planned: Whether the episodes have as many image tokens as the reloaded policy plans for pictures
            of their sizes.
        looks: Fewest looks of an episode.
        drawn: Largest difference between log-probabilities of the draws and of a teacher-forced pass.
        moved: Largest change of a log-probability by the update.
        reloaded: Largest difference between log-probabilities of the saved policy and of the loaded one.
    """

    family: str
    refused: str = ""
    overview: int = 0
    look: int = 0
    largest: int = 0
    as_planned: bool = False
    looks: int = 0
    drawn: float = 0.0
    moved: float = 0.0
    reloaded: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything was as it should be."""
        return (
            not self.refused
            and self.as_planned
            and self.looks == LOOKS
            and max(self.overview, self.look, self.largest) <= 1024
            and max(self.drawn, self.reloaded) <= TOLERANCE < self.moved
        )


class LookingPolicy(HuggingFacePolicy):
    """A random policy with short turns, each of which is read as a look that follows from its tokens."""

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Make the end of a turn likely."""
        more = torch.zeros(self.vocabulary_size)
        more[self.end_of_turn] = 6.0
        return super().scores(hidden) + more

    def decode(self, token_ids: Sequence[int]) -> str:
        """Read the first two tokens as a place to look at."""
        x, y = (int(token) % 7 * 8 for token in (*token_ids, 1, 2)[:2])
        corners = f"[{x},{y},{x + 200},{y + 150}]"
        return f'<reasoning></reasoning><action>{{"name":"Gaze","coordinate":{corners}}}</action>'


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="family", help=f"all if none: {', '.join(FAMILIES)}")
    parser.add_argument("--output", type=Path, help="file that the page is written to")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.families) - set(FAMILIES)):
        parser.error(f"unknown family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    trials = []
    with tempfile.TemporaryDirectory() as work:
        for family in asked.families or FAMILIES:
            trials.append(try_family(family, Path(work)))
            print(_row(trials[-1]), flush=True)
    if asked.output:
        asked.output.write_text(page(trials), encoding="utf-8")
    failed = [trial.family for trial in trials if not trial.refused and not trial.passed]
    if failed:
        raise SystemExit(f"loaded, but not as they should be: {', '.join(failed)}")


def try_family(family: str, work: Path) -> Trial:
    """Make a small random model of a family in a folder and try it.

    Args:
        family: A key of ``FAMILIES``.
        work: Folder for its checkpoints.
    """
    folder = work / family
    FAMILIES[family](folder)
    try:
        policy = LookingPolicy(folder)
    except ConfigError as error:
        cause = str(error).removeprefix(f"policy {folder}: ").replace(str(folder), "its folder")
        return Trial(family, refused=" ".join(cause.split()).split(". ")[0])
    scene = ImageScene(
        np.random.default_rng(0).integers(0, 256, (3, 800, 600), dtype=np.uint8),
        key="noise",
        patch=policy.patch,
        overview_pixels=policy.settings.overview_pixels,
        look_pixels=policy.settings.look_pixels,
    )
    case = Case("noise", scene, "Which kind is the lesion?", "solid")
    episodes = rollout(policy, [case], draws=DRAWS, max_looks=LOOKS, max_turn_tokens=TURN_TOKENS)
    drawn = _difference(policy, episodes, [episode.behaviour_logprobs for episode in episodes])
    before = _logprobs(policy, episodes)
    _update(policy, episodes)
    after = _logprobs(policy, episodes)
    policy.save(work / f"{family}-saved")
    loaded = LookingPolicy(work / f"{family}-saved")
    overview, *looks = (len(policy.family.picture_ids(picture)) for picture in episodes[0].pictures)
    return Trial(
        family,
        overview=overview,
        look=max(looks, default=0),
        largest=_tokens(policy, LARGEST),
        as_planned=all(_image_tokens(policy, e) == _planned(loaded, e) for e in episodes),
        looks=min(len(episode.trajectory.fixations) for episode in episodes),
        drawn=drawn,
        moved=max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)),
        reloaded=_difference(loaded, episodes, after),
    )


def _tokens(policy: HuggingFacePolicy, sides: tuple[int, int]) -> int:
    """Return the number of tokens of a picture; where the scene's sizes bound it, 0."""
    if isinstance(policy.family, QwenVL):
        return 0
    return len(policy.family.picture_ids(np.zeros((*sides, 3), np.uint8)))


def _image_tokens(policy: HuggingFacePolicy, episode: Episode) -> int:
    """Return the number of an episode's tokens that stand for a part of a picture."""
    return int((episode.token_ids == policy.image_token_id).sum())


def _planned(policy: HuggingFacePolicy, episode: Episode) -> int:
    """Return how many there should be, by what a policy plans for the sizes of the pictures."""
    blank = (np.zeros_like(picture) for picture in episode.pictures)
    return sum(policy.family.picture_ids(picture).count(policy.image_token_id) for picture in blank)


@torch.no_grad()
def _logprobs(policy: HuggingFacePolicy, episodes: Sequence[Episode]) -> list[torch.Tensor]:
    """Return the log-probabilities of all tokens of each episode, 0 where they were not drawn."""
    rows = policy.train(False).score(episodes).logprobs
    return [row[: len(episode)] for row, episode in zip(rows, episodes, strict=True)]


def _difference(
    policy: HuggingFacePolicy, episodes: Sequence[Episode], wanted: Sequence[torch.Tensor]
) -> float:
    got = _logprobs(policy, episodes)
    return max(
        float((one - other)[episode.response_mask].abs().max())
        for one, other, episode in zip(got, wanted, episodes, strict=True)
    )


def _update(policy: HuggingFacePolicy, episodes: Sequence[Episode]) -> None:
    """Take an AdamW step on the loss of a group; the reward of an episode is its number of tokens."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    rewards = torch.tensor([float(episode.response_mask.sum()) for episode in episodes])
    nobody, one = torch.zeros(len(episodes), dtype=torch.bool), torch.zeros(len(episodes), dtype=torch.long)
    scores = policy.train(True).score(episodes)
    behaviour = torch.nn.utils.rnn.pad_sequence([e.behaviour_logprobs for e in episodes], batch_first=True)
    loss, _ = dual_stream_loss(
        scores.logprobs,
        behaviour,
        advantages(rewards, one, nobody).values,
        scores.response_mask,
        nobody,
        episode_weights(scores.response_mask.sum(-1), nobody),
    )
    loss.backward()
    optimizer.step()


def page(trials: Sequence[Trial]) -> str:
    """Return the page with the table."""
    import transformers

    loaded, passed = [t for t in trials if not t.refused], [t for t in trials if t.passed]
    packages = " and ".join(
        f"{name} {'installed' if find_spec(name) else 'absent'}" for name in ("torchvision", "num2words")
    )
    lines = [
        "# Families of models",
        "",
        "Made by `python scripts/try_families.py --output docs/models.md` with "
        f"torch {torch.__version__} and transformers {transformers.__version__}, {packages}, on a CPU in "
        "float32. Each family is a small model with random weights. "
        f"{len(loaded)} of {len(trials)} load; {len(passed)} of these draw {DRAWS} episodes of {LOOKS} "
        "looks, take one AdamW step on the GRPO loss, and are saved and loaded again as described below. The "
        "others are refused on loading, with the cause.",
        "",
        "`qwen2_5_vl` and `qwen3_vl` have code of their own and a quicker step for each token. All other "
        "families share one path: pictures go through the model's own tower and projector, and its decoder "
        "appends them to a cache. On loading, this path is compared with the model's own forward pass, and "
        "the model is refused where they differ.",
        "",
        "| family | result | tokens: overview | look | 4,000 x 3,000 | image tokens as planned | looks "
        "| draws against a full pass | change by the update | reloaded |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(trial) for trial in trials),
        "",
        "*Tokens* count what stands for one picture, with the tokens that the processor puts around it. A "
        "picture is one tile and has at most `image_tokens` (1,024 unless set) tokens. Towers of fixed size "
        "are small here; real ones have more tokens than the table says, and a family that exceeds the limit "
        "with one tile is refused on loading, with the number to set. `qwen2_5_vl` and `qwen3_vl` take "
        "pictures whose sides fit their grid, so the scene's sizes bound their tokens. *Draws against a full "
        "pass* is the largest difference between log-probabilities with which tokens were drawn and those of "
        "one teacher-forced pass; *reloaded* is that between the saved and the loaded policy. Both are "
        "natural logarithms.",
        "",
    ]
    return "\n".join(lines)


def _row(trial: Trial) -> str:
    if trial.refused:
        return f"| {trial.family} | refused: {trial.refused} | | | | | | | | |"
    cells = [
        trial.family,
        "passes" if trial.passed else "fails",
        *(f"{number:,}" for number in (trial.overview, trial.look)),
        f"{trial.largest:,}" if trial.largest else "-",
        "yes" if trial.as_planned else "no",
        str(trial.looks),
        *(f"{value:.1e}" for value in (trial.drawn, trial.moved, trial.reloaded)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
