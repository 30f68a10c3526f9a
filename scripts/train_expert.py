"""Trains a small segmentation network in minutes and writes it as a MONAI bundle that an expert is made of.

    python scripts/train_expert.py --output runs/phantom_expert
    python scripts/train_expert.py --data bccd --folder path/to/bccd --output runs/bccd_expert

The bundle in ``bundle/models/phantom_expert`` was made by the first command. The network learns the class of
each pixel of patches about the findings, from the train split alone; ``measure_experts.py`` tells what it
finds in another one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from expert_parts.tasks import Task, label_map, task_of
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Zoomd
from safetensors.torch import save
from tqdm import tqdm

from medeyes_monai.io import write_atomic

CHANNELS = (16, 32, 64, 128)
DEPTH = 8  # the network halves three times, so sides are padded to multiples of this
EMPTY_SHARE = 0.2
"""Share of patches that are cut anywhere, rather than about a finding."""
LEARNING_RATE = 2e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write."""
    asked = _parser().parse_args(arguments)
    monai.utils.set_determinism(seed=asked.seed)
    task = task_of(asked.data, asked.folder)
    definition = network_definition(task)
    network = UNet(**{key: value for key, value in definition.items() if key != "_target_"})
    started = time.monotonic()
    loss = train(network, task, asked.images, asked.steps, asked.batch, asked.seed)
    write_bundle(asked.output, network, task, definition)
    size = (asked.output / "models" / "model.safetensors").stat().st_size
    print(
        f"{asked.output}: loss {loss:.3f} after {asked.steps} steps and {time.monotonic() - started:.0f} s, "
        f"weights of {size / 1e6:.2f} MB"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("phantom", "bccd"), default="phantom")
    parser.add_argument("--folder", type=Path, help="where the files of bccd are")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--images", type=int, default=600, help="most images of the train split")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def network_definition(task: Task) -> dict[str, Any]:
    """Return the bundle's ``network_def``."""
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": 2,
        "in_channels": task.channels,
        "out_channels": len(task.labels),
        "channels": list(CHANNELS),
        "strides": [2] * (len(CHANNELS) - 1),
        "num_res_units": 1,
    }


def train(network: UNet, task: Task, images: int, steps: int, batch: int, seed: int) -> float:
    """Train on patches of the train split; return the mean loss of the last tenth of the steps."""
    pairs = [_reduced(scene.image.numpy(), label_map(scene, task.labels), task) for scene in
             tqdm(task.scenes("train", images), total=images, desc="images", unit="image")]  # fmt: skip
    patches = draw_patches(pairs, task.patch, np.random.default_rng(seed))
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    losses: list[float] = []
    bar = tqdm(range(steps), desc="train", unit="step")
    for _ in bar:
        drawn = [next(patches) for _ in range(batch)]
        pixels, classes = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        loss = criterion(network(pixels.float() / 255), classes[:, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    return float(np.mean(losses[-max(1, steps // 10) :]))


def _reduced(pixels: Any, classes: Any, task: Task) -> tuple[Any, Any]:
    """Bring an image to the scale of the task; classes are taken at every so manieth pixel."""
    every = round(1 / task.scale)
    reduced = Zoomd(["image"], zoom=task.scale, keep_size=False)({"image": pixels})["image"].numpy()
    half = every // 2
    return reduced.round().clip(0, 255).astype(np.uint8), classes[half::every, half::every]


def draw_patches(
    pairs: Sequence[tuple[Any, Any]], side: int, rng: np.random.Generator
) -> Iterator[tuple[Any, Any]]:
    """Draw patches without end: mostly about a pixel of a rare class, turned and mirrored."""
    while True:
        pixels, classes = pairs[int(rng.integers(len(pairs)))]
        centre = [int(rng.integers(n)) for n in classes.shape]
        present = np.unique(classes[classes > 0])
        if len(present) and rng.random() > EMPTY_SHARE:
            places = np.argwhere(classes == rng.choice(present))
            centre = (places[rng.integers(len(places))] + rng.integers(-side // 3, side // 3, 2)).tolist()
        start = [min(max(c - side // 2, 0), n - side) for c, n in zip(centre, classes.shape, strict=True)]
        cut = tuple(slice(a, a + side) for a in start)
        yield _turned(pixels[(slice(None), *cut)], classes[cut], int(rng.integers(8)))


def _turned(pixels: Any, classes: Any, way: int) -> tuple[Any, Any]:
    """Turn and mirror in one of eight ways."""
    if way >= 4:
        pixels, classes = pixels[:, ::-1], classes[::-1]
    return np.rot90(pixels, way % 4, (1, 2)).copy(), np.rot90(classes, way % 4).copy()


def write_bundle(folder: Path, network: UNet, task: Task, definition: dict[str, Any]) -> None:
    """Write weights, ``configs/inference.json`` and ``configs/metadata.json``."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "configs").mkdir(exist_ok=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    write_atomic(folder / "models" / "model.safetensors", save(state))
    configs = {"inference": _inference(task, definition), "metadata": _metadata(task)}
    for name, content in configs.items():
        text = json.dumps(content, indent=2) + "\n"
        write_atomic(folder / "configs" / f"{name}.json", text.encode())


def _inference(task: Task, definition: dict[str, Any]) -> dict[str, Any]:
    transforms: list[dict[str, Any]] = [
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": 0,
            "a_max": 255,
            "b_min": 0,
            "b_max": 1,
        }
    ]
    if task.scale != 1:
        transforms.append({"_target_": "Zoomd", "keys": "image", "zoom": task.scale, "keep_size": False})
    transforms.append({"_target_": "DivisiblePadd", "keys": "image", "k": DEPTH})
    return {
        "network_def": definition,
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "inferer": {"_target_": "SimpleInferer"},
        "expert": task.expert,
    }


def _metadata(task: Task) -> dict[str, Any]:
    channels = {str(number): label for number, label in enumerate(task.labels)}
    return {
        "version": "0.1.0",
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "task": f"segmentation of {', '.join(task.labels[1:])}, as an expert for paths of looks",
        "intended_use": "Research and tests; not for decisions about patients.",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "num_channels": task.channels, "value_range": [0, 1]}},
            "outputs": {"pred": {"type": "logits", "format": "segmentation", "channel_def": channels}},
        },
    }


if __name__ == "__main__":
    main()
