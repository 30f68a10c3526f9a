"""Any image-text-to-text model of transformers whose decoder takes explicit positions, masks and a cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.cache import RaggedCache, additive, cache_name
from medeyes_monai.policy.processor import PictureProcessor
from medeyes_monai.policy.reader import CachedReader, pad
from medeyes_monai.policy.vision import Features, VisionMemo
from medeyes_monai.trajectory import Picture

__all__ = ["GenericFamily"]

FULL, SLIDING = "full_attention", "sliding_attention"
"""Types of layers whose keys and values are all that they keep of a text."""


class GenericFamily:
    """Reads tokens and pictures with a model's own parts, its decoder being called on embeddings.

    Pictures of any size will do; the processor resizes them. What stands for a picture comes from the model's
    ``get_image_features`` and is kept as long as no gradient reaches the tower and the projector.

    Args:
        core: The model.
        path: Its checkpoint, for the processor.
        feature_budget: What is kept of pictures at most. Unit: bytes.
        image_tokens: Largest number of tokens of one picture.

    Raises:
        ConfigError: If the model has an encoder for text, keeps more than keys and values of a text, or takes
            inputs that cannot be made for given tokens.
    """

    grid = 1

    def __init__(self, core: Any, path: str, feature_budget: int, image_tokens: int) -> None:
        """Load the processor and compare what it makes with what the model takes."""
        self.name = family = str(core.config.model_type)
        inner = core.base_model
        if core.config.is_encoder_decoder or inner is core or not hasattr(inner, "get_image_features"):
            raise ConfigError(
                f"policy {path}: family {family!r} is not supported; wanted a decoder below the output layer "
                "and a method get_image_features"
            )
        self._core = core
        self._decoder = inner.get_decoder()
        self._cache_name = cache_name(self._decoder)
        self._kinds = _kinds(self._decoder.config)
        if others := sorted(self._kinds - {FULL, SLIDING}):
            raise ConfigError(
                f"policy {path}: family {family!r} is not supported; its layers of type {', '.join(others)} "
                "keep a state to which rows of different length cannot be appended; give a checkpoint whose "
                "layers all attend to keys and values"
            )
        self._window = int(self._decoder.config.sliding_window) if SLIDING in self._kinds else None
        self.pictures = PictureProcessor(path, core.config, image_tokens)
        self.processor = self.pictures.processor
        taken = _arguments(inner.forward)
        self._types = [name for name in self.pictures.types if name in taken]
        wrong = sorted(self.pictures.mistyped & set(self._types))
        wrong += sorted(self.pictures.pixel_names - taken)
        if wrong:
            raise ConfigError(
                f"policy {path}: family {family!r} is not supported; what its processor makes as "
                f"{', '.join(wrong)} cannot be handed to its decoder for tokens that are given"
            )
        self._image_token = int(core.config.image_token_id)
        self._encoded = _arguments(inner.get_image_features)
        self.features = VisionMemo(_Beside(inner, self._decoder), self._encode, feature_budget)
        self.both_ways = False
        """Whether the tokens of one picture attend to each other in both directions."""

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens that stand for a picture."""
        return self.pictures.picture_ids(picture)

    def hidden(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Read whole episodes at once and return the states ``[B, T, D]``, with gradient where trained.

        Rows are padded at their end, which what comes before cannot see.
        """
        ids, mask = pad(segments)
        place, _ = self.positions(ids, mask, segments)
        return self.read(ids, place, segments)

    def start(self) -> CachedReader:
        """Return an empty cache to read into."""
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
            ids: Token ids ``[B, T]``.
            place: Positions ``[K, B, T]``.
            segments: The chunk's parts, for their pictures.
            seen: What each token may see (see :class:`RaggedCache`); None for all before it.
            cache: What was read before.
        """
        device = self._core.device
        pictures = [picture for segment in segments for picture in segment.pictures]
        shown = (ids == self._image_token).to(device)
        # The image token may lie outside of the table of embeddings.
        embedded = self._core.get_input_embeddings()(ids.to(device).masked_fill(shown, 0))
        more: dict[str, Any] = {}
        if pictures:
            parts = [torch.cat(part) for part in zip(*self.features(pictures), strict=True)]
            embedded = embedded.masked_scatter(shown[..., None], parts[0].to(embedded.dtype))
            if len(parts) > 1:
                more = {"visual_pos_masks": shown, "deepstack_visual_embeds": parts[1:]}
        states: torch.Tensor = self._decoder(
            inputs_embeds=embedded,
            position_ids=(place if len(place) > 1 else place[0]).to(device),
            attention_mask=self._masks(shown, bool(pictures), seen, cache, embedded.dtype),
            use_cache=cache is not None,
            **{self._cache_name: cache},
            **more,
        ).last_hidden_state
        return states

    def step(
        self, ids: torch.Tensor, place: torch.Tensor, seen: torch.Tensor, cache: RaggedCache
    ) -> torch.Tensor:
        """Return the states ``[B, D]`` of one text token for each row; see :meth:`read`."""
        parts = 3 if self._rotates_pictures else 1
        return self.read(ids[:, None], place.expand(parts, -1)[..., None], (), seen, cache)[:, 0]

    def positions(
        self, ids: torch.Tensor, mask: torch.Tensor, segments: Sequence[Segment]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the positions ``[K, B, T]`` of a chunk that starts at 0, and where each row continues."""
        pictures = [picture for segment in segments for picture in segment.pictures]
        parts = 3 if self._rotates_pictures else 1
        if not self._rotates_pictures or not pictures:
            place = torch.arange(ids.shape[1])[None, None].expand(parts, *ids.shape)
            return place, [len(segment.token_ids) for segment in segments]
        place, _ = self._core.base_model.get_rope_index(
            ids,
            mm_token_type_ids=((ids == self._image_token) & mask).int(),
            image_grid_thw=torch.cat([self.pictures.grid(picture) for picture in pictures]),
            attention_mask=mask.long(),
        )
        return place, (place.amax(0).masked_fill(~mask, -1).amax(-1) + 1).tolist()

    @torch.no_grad()
    def own_logits(self, segment: Segment) -> torch.Tensor:
        """Return the logits ``[T, V]`` of the model's own forward pass over one row of tokens and pixels."""
        device, dtype = self._core.device, self._core.dtype
        ids = torch.tensor([segment.token_ids], device=device)
        images = torch.isin(ids, torch.tensor(sorted(self.pictures.image_tokens), device=device))
        more = {name: images.long() for name in self._types}
        for name, value in self.pictures.pixels(segment.pictures).items():
            more[name] = value.to(device, dtype if value.is_floating_point() else None)
        logits: torch.Tensor = self._core(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more
        ).logits[0]
        return logits

    @property
    def _rotates_pictures(self) -> bool:
        """Whether a position has three parts (time, row, column)."""
        return hasattr(self._core.base_model, "get_rope_index")

    def _masks(
        self,
        shown: torch.Tensor,
        pictures: bool,
        seen: torch.Tensor | None,
        cache: RaggedCache | None,
        dtype: torch.dtype,
    ) -> torch.Tensor | dict[str, torch.Tensor] | None:
        """Return what is added to attention scores, for each type of layer where there are several."""
        both_ways = self.both_ways and pictures
        if cache is None or seen is None:
            if not both_ways and self._window is None:
                return None  # attention is causal by itself
            columns = torch.arange(shown.shape[1], device=shown.device).expand(shown.shape)
            seen = columns[:, None, None, :] <= columns[:, None, :, None]
        else:
            columns = cache.columns
        if both_ways:
            begins = shown & ~torch.nn.functional.pad(shown, (1, 0))[:, :-1]
            block = begins.long().cumsum(1) * shown  # the number of the picture of each token, 0 for none
            held = block.new_zeros(len(block), seen.shape[-1]).scatter(1, columns, block)
            same = (block[:, :, None] == held[:, None, :]) & shown[:, :, None]
            seen = seen | same[:, None]
        masks = {FULL: additive(seen, dtype)} if FULL in self._kinds else {}
        if self._window is not None:
            every = torch.arange(seen.shape[-1], device=seen.device)
            near = columns[:, None, :, None] - every < self._window
            masks[SLIDING] = additive(seen & near, dtype)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _encode(self, pictures: Sequence[Picture]) -> list[Features]:
        """Return what stands for each picture, as one of several in an episode."""
        device, dtype = self._core.device, self._core.dtype
        # Where a picture that is alone would be read in another way, it is made one of two.
        asked = [*pictures, *pictures] if self.pictures.several and len(pictures) == 1 else pictures
        counts = [self.picture_ids(picture).count(self._image_token) for picture in asked]
        made = self.pictures.pixels(asked)
        output = self._core.base_model.get_image_features(
            **{
                name: value.to(device, dtype if value.is_floating_point() else None)
                for name, value in made.items()
                if name in self._encoded
            }
        )
        deeper = getattr(output, "deepstack_features", None) or []
        parts = [_split(part, counts) for part in (output.pooler_output, *deeper)]
        return list(zip(*parts, strict=True))[: len(pictures)]


class _Beside(torch.nn.Module):
    """What a model has beside its decoder: the tower, the projector and single parameters.

    Args:
        whole: The model.
        decoder: Its decoder.
    """

    def __init__(self, whole: torch.nn.Module, decoder: torch.nn.Module) -> None:
        """Hold both without registering them, so that layers that are replaced later are found."""
        super().__init__()
        self._held = whole, decoder

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Iterate over the parameters that are not the decoder's."""
        whole, decoder = self._held
        others = {id(parameter) for parameter in decoder.parameters()}
        return (p for p in whole.parameters(recurse) if id(p) not in others)

    def modules(self) -> Iterator[torch.nn.Module]:  # type: ignore[override]
        """Iterate over the modules that are not the decoder's."""
        whole, decoder = self._held
        others = {id(module) for module in decoder.modules()}
        return (m for m in whole.modules() if id(m) not in others)


def _kinds(config: Any) -> set[str]:
    """Return the types of a decoder's layers."""
    named = getattr(config, "layer_types", None)
    if named:
        return set(named)
    return {FULL if getattr(config, "sliding_window", None) is None else SLIDING}


def _arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _split(features: Any, counts: Sequence[int]) -> list[torch.Tensor]:
    """Cut what a tower made of some pictures into pictures, by their number of tokens."""
    whole = [features] if isinstance(features, torch.Tensor) else features
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in whole])
    if len(flat) != sum(counts):
        raise ConfigError(
            f"the model makes {len(flat)} features of pictures with {sum(counts)} image tokens; its "
            "processor and its vision tower do not belong together"
        )
    return list(torch.split(flat, list(counts)))
