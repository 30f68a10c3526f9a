"""Rollouts of several turns with pictures: against ``generate()`` that reads all again, and over sizes.

``ours`` is :func:`medeyes_monai.rollout.rollout`. ``generate`` is what a trainer without a cache between
turns does with transformers: at each turn the whole conversation of every row, with all its pictures, goes
through ``generate()`` again. Both draw tokens at temperature 1 from the same weights, write turns of the same
fixed length, and look at the same regions, another one for each draw and turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.results import Bound, Job, Line
from bench.setting import (
    PacedPolicy,
    Settings,
    Vision,
    forbidden_tokens,
    interleaved,
    noise_case,
    uncached_logprobs,
)
from medeyes_monai.protocol import parse_turn
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Picture

LOGPROB_LIMIT = 1e-5
FASTER = {336: 2.5, 112: 1.6}
"""Target of the ratio of tokens/s, by side of the pictures in pixels."""
GROUP_OVER_ONE = 3.0


@dataclass(frozen=True)
class Work:
    """Size of a rollout.

    Args:
        side: Side of every picture. Unit: pixels.
        draws: Rows.
        turns: Turns of each row; all but the last look.
        tokens: Tokens of a turn, end of turn included.
    """

    side: int = 112
    draws: int = 8
    turns: int = 3
    tokens: int = 48

    @property
    def written(self) -> int:
        """Tokens that all rows write."""
        return self.draws * self.turns * self.tokens


class Bench:
    """One tiny policy, and the ways to roll it out.

    Args:
        checkpoint: Checkpoint directory.
        compiled: Compile the token step of our rollouts.
        more: Further arguments of the policy.
    """

    def __init__(self, checkpoint: Path, compiled: bool = False, **more: Any) -> None:
        """Load the policy."""
        self.policy = PacedPolicy(checkpoint, compiled=compiled, **more).train(False)
        self.vision = Vision(checkpoint)
        self.forbidden = forbidden_tokens(self.policy)

    def cases(self, work: Work, repeats: int) -> list[Case]:
        """Return the question of each repeat, the warm-up's first."""
        return [noise_case(work.side, self.policy.patch, number) for number in range(repeats + 1)]

    def ours(self, cases: Sequence[Case], work: Work, repeat: int, greedy: bool = False) -> list[Episode]:
        """Write the episodes of a repeat with the library's rollout.

        Raises:
            RuntimeError: If an episode has not the length that was set.
        """
        self.policy.begin(draws=work.draws, turns=work.turns, tokens=work.tokens)
        case = cases[repeat]
        self.policy.watch(case.scene)
        episodes = rollout(
            self.policy,
            [case],
            draws=work.draws,
            address=(repeat,),
            max_looks=work.turns - 1,
            max_turn_tokens=work.tokens,
            greedy=greedy,
        )
        found = sorted({int(episode.response_mask.sum()) for episode in episodes})
        if found != [work.turns * work.tokens]:
            raise RuntimeError(
                f"episodes should have {work.turns * work.tokens} response tokens, got {found}"
            )
        return episodes

    @torch.no_grad()
    def generate(
        self, cases: Sequence[Case], work: Work, repeat: int, greedy: bool = False
    ) -> list[list[int]]:
        """Write them with ``generate()``, each turn from the start; return the tokens written."""
        torch.manual_seed(repeat)
        case = cases[repeat]
        self.policy.begin(draws=work.draws, turns=work.turns, tokens=work.tokens)
        self.policy.watch(case.scene)
        prompt = self.policy.prompt(case)
        rows = [list(prompt.token_ids) for _ in range(work.draws)]
        pictures = [list(prompt.pictures) for _ in range(work.draws)]
        written: list[list[int]] = [[] for _ in range(work.draws)]
        for turn in range(work.turns):
            fresh = self._one_generate(rows, pictures, work.tokens, greedy)
            for row, tokens in enumerate(fresh):
                written[row] += tokens
                rows[row] += tokens
                box = parse_turn(self.policy.decode(tokens[:-1]), self.policy.frame(case.scene)).box
                if box is None or turn == work.turns - 1:
                    continue
                shape = case.scene.shape
                region = box.scale(self.policy.frame(case.scene), shape).clip(shape)
                feedback = self.policy.feedback(case.scene.look(region))
                rows[row] += feedback.token_ids
                pictures[row] += feedback.pictures
        return written

    def _one_generate(
        self, rows: Sequence[list[int]], pictures: Sequence[list[Picture]], tokens: int, greedy: bool
    ) -> list[list[int]]:
        from transformers import GenerationConfig

        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.policy.conversation.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, longest - len(row) :] = torch.tensor(row)
            mask[number, longest - len(row) :] = 1
        config = GenerationConfig(
            do_sample=not greedy,
            temperature=None if greedy else 1.0,
            top_k=None if greedy else 0,
            top_p=None if greedy else 1.0,
            min_new_tokens=tokens - 1,
            max_new_tokens=tokens,
            eos_token_id=self.policy.end_of_turn,
            forced_eos_token_id=self.policy.end_of_turn,
            pad_token_id=self.policy.conversation.tokenizer.pad_token_id,
            suppress_tokens=self.forbidden,
            use_cache=True,
        )
        output = self.policy.core.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=((ids == self.policy.core.config.image_token_id) & mask.bool()).int(),
            generation_config=config,
            **self.vision([picture for row in pictures for picture in row], self.policy),
        )
        found: list[list[int]] = output[:, longest:].tolist()
        return found

    def error(self, episodes: Sequence[Episode]) -> float:
        """Return the largest difference of behaviour log-probabilities to those of one uncached forward."""
        end, worst = self.policy.end_of_turn, 0.0
        for episode in episodes:
            free = (episode.response_mask & (episode.token_ids != end))[1:]  # what was forced has none
            never = [*self.forbidden, end]
            expected = uncached_logprobs(self.policy, self.vision, episode, never, len(free))
            worst = max(worst, float((expected - episode.behaviour_logprobs[1:])[free].abs().max()))
        return worst


