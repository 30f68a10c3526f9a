import warnings

import pytest
import torch
from policies import LookingPolicy, phantom_cases
from torch.nn.functional import linear

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import HuggingFacePolicy, joined
from medeyes_monai.policy.joined import PackedMap, joined_layers
from medeyes_monai.policy.precision import check_trained_types, float_logits, warn_if_slow
from medeyes_monai.rollout import rollout

LORA = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
}
ROWS, HIDDEN, VOCABULARY = 5, 16, 37


def head_of(dtype: torch.dtype, bias: bool = False) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias).to(dtype)


def states_of(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype)


def adapted(path: str, **arguments: object) -> LookingPolicy:
    """A policy with an adapter that changes its distributions."""
    policy = LookingPolicy(path, lora=LORA, **arguments)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return policy.train(False)


@pytest.mark.parametrize("block_bytes", [1, 4 * HIDDEN * 10, 2**20], ids=["one word", "ten words", "all"])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("states", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_half_precision_head_are_those_of_float32_products(
    states: torch.dtype, weights: torch.dtype, bias: bool, block_bytes: int
) -> None:
    head, hidden = head_of(weights, bias), states_of(states)
    found = float_logits(head, hidden, block_bytes)
    exact = linear(hidden.double(), head.weight.double(), head.bias.double() if bias else None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=0)


def test_autocast_does_not_round_logits() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        head, hidden = head_of(dtype), states_of(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = float_logits(head, hidden)
            assert (linear(hidden, head.weight) - found).abs().max() > 1e-4  # it rounds what it can
        torch.testing.assert_close(found, hidden @ head.weight.float().T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("states", [torch.bfloat16, torch.float32])
def test_gradients_of_half_precision_factors_are_those_in_float32_up_to_their_rounding(
    states: torch.dtype,
) -> None:
    head, hidden = head_of(torch.bfloat16), states_of(states).requires_grad_()
    factors = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(3))
    (float_logits(head, hidden, 4 * HIDDEN * 10) * factors).sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert (hidden.grad.dtype, head.weight.grad.dtype) == (states, torch.bfloat16)
    exact = hidden.detach().float().requires_grad_()
    weight = head.weight.detach().float().requires_grad_()
    (linear(exact, weight) * factors).sum().backward()
    for mine, other in ((hidden.grad, exact.grad), (head.weight.grad, weight.grad)):
        assert other is not None
        assert (mine.float() - other).norm() < 2**-8 * other.norm()


def test_logits_in_double_precision_have_the_gradients_of_finite_differences() -> None:
    head = head_of(torch.float64, bias=True)
    hidden = states_of(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda states, _weight: float_logits(head, states), (hidden, head.weight))


def test_a_frozen_head_gets_no_gradient_and_its_states_do() -> None:
    head, hidden = head_of(torch.bfloat16).requires_grad_(False), states_of(torch.float32).requires_grad_()
    float_logits(head, hidden).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_products_in_float32_of_states_and_head(policy: HuggingFacePolicy, dtype: str) -> None:
    low = HuggingFacePolicy(policy.path, dtype=dtype)  # type: ignore[arg-type]
    weight = low.core.get_output_embeddings().weight
    hidden = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    allowed = ~low._forbidden
    found = low.scores(hidden)[:, allowed]
    torch.testing.assert_close(found, (hidden @ weight.float().T)[:, allowed], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("lora", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_output_layer_that_is_adapted_is_used_as_it_is(
    policy: HuggingFacePolicy, lora: dict[str, list[str]]
) -> None:
    adapter = {"r": 4, "target_modules": r".*language_model.*q_proj"} | lora
    low = HuggingFacePolicy(policy.path, dtype="bfloat16", lora=adapter)
    with torch.no_grad():
        for name, parameter in low.named_parameters():
            if parameter.requires_grad and "lm_head" in name:
                parameter.add_(0.1)
    hidden = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    changed, before = low.scores(hidden), policy.scores(hidden)
    assert (changed - before)[:, ~low._forbidden].abs().max() > 0.1
    changed[:, ~low._forbidden].sum().backward()
    assert any(p.grad is not None for name, p in low.named_parameters() if "lm_head" in name)


@pytest.mark.parametrize(
    ("dtype", "autocast", "mean", "largest"),
    [("float32", False, 1e-6, 1e-5), ("bfloat16", False, 0.01, 0.05), ("bfloat16", True, 0.01, 0.05)],
)
def test_own_fresh_episodes_have_a_ratio_of_one_up_to_rounding(
    looking: LookingPolicy,
    dtype: str,
    autocast: bool,
    mean: float,
    largest: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined, "MOST_BYTES", 0)  # as in a model that is not tiny
    policy = adapted(looking.path, dtype=dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        episodes = rollout(policy, phantom_cases(policy, 2), draws=6, max_turn_tokens=16)
        scored = policy.score(episodes).logprobs
    assert max(len(episode.pictures) for episode in episodes) > 1
    ratios = torch.cat(
        [
            (scored[row, : len(one)] - one.behaviour_logprobs)[one.response_mask].abs()
            for row, one in enumerate(episodes)
        ]
    )
    assert ratios.mean() < mean
    assert ratios.max() < largest


def test_states_between_layers_and_logits_are_float32_where_weights_are_not(
    policy: HuggingFacePolicy,
) -> None:
    low = HuggingFacePolicy(policy.path, dtype="bfloat16")
    layers = low.core.model.language_model.layers
    seen: list[torch.dtype] = []
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
        layer.mlp.gate_proj.register_forward_hook(lambda _module, read, _output: seen.append(read[0].dtype))
    states = low.family.hidden([low.prompt(phantom_cases(low, 1)[0])])
    assert seen == [torch.bfloat16, torch.float32] * len(layers)
    assert states.dtype == torch.float32


def test_an_adapter_that_is_joined_is_the_one_that_is_on_or_off(looking: LookingPolicy) -> None:
    policy = adapted(looking.path)
    (layer, *_) = policy.core.model.language_model.layers
    states = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)

    def joined_and_apart() -> tuple[torch.Tensor, torch.Tensor]:
        together = joined_layers([layer])[0].attention(states)
        return together, torch.cat([part(states) for part in projections], dim=-1)

    with torch.no_grad():
        on = joined_and_apart()
        with policy.reference():
            off = joined_and_apart()
    for together, apart in (on, off):
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    assert (on[0] - off[0]).abs().max() > 0.01


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}])
def test_an_adapter_of_another_form_is_called_and_not_joined(
    looking: LookingPolicy, more: dict[str, object]
) -> None:
    policy = LookingPolicy(looking.path, lora=LORA | more).train(True)
    (layer, *_) = joined_layers(policy.core.model.language_model.layers[:1])
    assert layer.mlp.down is None
    assert layer.mlp.parts[0] is policy.core.model.language_model.layers[0].mlp.gate_proj


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_packed_maps_are_used_for_bfloat16_within_their_budget_and_give_the_same_products(
    looking: LookingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "MOST_BYTES", 0)
    low = adapted(looking.path, dtype="bfloat16")
    layers = low.core.model.language_model.layers[:1]
    states = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        packed, plain = (joined_layers(layers, packed=choice)[0] for choice in (True, False))
        assert {type(part) for part in packed.attention.parts} == {PackedMap}
        assert {type(part) for part in plain.attention.parts} == {torch.nn.Linear}
        one, other = packed.attention(states).float(), plain.attention(states).float()
    assert (one - other).norm() < 2**-8 * other.norm()
    monkeypatch.setattr(joined, "PACKED_BYTES", 0)
    assert {type(part) for part in joined_layers(layers)[0].attention.parts} == {torch.nn.Linear}
    wide = joined_layers(looking.core.model.language_model.layers[:1])
    assert {type(part) for part in wide[0].attention.parts} == {torch.nn.Linear}  # float32


def test_training_half_precision_weights_is_refused_and_training_an_adapter_on_them_is_not(
    looking: LookingPolicy,
) -> None:
    with pytest.raises(ConfigError, match=r"trained tensors are bfloat16.*train an adapter"):
        check_trained_types(LookingPolicy(looking.path, dtype="bfloat16"))
    check_trained_types(LookingPolicy(looking.path))
    low = adapted(looking.path, dtype="bfloat16")
    check_trained_types(low)
    assert {p.dtype for p in low.parameters() if p.requires_grad} == {torch.float32}


def test_an_update_of_adamw_moves_the_adapter_and_would_not_move_most_bfloat16_weights() -> None:
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.full((1000,), 0.02, dtype=dtype))
        weight.grad = torch.ones_like(weight)
        before = weight.detach().clone()
        torch.optim.AdamW([weight], lr=1e-5, weight_decay=0).step()
        moved[dtype] = float((weight != before).float().mean())
    assert moved == {torch.float32: 1.0, torch.bfloat16: 0.0}


@pytest.mark.parametrize(
    ("dtype", "capabilities", "warned"),
    [
        (torch.bfloat16, {"avx2": True}, True),
        (torch.bfloat16, {"avx512_bf16": True}, False),
        (torch.bfloat16, {"bf16": True}, False),
        (torch.float32, {"avx2": True}, False),
    ],
)
def test_only_a_cpu_without_bfloat16_instructions_is_called_slow(
    dtype: torch.dtype, capabilities: dict[str, bool], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_slow(dtype, torch.device("cpu"))
    assert [str(one.message)[:33] for one in caught] == ["this CPU has no bfloat16 instruct"] * warned
