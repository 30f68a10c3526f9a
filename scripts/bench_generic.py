"""Measures rollouts of a family without code of its own, beside those of another version of the package.

    git worktree add ../before REVISION
    python scripts/bench_generic.py --against ../before

Three turns of 16 to 48 tokens, a random number in each turn of each of 8 draws, with two looks; random
weights of SmolLM2-135M's shape inside Idefics3 (about 137 M parameters), 64 tokens a picture as in SmolVLM2.
Each measurement is a fresh process; the versions take turns. Printed are the medians, all times (on a shared
machine those of the CPU are steadier), and the largest difference between the two versions'
log-probabilities of one teacher-forced pass and of the rollout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TURNS, DRAWS, LONGEST, SHORTEST = 3, 8, 48, 16
KINDS = {"seconds": "s", "cpu": "s of CPU"}
TEXT = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49216, "tie_word_embeddings": True,
}  # fmt: skip
VISION = {
    "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3,
    "image_size": 256, "patch_size": 16,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="folder of another version's repository")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each version")
    parser.add_argument("--quick", action="store_true", help="the small shape of the tests")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        _child(Path(asked.child[0]), Path(asked.child[1]))
        return
    versions = {"ours": ROOT} | ({} if asked.against is None else {"against": asked.against.resolve()})
    with tempfile.TemporaryDirectory() as work:
        checkpoint = Path(work) / "checkpoint"
        _make(checkpoint, quick=asked.quick)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
        for _ in range(asked.repeats):
            for name, folder in versions.items():
                found[name].append(_measured(folder, checkpoint, Path(work) / "out.json"))
    for kind, what in KINDS.items():
        for name, results in found.items():
            times = [result[kind] for result in results]
            print(f"{name}: median {median(times):.2f} {what} of {', '.join(f'{t:.2f}' for t in times)}")
    if len(found) > 1:
        for kind, what in KINDS.items():
            ours, theirs = (median(r[kind] for r in results) for results in found.values())
            print(f"ratio {theirs / ours:.2f} in {what}")
        one, other = (results[-1] for results in found.values())
        print(f"same tokens: {one['ids'] == other['ids']}")
        for kind in ("scored", "drawn"):
            errors = [
                abs(a - b)
                for row, row2 in zip(one[kind], other[kind], strict=True)
                for a, b in zip(row, row2, strict=True)
            ]
            print(f"largest difference of log-probabilities {kind}: {max(errors):.1e}")


def _make(checkpoint: Path, *, quick: bool) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_families

    if not quick:
        tiny_families.TEXT.update(TEXT)
        tiny_families.VISION.update(VISION)
    tiny_families.make_idefics3(checkpoint, side=56 if quick else 256, spread=0.1 if quick else 0.04)


def _measured(folder: Path, checkpoint: Path, output: Path) -> dict[str, Any]:
    """Run one measurement with a version of the package in a fresh process."""
    command = [sys.executable, __file__, "--child", str(checkpoint), str(output)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(folder)})  # noqa: S603
    return dict(json.loads(output.read_text()))


def _child(checkpoint: Path, output: Path) -> None:
    import numpy as np
    import torch

    from medeyes_monai.policy import Decoder, HuggingFacePolicy, Segment
    from medeyes_monai.rollout import rollout
    from medeyes_monai.scenes import Case, ImageScene

    class Ragged(HuggingFacePolicy):
        """Reads every turn as a look that follows from its tokens."""

        def start(self, segments: Sequence[Segment]) -> Decoder:
            return Turns(super().start(segments), len(segments), self.end_of_turn)

        def decode(self, token_ids: Sequence[int]) -> str:
            x, y = (int(token) % 30 * 16 for token in token_ids[:2])
            corners = f"[{x},{y},{x + 400},{y + 500}]"
            return f'<reasoning></reasoning><action>{{"name":"Gaze","coordinate":{corners}}}</action>'

    class Turns:
        """A decoder whose turns end after a number of tokens that draw and turn decide."""

        def __init__(self, inner: Decoder, rows: int, end: int) -> None:
            self._inner, self._end = inner, end
            self._state = [[row, 0, 0] for row in range(rows)]  # draw, turn, tokens written
            self._asked = list(range(rows))

        @property
        def logits(self) -> torch.Tensor:
            logits = self._inner.logits.clone()
            for n, row in enumerate(self._asked):
                draw, turn, written = self._state[row]
                length = np.random.default_rng((draw, turn)).integers(SHORTEST, LONGEST, endpoint=True)
                if written == length - 1:
                    logits[n] = float("-inf")
                    logits[n, self._end] = 0.0
                else:
                    logits[n, self._end] = float("-inf")
            return logits

        def append(self, segments: Mapping[int, Segment]) -> None:
            self._inner.append(segments)
            self._asked = list(segments)
            for row, segment in segments.items():
                draw, turn, written = self._state[row]
                look = len(segment.token_ids) > 1
                self._state[row] = [draw, turn + 1, 0] if look else [draw, turn, written + 1]

        def keep(self, rows: Sequence[int]) -> None:
            self._inner.keep(rows)
            self._state = [self._state[row] for row in rows]

    policy = Ragged(checkpoint).train(False)
    for repeat in range(2):  # the first is the warm-up
        image = np.random.default_rng(repeat).integers(0, 256, (3, 512, 512), dtype=np.uint8)
        scene = ImageScene(image, key=f"noise-{repeat}", patch=policy.patch, min_extent=1)
        case = Case(scene.key, scene, "Which kind is the lesion?", "solid")
        started, used = time.perf_counter(), time.process_time()
        episodes = rollout(
            policy, [case], draws=DRAWS, address=(repeat,), max_looks=TURNS - 1, max_turn_tokens=LONGEST
        )
        seconds = time.perf_counter() - started, time.process_time() - used
    if {len(episode.pictures) for episode in episodes} != {TURNS}:
        raise RuntimeError("every episode should have an overview and two looks")
    with torch.no_grad():
        scored = policy.score(episodes)
    found = {
        "seconds": seconds[0],
        "cpu": seconds[1],
        "ids": [episode.token_ids.tolist() for episode in episodes],
        "scored": [row[: len(e)].tolist() for row, e in zip(scored.logprobs, episodes, strict=True)],
        "drawn": [_drawn(e.behaviour_logprobs, e.response_mask) for e in episodes],
    }
    output.write_text(json.dumps(found))


def _drawn(logprobs: Any, mask: Any) -> list[float]:
    return [float(value) for value in logprobs[mask]]


if __name__ == "__main__":
    main()
