"""Compares the memory that ``plan`` expects with what a run takes, for three random models on the CPU.

    python scripts/measure_plan.py
    python scripts/measure_plan.py --models qwen3_vl --settings lora-bfloat16

Each run has a process of its own: it imports everything, notes its resident memory, then loads a policy of
100 to 400 million random parameters, makes two updates with the real trainer in which every episode uses up
its limits, and saves. What counts is the largest resident memory above that after the imports, as the kernel
has it (``VmHWM``). It includes pages of the checkpoint's file where weights are mapped from it. The C
library gives blocks above 128 KiB back when they are freed (``MALLOC_MMAP_THRESHOLD_``), so that what is
measured is what is used, and not what the allocator keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
TRAIN = ROOT / "bundle" / "configs" / "train.yaml"
WITHIN = 0.2
"""Largest share by which an estimate may differ from what was measured."""
TEXT: dict[str, dict[str, Any]] = {
    "qwen3_vl": {
        "hidden_size": 896, "intermediate_size": 3072, "num_hidden_layers": 9, "num_attention_heads": 14,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 48_000,
    },
    "qwen2_5_vl": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 7, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 64_000,
    },
    "idefics3": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 49_280,
    },
}  # fmt: skip
VISION: dict[str, dict[str, Any]] = {
    "qwen3_vl": {"hidden_size": 384, "intermediate_size": 1536, "depth": 6, "num_heads": 6},
    "qwen2_5_vl": {"hidden_size": 384, "intermediate_size": 1024, "depth": 6, "num_heads": 6},
    "idefics3": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
}
SETTINGS: dict[str, dict[str, Any]] = {
    f"{kind}-{dtype}": {
        "dtype": dtype,
        "lora": {"r": 16, "lora_alpha": 32} if kind == "lora" else None,
        "policy::gradient_checkpointing": kind == "lora",
    }
    for kind, dtype in (("full", "float32"), ("lora", "float32"), ("lora", "bfloat16"))
}
COMMON: dict[str, Any] = {
    "bundle_root": str(ROOT / "bundle"),
    "device": "cpu",
    "policy::_target_": "measure_plan.FullTurns",
    "sample_interval": 0,
    "questions": 2,
    "draws": 2,
    "n_paths": 2,
    "max_looks": 1,
    "max_turn_tokens": 24,
    "overview_pixels": 128**2,
    "look_pixels": 64**2,
    "train::trainer::micro_tokens": 1024,
    "train::inferer::batch": 4,
    "test::inferer::batch": 4,
    "max_epochs": 1,
    "epoch_length": 2,
}


def make_checkpoint(family: str, dtype: str, folder: Path) -> Path:
    """Write a random model of 100 to 400 M parameters, stored in the type in which it will be loaded."""
    import torch
    from tiny_families import make_idefics3
    from transformers import AutoConfig, AutoModelForImageTextToText

    from medeyes_monai.policy.tiny import make_tiny_checkpoint

    target = folder / f"{family}-{dtype}"
    if (target / "done").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    if family == "idefics3":
        make_idefics3(target)
    else:
        make_tiny_checkpoint(target, family=family)  # type: ignore[arg-type]
    config = AutoConfig.from_pretrained(target)
    text: Any = config.get_text_config()
    for part, values in ((text, TEXT[family]), (config.vision_config, VISION[family])):
        for name, value in values.items():
            setattr(part, name, value)
    if family in ("qwen3_vl", "qwen2_5_vl"):
        config.vision_config.out_hidden_size = text.hidden_size
        section = [12, 10, 10]
        text.rope_parameters = dict(text.rope_parameters) | {"mrope_section": section}
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * text.num_hidden_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    for old in target.glob("*.safetensors"):
        old.unlink()
    model.to(getattr(torch, dtype)).save_pretrained(target)
    (target / "done").touch()
    return target


def policy_class() -> type:
    """Return a policy whose turns all have the largest length, and which always looks on."""
    import torch

    from medeyes_monai.policy import HuggingFacePolicy

    class FullTurns(HuggingFacePolicy):
        calls = 0

        def scores(self, hidden: torch.Tensor) -> torch.Tensor:
            scores = super().scores(hidden)
            if torch.is_grad_enabled() or self.training:
                return scores
            self.calls += 1
            more = torch.zeros(self.vocabulary_size)
            more[self.end_of_turn] = 1e4 if self.calls % COMMON["max_turn_tokens"] == 0 else -1e4
            return scores.add_(more)

        def decode(self, token_ids: Sequence[int]) -> str:
            place = 10 * (sum(token_ids) % 5)
            box = [place, 10, place + 40, 50]
            return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'

    return FullTurns


def __getattr__(name: str) -> Any:
    if name != "FullTurns":
        raise AttributeError(name)
    globals()[name] = found = policy_class()
    return found


def configuration(settings: Mapping[str, Any]) -> Any:
    """Return the bundle's training with some settings."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    parser.update(dict(settings))
    return parser


