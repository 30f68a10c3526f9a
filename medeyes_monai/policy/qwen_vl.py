"""The Qwen2.5-VL and Qwen3-VL families: pictures as tokens, three-part positions, a cache to append to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.cache import RaggedCache, additive, cache_name
from medeyes_monai.policy.precision import round_at_norms
from medeyes_monai.policy.reader import CachedReader, pad
from medeyes_monai.policy.token_step import TokenStep
from medeyes_monai.policy.vision import Features, VisionMemo
from medeyes_monai.trajectory import Picture

__all__ = ["QwenVL"]


class QwenVL:
    """Reads tokens and pictures with a model of the Qwen-VL families, without torchvision.

    Args:
        core: The model.
        path: Its checkpoint, for the settings of the image processor.
        feature_budget: What is kept of the vision tower's output. Unit: bytes.
        compiled: Compile the step that writes one token for each row.

    Raises:
        ConfigError: If the checkpoint has no image processor, or the model has layers with a sliding window.
    """

    def __init__(self, core: Any, path: str, feature_budget: int, *, compiled: bool = False) -> None:
        """Load the image processor."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        try:
            self.processor = Qwen2VLImageProcessorPil.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"policy {path}: no image processor can be loaded ({error})") from error
        if getattr(core.model.language_model, "has_sliding_layers", False):
            raise ConfigError(
                f"policy {path}: layers with a sliding window are not supported; switch them off"
            )
        self._core = core
        self._image_token = int(core.config.image_token_id)
        self._cache_name = cache_name(core.model.language_model)
        self.grid: int = self.processor.patch_size * self.processor.merge_size
        self.features = VisionMemo(core.model.visual, self._encode, feature_budget)
        round_at_norms(core.model.language_model)
        self.step = TokenStep(core.model.language_model, compiled=compiled)

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens that stand for a picture, one for each cell of the grid.

        Raises:
            ConfigError: If its sides are not multiples of the grid.
        """
        rows, columns = (int(side) for side in picture.shape[:2])
        if rows % self.grid or columns % self.grid or not rows or not columns:
            raise ConfigError(
                f"a picture of {columns}x{rows} pixels does not fit the policy's grid of {self.grid} "
                f"pixels; set patch: {self.grid} on the scene"
            )
        return (self._image_token,) * (rows // self.grid * (columns // self.grid))

    def hidden(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Read whole episodes at once; return float32 states ``[B, T, D]``, with gradient where trained.

        Rows are padded at their end, which what comes before cannot see.
        """
        ids, mask = pad(segments)
        place, _ = self.positions(ids, mask, segments)
        return self.read(ids, place, segments)

    def start(self) -> CachedReader:
        """Return an empty cache to read into."""
        self.step.begin()
        return CachedReader(self, self._core.device)

    def read(
        self,
        ids: torch.Tensor,
        place: torch.Tensor,
        segments: Sequence[Segment],
        seen: torch.Tensor | None = None,
        cache: RaggedCache | None = None,
    ) -> torch.Tensor:
        """Return the states ``[B, T, D]`` of a right-padded chunk.

        Args:
            ids: Token ids ``[B, T]``, on the CPU.
            place: Positions ``[3, B, T]``: time, row and column.
            segments: The chunk's parts, for their pictures.
            seen: What each token may see (see :class:`RaggedCache`); None for all before it.
            cache: What was read before.
        """
        language = self._core.model.language_model
        device = self._core.device
        pictures = [picture for segment in segments for picture in segment.pictures]
        embedded = language.embed_tokens(ids.to(device)).float()
        more: dict[str, Any] = {}
        if pictures:
            parts = [torch.cat(part) for part in zip(*self.features(pictures), strict=True)]
            shown = (ids == self._image_token).to(device)
            embedded = embedded.masked_scatter(shown[..., None], parts[0].to(embedded.dtype))
            if len(parts) > 1:
                more = {"visual_pos_masks": shown, "deepstack_visual_embeds": parts[1:]}
        states: torch.Tensor = language(
            inputs_embeds=embedded,
            position_ids=place.to(device),
            attention_mask=None if seen is None else additive(seen, language.embed_tokens.weight.dtype),
            use_cache=cache is not None,
            **{self._cache_name: cache},
            **more,
        ).last_hidden_state
        return states

    def positions(
        self, ids: torch.Tensor, mask: torch.Tensor, segments: Sequence[Segment]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the positions ``[3, B, T]`` of a chunk that starts at 0, and where each row goes on."""
        shapes = [picture.shape for segment in segments for picture in segment.pictures]
        if not shapes:
            place = torch.arange(ids.shape[1])[None, None].expand(3, *ids.shape)
            return place, [len(segment.token_ids) for segment in segments]
        cell = self.processor.patch_size
        grids = torch.tensor([[1, rows // cell, columns // cell] for rows, columns, _ in shapes])
        place, _ = self._core.model.get_rope_index(
            ids, ((ids == self._image_token) & mask).int(), image_grid_thw=grids, attention_mask=mask.long()
        )
        following = (place.amax(0).masked_fill(~mask, -1).amax(-1) + 1).tolist()
        return place, following

    def patches(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Return a picture as the vision tower reads it: patches ``[P, F]`` and grid (1, rows, columns).

        It is what the processor of transformers makes where nothing is resized, in a third of its time.
        """
        cell, merge, frames = (
            self.processor.patch_size, self.processor.merge_size, self.processor.temporal_patch_size
        )  # fmt: skip
        mean, deviation = (torch.tensor(v) for v in (self.processor.image_mean, self.processor.image_std))
        scaled = (torch.from_numpy(picture.copy()) * self.processor.rescale_factor - mean) / deviation
        rows, columns = (int(side) // cell for side in picture.shape[:2])
        blocks = scaled.view(rows // merge, merge, cell, columns // merge, merge, cell, 3)
        ordered = blocks.permute(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
        whole = ordered.expand(-1, -1, -1, -1, -1, frames, -1, -1)
        return whole.reshape(rows * columns, -1), (1, rows, columns)

    def _encode(self, pictures: Sequence[Picture]) -> list[Features]:
        parts = [self.patches(picture) for picture in pictures]
        device = self._core.device
        output = self._core.model.get_image_features(
            torch.cat([patches for patches, _ in parts]).to(device, self._core.dtype),
            torch.tensor([grid for _, grid in parts], device=device),
        )
        deeper = getattr(output, "deepstack_features", None) or []
        return list(zip(output.pooler_output, *deeper, strict=True))
