"""Peak memory of a run's phases: the engine's own code on tensors without data, and arithmetic for the rest.

Every term is a function that names the part of the engine from which it follows, so that it can be corrected
where that part changes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medeyes_monai.planning.meter import LiveBytes, peaks_by_stage
from medeyes_monai.planning.settings import RunSettings
from medeyes_monai.planning.shapes import Model, Shapes
from medeyes_monai.planning.tokens import EpisodeTokens, count_tokens, picture_grid
from medeyes_monai.policy.cache import RaggedCache, additive, cache_name
from medeyes_monai.policy.huggingface import FAMILIES
from medeyes_monai.policy.joined import joined_layers
from medeyes_monai.policy.logprobs import rows_for, score_tokens
from medeyes_monai.training.microbatches import micro_batches

__all__ = ["Estimate", "Estimator"]

FEW, STEP = 2, 1
"""Layers of the shallow models that are traced: two, and three."""
CHUNKS = 3
"""Chunks of scores that are traced."""
OVERHEAD = 96 * 2**20
"""What a process needs besides tensors: tokenizer, configurations, threads, allocator. Unit: bytes."""
FEATURE_BUDGET = 2**28
"""Most bytes of pictures' features that are kept (``HuggingFacePolicy``, ``feature_budget``)."""
FOUR_BIT = 0.5 + 4 / 64
"""Bytes of a weight in 4 bits, with a float32 scale for each block of 64."""


@dataclass(frozen=True)
class Estimate:
    """What a run needs. Memory in bytes, above a process that has imported everything.

    Args:
        name: The model.
        settings: The settings that were asked about.
        tokens: Tokens of an episode.
        parameters: Parameters of the model, without adapter.
        trained: Trained parameters.
        rows: Episodes drawn side by side in training.
        passes: Micro-batches of an update, at most.
        weights: Weights and adapter.
        drawing: Peak while episodes are drawn.
        update: Peak while gradients are made and applied.
        saving: Peak while a state and the policy are written.
        adapter: Size on disk of what is saved of the policy: the adapter, or all weights without one.
    """

    name: str
    settings: RunSettings
    tokens: EpisodeTokens
    parameters: int
    trained: int
    rows: int
    passes: int
    weights: int
    drawing: int
    update: int
    saving: int
    adapter: int

    @property
    def peak(self) -> int:
        """The largest of the phases."""
        return max(self.drawing, self.update, self.saving)


