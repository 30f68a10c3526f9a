"""Training states on disk: written whole or not at all, checked before they are used, free of pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.io.atomic import sha256_of
from medeyes_monai.policy.finite import check_finite, first_names, non_finite

__all__ = ["CheckpointFolder", "TrainingState"]

MANIFEST = "manifest.json"
POLICY, OPTIMIZER, STATE = "policy.safetensors", "optimizer.safetensors", "state.json"
PREFIX = "step-"
WRITING = ".writing-"
"""Begins the name of a state that is not complete: a killed run leaves one, the next state removes it."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What a run needs to go on as if it had never stopped; random draws need nothing, they have addresses.

    Args:
        step: Number of finished updates.
        policy: Trained parameters by name.
        optimizer: The optimizer's ``state_dict()``.
        numbers: Other state as plain numbers, e.g. running statistics.
    """

    step: int
    policy: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A folder of training states, one subfolder each.

    Args:
        path: The folder; it is made when first written to.
        every: Steps from one state to the next.
        keep: Number of newest states that are kept.
    """

    path: Path
    every: int = 10
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse a folder that would keep nothing."""
        if min(self.every, self.keep) < 1:
            raise ConfigError(f"every and keep must be at least 1, got {self.every} and {self.keep}")

    def save(self, state: TrainingState) -> Path:
        """Write a state beside the others, then drop the oldest.

        A reader sees the whole state or none of it: everything is written and flushed in a temporary folder
        that is then renamed.

        Raises:
            CheckpointError: If a parameter or the optimizer's state is not finite; the earlier states stay.
        """
        tensors, rest = _split_optimizer(state.optimizer)
        check_finite(state.policy, f"the policy of step {state.step}")
        check_finite(tensors, f"the optimizer of step {state.step}")
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{PREFIX}{state.step:06d}"
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=WRITING))
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in state.policy.items()}, temporary / POLICY)
            save_file(tensors, temporary / OPTIMIZER)
            described = {"step": state.step, "optimizer": rest, "numbers": dict(state.numbers)}
            (temporary / STATE).write_text(json.dumps(described), encoding="utf-8")
            sums = {name: sha256_of(temporary / name) for name in (POLICY, OPTIMIZER, STATE)}
            (temporary / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            for name in (*sums, MANIFEST):
                _flush(temporary / name)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            _flush(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in [*self._states()[: -self.keep], *folder.glob(f"{WRITING}*")]:
            shutil.rmtree(old)
        return target

    def clear(self) -> None:
        """Drop all states: they belong to a run that is not gone on with."""
        for old in self._states():
            shutil.rmtree(old)

    def latest(self) -> TrainingState | None:
        """Return the newest state, or None where there is none.

        Raises:
            CheckpointError: If the newest state is damaged; the message names the file and the way out.
        """
        states = self._states()
        return _read(states[-1]) if states else None

    def _states(self) -> list[Path]:
        folder = Path(self.path)
        return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []


def _split_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Part an optimizer's state into tensors, named ``parameter.entry``, and plain values."""
    tensors: dict[str, torch.Tensor] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"optimizer state {name!r} is no tensor; use an optimizer of torch.optim"
                )
            tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
    return tensors, {"param_groups": state["param_groups"]}


def _read(folder: Path) -> TrainingState:
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name in (POLICY, OPTIMIZER, STATE):
            if sha256_of(folder / name) != sums[name]:
                raise CheckpointError(
                    f"{folder / name} is not what was written (its checksum differs); "
                    f"delete {folder} to resume from the state before"
                )
        described = json.loads((folder / STATE).read_text(encoding="utf-8"))
        policy, tensors = load_file(folder / POLICY), load_file(folder / OPTIMIZER)
        if bad := [*non_finite(policy), *non_finite(tensors)]:
            raise CheckpointError(
                f"{folder} holds NaN or infinity ({first_names(bad)}); "
                "delete it to resume from the state before"
            )
        return _state_of(described, policy, tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}); delete it to resume from the state before"
        ) from error


def _state_of(
    described: Mapping[str, Any], policy: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> TrainingState:
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, entry = name.split(".", 1)
        entries.setdefault(int(number), {})[entry] = tensor
    return TrainingState(
        step=int(described["step"]),
        policy=policy,
        optimizer={"state": entries, **described["optimizer"]},
        numbers={str(k): float(v) for k, v in described["numbers"].items()},
    )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