def rollout_jobs(settings: Settings) -> list[Job]:
    """Return the comparison with ``generate()`` at each size of picture."""
    sides = (56,) if settings.quick else tuple(FASTER)
    return [Job(f"rollout {side} px", partial(_compare, settings, side)) for side in sides]


def _compare(settings: Settings, side: int) -> Iterable[Line]:
    bench = Bench(settings.checkpoint(settings.family), settings.compiled)
    work = Work(side, draws=2 if settings.quick else 8, tokens=settings.tokens)
    cases = bench.cases(work, settings.repeats)
    times, results = interleaved(
        {"ours": partial(bench.ours, cases, work), "generate": partial(bench.generate, cases, work)},
        settings.repeats,
    )
    episodes: list[Episode] = results["ours"]  # type: ignore[assignment]
    speed = {name: work.written / median(some) for name, some in times.items()}
    yield Line(
        "rollout",
        f"{settings.family}, {work.turns} turns, {_side(episodes)} px, {work.draws} draws: "
        "tokens/s over generate() that reads all again each turn",
        speed["ours"] / speed["generate"],
        "x",
        (">=", FASTER[side]) if side in FASTER else None,
        [
            Bound("log-prob error", bench.error(episodes), "<=", LOGPROB_LIMIT),
            Bound("share of equal greedy tokens", _equal_share(bench, cases, work), ">=", 1.0),
            Bound("distinct pictures", _distinct(episodes), ">=", 1 + work.draws * (work.turns - 1)),
        ],
        times,
        {"tokens_per_second": speed, "side": _side(episodes), "tokens_of_a_turn": work.tokens},
    )


def _equal_share(bench: Bench, cases: Sequence[Case], work: Work) -> float:
    """Return the share of greedy tokens on which both ways agree."""
    ours = [e.token_ids[e.response_mask] for e in bench.ours(cases, work, 0, greedy=True)]
    others = torch.tensor(bench.generate(cases, work, 0, greedy=True))
    return float((torch.stack(ours) == others).float().mean())


def _side(episodes: Sequence[Episode]) -> int:
    return int(episodes[0].pictures[0].shape[0])


def _distinct(episodes: Sequence[Episode]) -> int:
    return len({picture.tobytes() for episode in episodes for picture in episode.pictures})


def scaling_jobs(settings: Settings) -> list[Job]:
    """Return how the time of a rollout grows with each of its sizes, the others held."""
    base = Work(tokens=settings.tokens)
    grid: dict[str, Sequence[int]] = {
        "draws": (1, 2, 4, 8, 16, 32),
        "turns": (1, 2, 3, 4),
        "side": (112, 224, 336, 448),
        "tokens": (16, 64, 256),
    }
    if settings.quick:
        base = Work(side=56, draws=2, turns=2, tokens=settings.tokens)
        grid = {"draws": (1, 8), "turns": (1, 2), "side": (56, 84), "tokens": (2, 4)}
    return [
        Job(f"scaling over {name}", partial(_scale, settings, base, name, values))
        for name, values in grid.items()
    ]


def _scale(settings: Settings, base: Work, name: str, values: Sequence[int]) -> Iterable[Line]:
    bench = Bench(settings.checkpoint(settings.family), settings.compiled)
    works = {value: replace(base, **{name: value}) for value in values}
    cases = {value: bench.cases(work, settings.repeats) for value, work in works.items()}
    times, results = interleaved(
        {str(value): partial(bench.ours, cases[value], works[value]) for value in values}, settings.repeats
    )
    for value, work in works.items():
        some = times[str(value)]
        yield Line(
            "scaling",
            f"rollout, draws {work.draws}, turns {work.turns}, {_side(results[str(value)])} px, "
            f"tokens of a turn {work.tokens}",
            median(some),
            "s",
            None,
            [Bound("log-prob error", bench.error(results[str(value)]), "<=", LOGPROB_LIMIT)],
            {"ours": some},
            {"axis": name, "at": value, "tokens_per_second": work.written / median(some)},
        )
    if name == "draws":
        yield Line(
            "scaling",
            "time of a group of 8 draws over 1 draw",
            median(times["8"]) / median(times["1"]),
            "x",
            ("<=", GROUP_OVER_ONE),
            [Bound("log-prob error", bench.error(results["8"]), "<=", LOGPROB_LIMIT)],
            {"8 draws": times["8"], "1 draw": times["1"]},
        )