def run_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Train and save as the configuration says; return the growth of memory, in MiB."""
    import peft  # noqa: F401
    import transformers  # noqa: F401
    from bench.process import memory_now, memory_peak

    import medeyes_monai.data.phantom
    import medeyes_monai.policy
    import medeyes_monai.training.trainer  # noqa: F401

    policy_class()
    parser = configuration(arguments["settings"])
    start = memory_now()
    peaks = {}

    def phase(name: str) -> None:
        peaks[name] = memory_peak() - start
        Path("/proc/self/clear_refs").write_text("5")

    policy = parser.get_parsed_content("policy")
    phase("loading")
    trainer = parser.get_parsed_content("train::trainer")
    gather = trainer._update

    def update(experience: Any) -> Any:
        phase(f"drawing {trainer.state.iteration}")
        numbers = gather(experience)
        phase(f"update {trainer.state.iteration}")
        found.update(numbers)
        found["longest"] = max(len(episode) for episode in experience.episodes)
        return numbers

    found: dict[str, Any] = {}
    trainer._update = update
    trainer.run()
    policy.save(Path(arguments["settings"]["output_dir"]) / "policy")
    phase("saving")
    return {"peaks": peaks, "longest": found["longest"], "passes": found["micro_batches"]}


def measure(family: str, name: str, folder: Path) -> dict[str, Any]:
    """Estimate and measure one model under one setting."""
    from medeyes_monai.planning.estimate import Estimator
    from medeyes_monai.planning.settings import read_settings
    from medeyes_monai.planning.shapes import find_shapes

    checkpoint = make_checkpoint(family, SETTINGS[name]["dtype"], folder)
    settings = COMMON | SETTINGS[name] | {"policy_path": str(checkpoint)}
    asked = read_settings(configuration(settings))
    expected = Estimator(find_shapes(str(checkpoint), folder))(asked)
    settings["output_dir"] = str(folder / f"out-{family}-{name}")
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(Path(__file__)), "--child", json.dumps({"settings": settings})],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        raise RuntimeError(f"{family} {name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"expected": expected, "model": family, "setting": name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=TEXT, default=list(TEXT))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--work", type=Path, help="folder for checkpoints; a temporary one if not given")
    parser.add_argument("--child")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(run_child(json.loads(asked.child))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.work or Path(temporary)
        print("| model | M parameters | setting | expected MiB | measured MiB | ratio | phases measured |")
        print("|---|---|---|---|---|---|---|")
        for family in asked.models:
            for name in asked.settings:
                print(row_of(measure(family, name, folder)), flush=True)


def row_of(found: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    expected, peaks = found["expected"], found["peaks"]
    most, wanted = max(peaks.values()), expected.peak / 2**20
    phases = ", ".join(f"{name} {value:.0f}" for name, value in peaks.items())
    parts = ", ".join(f"{n} {getattr(expected, n) / 2**20:.0f}" for n in ("weights", "drawing", "update"))
    return (
        f"| {found['model']} | {expected.parameters / 1e6:.0f} | {found['setting']} | {wanted:.0f} ({parts}) "
        f"| {most:.0f} | {wanted / most:.2f} | {phases}; episode {found['longest']} of "
        f"{expected.tokens.episode} tokens, passes {found['passes']:.0f} of {expected.passes} |"
    )


if __name__ == "__main__":
    main()
