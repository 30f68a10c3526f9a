"""Writes episodes token by token on a key-value cache to which text and pictures are appended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from medeyes_monai.policy.base import Segment

if TYPE_CHECKING:
    from medeyes_monai.policy.huggingface import HuggingFacePolicy

__all__ = ["CachedDecoder"]


class CachedDecoder:
    """A batch of episodes on one cache; nothing that was read is ever read again.

    Positions are explicit, because a multimodal rotary embedding counts a picture by its sides and not by its
    tokens: each row remembers the position at which its next token stands.

    Args:
        policy: The policy that writes.
        segments: One prompt for each row. A prompt object that several rows share is read once.
    """

    def __init__(self, policy: HuggingFacePolicy, segments: Sequence[Segment]) -> None:
        """Read the prompts."""
        from transformers import DynamicCache

        self._policy = policy
        self._cache = DynamicCache(config=policy.core.config.get_text_config())
        distinct = list({id(segment): segment for segment in segments}.values())
        self._attention = torch.zeros(len(distinct), 0, dtype=torch.long, device=policy.device)
        self._position = torch.zeros(len(distinct), dtype=torch.long, device=policy.device)
        self._logits = torch.zeros(len(distinct), policy.vocabulary_size, device=policy.device)
        self.append(distinct)
        if len(distinct) < len(segments):
            row = {id(segment): number for number, segment in enumerate(distinct)}
            self.keep([row[id(segment)] for segment in segments])

    @property
    def logits(self) -> torch.Tensor:
        """Scores of the next token, as training sees them. Shape ``[B, V]``, float32."""
        return self._logits

    @torch.no_grad()
    def append(self, segments: Sequence[Segment]) -> None:
        """Append one segment to each row, left-padded to a common length; an empty one changes nothing."""
        ids, mask = _pad_left([s.token_ids for s in segments], self._policy.pad_token_id)
        ids, mask = ids.to(self._policy.device), mask.to(self._policy.device)
        pictures = [picture for segment in segments for picture in segment.pictures]
        pixels, grids = self._policy.patches(pictures) if pictures else (None, None)
        place, self._position = self._places(ids, mask, grids)
        self._attention = torch.cat([self._attention, mask], dim=1)
        text = (self._attention.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._policy.core.model(
            input_ids=ids,
            attention_mask=self._attention,
            position_ids=torch.cat([text[None], place]),
            past_key_values=self._cache,
            pixel_values=pixels,
            image_grid_thw=grids,
            use_cache=True,
        )
        fresh = self._policy.scores(output.last_hidden_state[:, -1])
        self._logits = torch.where(mask[:, -1:].bool(), fresh, self._logits)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be kept more than once."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self._policy.device)
        self._cache.batch_select_indices(index)
        self._attention, self._position = self._attention[index], self._position[index]
        self._logits = self._logits[index]

    def _places(
        self, ids: torch.Tensor, mask: torch.Tensor, grids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the three-part positions ``[3, B, T]`` of a chunk and where each row goes on ``[B]``."""
        length = mask.sum(-1)
        if grids is None:
            place = (mask.cumsum(-1) - 1).clamp(min=0)[None].expand(3, -1, -1)
            return place + self._position[None, :, None], self._position + length
        place = torch.zeros(3, *ids.shape, dtype=torch.long, device=ids.device)
        step, told = torch.zeros_like(length), length > 0
        is_image = (ids == self._policy.image_token_id).int() * mask.int()
        place[:, told], delta = self._policy.core.model.get_rope_index(
            ids[told], is_image[told], image_grid_thw=grids, attention_mask=mask[told]
        )
        step[told] = delta[:, 0] + length[told]
        return place + self._position[None, :, None], self._position + step


def _pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        if row:
            ids[number, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[number, longest - len(row) :] = 1
    return ids, mask
