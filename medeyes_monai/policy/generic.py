"""Any image-text-to-text model of transformers: slower than a family's own code, with the same episodes.

A picture cannot be appended to what a model has read without knowing its family. So a row that gets a picture
is read again from its beginning; the tokens of a turn are appended to a cache, as ``generate`` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.cache import cache_name
from medeyes_monai.policy.processor import PictureProcessor
from medeyes_monai.trajectory import Picture

__all__ = ["GenericFamily", "RereadingReader"]


class GenericFamily:
    """Reads tokens and pictures through the model's own forward pass and its family's own processor.

    Pictures of any size will do; the processor resizes them.

    Args:
        core: The model.
        path: Its checkpoint, for the processor.

    Raises:
        ConfigError: If the model has an encoder for text, or takes what cannot be made for given tokens.
    """

    grid = 1

    def __init__(self, core: Any, path: str) -> None:
        """Load the processor and compare what it makes with what the model takes."""
        if core.config.is_encoder_decoder or core.base_model is core:
            raise ConfigError(
                f"policy {path}: family {core.config.model_type!r} is not supported; wanted a decoder that "
                "is a model of its own below the output layer"
            )
        self._core = core
        self._cache_name = cache_name(core.base_model)
        self.pictures = PictureProcessor(path, core.config)
        self.processor = self.pictures.processor
        taken = set(inspect.signature(core.base_model.forward).parameters)
        self._types = [name for name in self.pictures.types if name in taken]
        wrong = sorted(self.pictures.mistyped & set(self._types))
        wrong += sorted(self.pictures.pixel_names - taken)
        if wrong:
            raise ConfigError(
                f"policy {path}: family {core.config.model_type!r} is not supported; what its processor "
                f"makes as {', '.join(wrong)} cannot be handed to its decoder for tokens that are given"
            )

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens that stand for a picture."""
        return self.pictures.picture_ids(picture)

    def hidden(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Read whole episodes at once and return the states ``[B, T, D]``, with gradient where trained.

        Rows are padded at their end, which what comes before cannot see.
        """
        ids, mask = self._padded(segments, "right")
        states: torch.Tensor = self._read(ids, mask, segments, use_cache=False).last_hidden_state
        return states

    def start(self) -> RereadingReader:
        """Return a reader that has read nothing yet."""
        return RereadingReader(self)

    def begin(self, rows: Sequence[int], segments: Sequence[Segment]) -> tuple[Group, torch.Tensor]:
        """Read whole rows into a cache; return it with the states ``[n, D]`` of the last tokens.

        Rows are padded at their beginning, so that all go on from the same column: layers with a sliding
        window count columns.
        """
        ids, mask = self._padded(segments, "left")
        output = self._read(ids, mask, segments, use_cache=True)
        shift = getattr(self._core.base_model, "rope_deltas", None)
        cache = getattr(output, self._cache_name)
        if cache is None:
            raise ConfigError(f"family {self._core.config.model_type!r} keeps no cache; train(False) first")
        return Group(list(rows), cache, mask, shift), output.last_hidden_state[:, -1]

    def step(self, group: Group, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row of a group and return their states ``[n, D]``."""
        device = self._core.device
        group.mask = torch.nn.functional.pad(group.mask, (0, 1), value=True)
        place = group.mask.long().sum(-1, keepdim=True) - 1
        if group.shift is not None:
            place = (place + group.shift.to(device))[None].expand(3, -1, -1)
        output = self._core.base_model(
            input_ids=torch.tensor(list(tokens), device=device)[:, None],
            attention_mask=group.mask.long(),
            position_ids=place,
            use_cache=True,
            **{self._cache_name: group.cache},
        )
        states: torch.Tensor = output.last_hidden_state[:, -1]
        return states

    def _read(self, ids: torch.Tensor, mask: torch.Tensor, segments: Sequence[Segment], **more: Any) -> Any:
        device, dtype = self._core.device, self._core.dtype
        shown = self.pictures.pixels([segment.pictures for segment in segments])
        for name, value in shown.items():
            more[name] = value.to(device, dtype if value.is_floating_point() else None)
        images = torch.isin(ids, torch.tensor(sorted(self.pictures.image_tokens), device=device)) & mask
        more |= {name: images.long() for name in self._types}
        if not hasattr(self._core.base_model, "rope_deltas"):  # such a model counts for itself
            more["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return self._core.base_model(input_ids=ids, attention_mask=mask.long(), **more)

    def _padded(
        self, segments: Sequence[Segment], side: Literal["left", "right"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids ``[B, T]`` and which of them are real."""
        rows = [torch.tensor(segment.token_ids, dtype=torch.long) for segment in segments]
        fill = float(self.pictures.tokenizer.pad_token_id)
        ids = pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)
        real = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        mask = pad_sequence(real, batch_first=True, padding_side=side)
        return ids.to(self._core.device), mask.to(self._core.device)


@dataclass(slots=True, eq=False)
class Group:
    """Rows that were read together and go on together.

    Args:
        rows: Their numbers.
        cache: A cache of transformers with one row for each.
        mask: Which columns of the cache are real, ``[n, L]``.
        shift: What multimodal positions are ahead of the number of tokens, ``[n, 1]``; None where a position
            is a number of tokens.
    """

    rows: list[int]
    cache: Any
    mask: torch.Tensor
    shift: torch.Tensor | None

    def select(self, members: Sequence[int], rows: Sequence[int]) -> None:
        """Keep these members, in this order, under new numbers; a member may be kept more than once."""
        if list(members) != list(range(len(self.rows))):
            index = torch.tensor(list(members), dtype=torch.long, device=self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask = self.mask[index]
            self.shift = None if self.shift is None else self.shift[index.to(self.shift.device)]
        self.rows = list(rows)


class RereadingReader:
    """Appends single tokens to a cache, and reads a row from its beginning where anything else comes.

    Rows that were read together share a cache. One that is left behind while others of its group go on loses
    its place there and is read again when its turn comes.

    Args:
        family: Reads the rows.
    """

    def __init__(self, family: GenericFamily) -> None:
        """Begin without rows."""
        self._family = family
        self._rows: list[Segment] = []
        self._groups: list[Group] = []

    @torch.no_grad()
    def append(self, segments: Mapping[int, Segment]) -> torch.Tensor:
        """Append a segment to some rows and return the states of their last tokens ``[n, D]``."""
        self._rows = self._rows or [Segment(())] * len(segments)
        for row, more in segments.items():
            before = self._rows[row]
            self._rows[row] = Segment(before.token_ids + more.token_ids, before.pictures + more.pictures)
        tokens = {
            row: segment.token_ids[0]
            for row, segment in segments.items()
            if len(segment.token_ids) == 1 and not segment.pictures
        }
        states: dict[int, torch.Tensor] = {}
        for group in self._groups:
            going = [row for row in group.rows if row in tokens]
            staying = going or [row for row in group.rows if row not in segments]
            group.select([group.rows.index(row) for row in staying], staying)
            if going:
                read = self._family.step(group, [tokens[row] for row in going])
                states |= dict(zip(going, read, strict=True))
        self._groups = [group for group in self._groups if group.rows]
        unread = [row for row in segments if row not in states]
        if unread:
            group, read = self._family.begin(unread, [self._rows[row] for row in unread])
            self._groups.append(group)
            states |= dict(zip(unread, read, strict=True))
        return torch.stack([states[row] for row in segments])

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others; a row may be kept more than once."""
        self._rows = [self._rows[row] for row in rows]
        for group in self._groups:
            kept = [(group.rows.index(old), new) for new, old in enumerate(rows) if old in group.rows]
            group.select([member for member, _ in kept], [new for _, new in kept])
        self._groups = [group for group in self._groups if group.rows]