class Estimator:
    """Estimates what training runs of one model need, under any settings. What is found is kept.

    Args:
        shapes: The model.
    """

    def __init__(self, shapes: Shapes) -> None:
        """Begin without estimates."""
        self.shapes = shapes
        self._models: dict[str, Model] = {}
        self._peaks: dict[str, int] = {}

    def __call__(self, settings: RunSettings) -> Estimate:
        """Return what a run needs.

        Raises:
            ConfigError: If no such model can be built.
        """
        build = (settings.dtype, settings.lora, settings.freeze_vision, settings.gradient_checkpointing)
        if repr(build) not in self._models:
            self._models[repr(build)] = Model(self.shapes, settings)
        model = self._models[repr(build)].at(settings)
        tokens = count_tokens(self.shapes, model)

        def peak(work: Callable[..., int], *sizes: int) -> int:
            key = repr((build, settings.mixed_precision, tokens, work.__name__, sizes))
            if key not in self._peaks:
                self._peaks[key] = work(model, tokens, *sizes)
            return self._peaks[key]

        held = weights_bytes(model) + optimizer_bytes(model) + gradient_bytes(model)
        held += feature_bytes(model, tokens) + joined_bytes(model) + OVERHEAD
        rows = min(settings.questions * settings.draws, max(1, settings.micro_tokens // tokens.episode))
        copied = gradient_bytes(model) if settings.n_paths else 0  # objective.accumulate_gradients
        return Estimate(
            name=self.shapes.name,
            settings=settings,
            tokens=tokens,
            parameters=model.parameters,
            trained=sum(weight.numel() for weight in model.trained),
            rows=settings.rows,
            passes=passes(settings, tokens),
            weights=weights_bytes(model),
            drawing=held
            + unpacked_bytes(model)
            + max(
                peak(drawing_bytes, settings.rows, settings.questions_at_once),
                peak(drawing_bytes, settings.test_batch, settings.test_batch),
            ),
            update=held
            + copied
            + max(unpacked_bytes(model) + peak(update_bytes, rows), stepping_bytes(model)),
            saving=held + saving_bytes(model),
            adapter=saved_bytes(model),
        )


def passes(settings: RunSettings, tokens: EpisodeTokens) -> int:
    """Micro-batches of an update at most, each stream by itself (``objective.accumulate_gradients``)."""
    streams = (settings.questions * settings.draws, settings.questions * settings.n_paths)
    return sum(len(micro_batches([tokens.episode] * number, settings.micro_tokens)) for number in streams)


def weights_bytes(model: Model) -> int:
    """Weights and buffers on their device (``policy.loading.load_core``, ``add_adapter``), tied ones once."""
    tensors = {id(tensor): tensor for tensor in (*model.core.parameters(), *model.core.buffers())}
    packed = _packed(model) if model.settings.four_bit else set()
    return sum(
        int(tensor.numel() * FOUR_BIT) if key in packed else tensor.nbytes for key, tensor in tensors.items()
    )


def _packed(model: Model) -> set[int]:
    """Return the weights that bitsandbytes packs: all linear layers but the output layer and adapters."""
    return {
        id(module.weight)
        for name, module in model.core.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.head and "lora_" not in name
    }


def unpacked_bytes(model: Model) -> int:
    """The largest 4-bit weight, which is unpacked into the type of the states when it is used."""
    if not model.settings.four_bit:
        return 0
    packed = _packed(model)
    return max(int(weight.nbytes) for weight in model.core.parameters() if id(weight) in packed)


def optimizer_bytes(model: Model) -> int:
    """Two moments of each trained parameter in its own type (``torch.optim.AdamW``)."""
    return 2 * gradient_bytes(model)


def gradient_bytes(model: Model) -> int:
    """A gradient of each trained parameter, kept until the next update begins (``trainer._update``)."""
    return sum(weight.nbytes for weight in model.trained)


def joined_bytes(model: Model) -> int:
    """Copies of weights and adapters for the step of one token (``policy.joined``), where there is one."""
    if model.config.model_type not in FAMILIES:
        return 0
    maps = [
        part
        for layer in joined_layers(model.decoder.layers)
        for part in (layer.attention, layer.output, layer.mlp, layer.down)
    ]
    copies = [copy for part in maps for copy in (part.weight, part.bias, part.down, part.up)]
    return sum(copy.nbytes for copy in copies if copy is not None)


def keeps_features(model: Model) -> bool:
    """Tell whether what was made of pictures is kept: no gradient reaches what makes it (``VisionMemo``)."""
    inside = {id(weight) for weight in model.decoder.parameters()}
    return not any(weight.requires_grad for weight in model.beside() if id(weight) not in inside)


def feature_bytes(model: Model, tokens: EpisodeTokens) -> int:
    """What is kept of the vision tower's output (``policy.vision.VisionMemo``)."""
    settings = model.settings
    if not keeps_features(model):
        return 0
    deeper = len(getattr(model.vision, "deepstack_visual_indexes", None) or [])
    shown = tokens.overview + settings.draws * tokens.looks * tokens.look
    one = shown * model.text.hidden_size * (1 + deeper) * model.core.dtype.itemsize
    return int(min(FEATURE_BUDGET, settings.updates * settings.questions * one))


def tower_bytes(model: Model, pictures: int, pixels: int) -> int:
    """What a pass of the vision tower over some pictures needs at once, without gradient."""
    vision, size = model.vision, model.core.dtype.itemsize
    wide = vision.hidden_size
    inner = getattr(vision, "intermediate_size", 4 * wide)
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    if picture_grid(model.config) is None:
        side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        patches = pictures * (side // patch) ** 2
    else:
        patches = pictures * (pixels // patch**2)
    numbers = 3 * patch**2 * getattr(vision, "temporal_patch_size", 1)
    return int(patches * (numbers * 4 + size * (6 * wide + 2 * inner)))


def drawing_bytes(model: Model, tokens: EpisodeTokens, rows: int, prompts: int) -> int:
    """What episodes that are drawn side by side need: cache, chunks, scores (``rollout.batch``)."""
    settings = model.settings
    overview = tower_bytes(model, prompts, settings.overview_pixels)
    look = tower_bytes(model, rows, settings.look_pixels)

    def draw(meter: LiveBytes) -> None:
        with torch.no_grad():
            cache = RaggedCache(torch.device("cpu"))
            with meter.stage("prompts"):
                torch.empty(overview, dtype=torch.uint8)
                states = _read(model, cache, list(range(prompts)), tokens.prompt)
            if rows > prompts:
                with meter.stage("rows"):
                    cache.keep([row % prompts for row in range(rows)])
                    states = states.repeat(rows // prompts, 1)
            with meter.stage("first word"):
                _draw(model, states)
            if tokens.looks:
                before = tokens.looks * tokens.turn + (tokens.looks - 1) * tokens.feedback
                members = list(range(max(1, rows - 1)))  # seldom do all look at once: keys are copied then
                with meter.stage("last look"):
                    _lengthen(cache, rows, before)
                    torch.empty(look, dtype=torch.uint8)
                    _read(model, cache, members, tokens.feedback)
            with meter.stage("last word"):
                _lengthen(cache, rows, tokens.turn - 1)
                _draw(model, _read(model, cache, list(range(rows)), 1))

    return max(_traced(model, draw, train=False).values())


def _read(model: Model, cache: RaggedCache, rows: list[int], size: int) -> torch.Tensor:
    """Append a chunk to the cache, as ``policy.reader.CachedReader`` does."""
    seen = cache.extend(rows, [size] * len(rows))
    ids = torch.zeros(len(rows), size, dtype=torch.long)
    embedded = model.decoder.embed_tokens(ids)
    states: torch.Tensor = model.decoder(
        inputs_embeds=embedded,
        position_ids=_positions(model, ids),
        attention_mask=_mask(model, additive(seen, embedded.dtype)),
        use_cache=True,
        **{cache_name(model.decoder): cache},
    ).last_hidden_state
    return states[:, -1]


def _lengthen(cache: RaggedCache, rows: int, tokens: int) -> None:
    """Make room for tokens as if they came one by one; the cache grows when a token finds no column."""
    while tokens:
        room = cache.keys[0].shape[2] - max(cache.lengths)
        step = min(tokens, max(1, room))
        cache.extend(range(rows), [step] * rows)
        tokens -= step


def _positions(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """Return positions; they have three parts where a picture is counted by its sides."""
    return ids.expand(3, *ids.shape) if hasattr(model.core.base_model, "get_rope_index") else ids


def _mask(model: Model, seen: torch.Tensor) -> Any:
    """Return a mask in the form that the decoder takes: one, or one for each type of layer."""
    kinds = sorted(set(getattr(model.text, "layer_types", None) or []))
    return {kind: seen.clone() for kind in kinds} if len(kinds) > 1 else seen


def _mask_of_episode(model: Model, ids: torch.Tensor, dtype: torch.dtype) -> Any:
    """Return the mask of whole episodes (``GenericFamily._masks``): none where causal attention is enough."""
    if "sliding_attention" not in (getattr(model.text, "layer_types", None) or []):
        return None
    columns = torch.zeros_like(ids)
    return _mask(model, additive(columns[:, None, None, :] <= columns[:, None, :, None], dtype))


class _Scores(torch.autograd.Function):
    """What ``policy.precision.float_logits`` holds on a GPU, where it is one product."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Make float32 logits of states and weights of any type."""
        ctx.save_for_backward(rows, weight)
        return rows.new_empty(len(rows), len(weight), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Make the gradients that are wanted."""
        rows, weight = ctx.saved_tensors
        gradient = gradient.to(weight.dtype)
        to_rows = gradient @ weight if ctx.needs_input_grad[0] else None
        return to_rows, gradient.t() @ rows if ctx.needs_input_grad[1] else None


def _scores(model: Model, states: torch.Tensor) -> torch.Tensor:
    """Return scores of the next token (``HuggingFacePolicy.scores``)."""
    weight = model.head.weight
    logits = _Scores.apply(states.to(weight.dtype), weight)  # type: ignore[no-untyped-call]
    never = torch.zeros(logits.shape[-1], dtype=torch.bool)
    return torch.as_tensor(logits.masked_fill(never, float("-inf")))


def _draw(model: Model, states: torch.Tensor) -> None:
    """Draw a token for each row (``rollout.batch._draw``)."""
    distribution = torch.log_softmax(_scores(model, states), dim=-1)
    cumulative = distribution.double().exp().cumsum(-1)
    torch.searchsorted(cumulative, cumulative[:, -1:])


def update_bytes(model: Model, tokens: EpisodeTokens, rows: int) -> int:
    """What a micro-batch of some rows needs besides weights and gradients (``objective._Step.run``)."""
    settings = model.settings
    written = min(tokens.written, tokens.episode - 1) * rows

    chunk = rows_for(int(model.head.weight.shape[0]))
    pictures = 0 if keeps_features(model) else picture_bytes(model, tokens, rows)

    def learn(meter: LiveBytes) -> None:
        ids = torch.zeros(rows, tokens.episode, dtype=torch.long)
        index = torch.zeros(written, dtype=torch.long)
        with meter.stage("forward"):
            seen = torch.empty(pictures, dtype=torch.uint8)
            if settings.freeze_vision:
                del seen  # nothing of it is needed for backward
            with _autocast(settings):
                embedded = model.decoder.get_input_embeddings()(ids)
                states = model.decoder(
                    inputs_embeds=embedded,
                    position_ids=_positions(model, ids),
                    attention_mask=_mask_of_episode(model, ids, embedded.dtype),
                    use_cache=False,
                ).last_hidden_state
                chosen = states.flatten(0, 1)[index]
                numbers = score_tokens(  # the chunks are alike: a few stand for all
                    chosen[: CHUNKS * chunk],
                    index[: CHUNKS * chunk],
                    lambda hidden: _scores(model, hidden),
                    chunk=chunk,
                )
                loss = numbers[0].sum()
            del states, chosen, numbers, embedded
        with meter.stage("backward"):
            loss.backward()  # type: ignore[no-untyped-call]

    return max(_traced(model, learn, train=True).values())


def picture_bytes(model: Model, tokens: EpisodeTokens, rows: int) -> int:
    """What the tower needs for a micro-batch's pictures: at once, or kept of each layer if it is trained."""
    settings = model.settings
    one = tower_bytes(model, 1, settings.overview_pixels)
    one += tokens.looks * tower_bytes(model, 1, settings.look_pixels)
    depth = int(getattr(model.vision, "depth", None) or model.vision.num_hidden_layers)
    kept = 1 if settings.freeze_vision else 2 if settings.gradient_checkpointing else depth
    return rows * one * kept


def stepping_bytes(model: Model) -> int:
    """What the optimizer's step holds on a GPU: a root of all second moments at once (``foreach``)."""
    return gradient_bytes(model)


def saving_bytes(model: Model) -> int:
    """What the check of the largest tensor needs before anything is written (``policy.finite.non_finite``).

    Its absolute values and two masks. Writing needs no copy: safetensors reads the tensors themselves, an
    adapter is written alone, and a state holds trained parameters only (``training.checkpoint``).
    """
    return max(int(weight.nbytes + 2 * weight.numel()) for weight in model.core.parameters())


def saved_bytes(model: Model) -> int:
    """Size on disk of the saved policy: trained parameters of an adapter, or all weights."""
    return gradient_bytes(model) if model.settings.lora is not None else weights_bytes(model)


def _traced(model: Model, work: Callable[[LiveBytes], None], *, train: bool) -> dict[str, int]:
    """Return the peaks of some work by stage, from two shallow models: the layers of a deep one are alike."""
    depth = len(model.decoder.layers)
    few = min(FEW, depth)
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.core.train(train)
        for number in (few, min(few + STEP, depth)):
            with model.shallow(number) as known:
                gradients = []
                for weight in known:  # those of earlier micro-batches are there already
                    if train and weight.requires_grad:
                        weight.grad = torch.empty_like(weight)
                        gradients.append(weight.grad)
                precision = nullcontext() if train else _autocast(model.settings)
                with LiveBytes([*known, *gradients]) as meter, precision:
                    work(meter)
                found.append(meter.peaks)
    return peaks_by_stage(found[0], found[1], step=STEP, further=depth - few)


def _autocast(settings: RunSettings) -> AbstractContextManager[Any]:
    """Return the mixed precision of accelerate, in which episodes are drawn and scored."""
    if settings.mixed_precision == "no":
        return nullcontext()
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast("cpu", kinds[settings.mixed_precision])
