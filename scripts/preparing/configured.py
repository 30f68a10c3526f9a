"""What a training's configuration says about its expert paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from monai.bundle import ConfigParser
from torch.utils.data import Dataset

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.experts import MemoExpert
from medeyes_monai.io.literals import set_literals
from medeyes_monai.sampler import PathSampler
from medeyes_monai.scenes import Case
from medeyes_monai.training.batches import StepBatchSampler

_TRAINER = "train::trainer::"


@dataclass(frozen=True)
class Item:
    """A question that the training will ask.

    Args:
        index: Its place in the data set.
        steps: The updates at which it will be asked.
    """

    index: int
    steps: tuple[int, ...]


class Configured:
    """The objects of a training that make its expert paths; nothing else is built.

    Args:
        files: The bundle's configuration and what is laid over it, checked.
        settings: Values by id, over all files.
        literals: Texts and paths by id, which the parser does not read.
    """

    def __init__(
        self,
        files: Sequence[str],
        settings: Mapping[str, Any],
        literals: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Read the files."""
        self.parser = ConfigParser()
        self.parser.read_config(list(files))
        self.parser.update(dict(settings))
        set_literals(self.parser, literals)

    def get(self, name: str) -> Any:
        """Return what an id stands for, built if it is a component.

        Raises:
            MedEyesError: What a component of this package says, without what MONAI says around it.
        """
        try:
            return self.parser.get_parsed_content(name)
        except RuntimeError as error:
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, MedEyesError):
                reason = reason.__cause__
            if reason is None:
                raise
            raise reason from None

    @cached_property
    def dataset(self) -> Dataset[Case]:
        """The questions of the training."""
        built: Dataset[Case] = self.get(f"{_TRAINER}dataset")
        return built

    @cached_property
    def sampler(self) -> PathSampler:
        """Who draws the paths."""
        sampler = self.get(f"{_TRAINER}sampler")
        if not isinstance(sampler, PathSampler):
            raise ConfigError(f"this training has no expert paths: its sampler is {type(sampler).__name__}")
        return sampler

    @cached_property
    def memos(self) -> list[MemoExpert]:
        """The memos on disk between the sampler and its experts, wherever they stand."""
        _ = self.sampler
        built = self.parser.ref_resolver.resolved_content.values()
        memos = {id(memo): memo for memo in built if isinstance(memo, MemoExpert) and memo.directory}
        if not memos:
            raise ConfigError(
                "replies would be lost, because memo::directory is null; set it, such as with "
                "--set memo::directory=runs/memo, here and in the training"
            )
        return list(memos.values())

    def plan(self, limit: int | None = None) -> list[Item]:
        """Return the questions that the training will ask, by their place in the data set.

        Args:
            limit: Only so many, those that are asked first.
        """
        numbers = ("questions", "max_epochs", "epoch_length", "seed")
        questions, epochs, length, seed = (int(self.get(_TRAINER + name)) for name in numbers)
        batches = StepBatchSampler(len(self.dataset), questions, seed)  # type: ignore[arg-type]  # sized
        steps: dict[int, list[int]] = {}
        for step in range(epochs * length):
            for index in batches.batch_of(step):
                steps.setdefault(index, []).append(step)
        items = [Item(index, tuple(when)) for index, when in steps.items()][:limit]
        return sorted(items, key=lambda item: item.index)

    def patch(self) -> int | None:
        """Return the side of the policy's grid, which scenes are made for; None where none is asked for."""
        return int(self.get("scene::patch")) if "scene::patch" in self.parser else None
