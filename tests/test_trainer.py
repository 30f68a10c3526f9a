import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from monai.handlers import StatsHandler, TensorBoardStatsHandler, from_engine
from policies import FAMILIES, phantom_cases
from torch.utils.data import Dataset

from medeyes_monai.data.phantom import PhantomReader
from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.experts import AnnotationExpert, MemoExpert
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.navigator import Navigator
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.rewards import CompositeReward
from medeyes_monai.rewards.accuracy import answers_match
from medeyes_monai.sampler import PathSampler, write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.training.checkpoint import CheckpointFolder
from medeyes_monai.training.experience import Experience, gather
from medeyes_monai.training.handlers import ProgressHandler, StepLog
from medeyes_monai.training.objective import DualStreamObjective, accumulate_gradients
from medeyes_monai.training.trainer import DualStreamGRPOTrainer
from medeyes_monai.trajectory import Episode, Fixation, Stream, Trajectory


class CaseList(Dataset[Case]):
    def __init__(self, cases: list[Case]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        return self.cases[index]


def episodes_of(policy: HuggingFacePolicy, number: int, stream: Stream) -> list[Episode]:
    """Episodes with looks whose behaviour log-probabilities are the policy's own."""
    episodes = []
    for n, case in enumerate(phantom_cases(policy, number)):
        looks = tuple(Fixation("look", Box((60 * k, 90), (60 * k + 64, 190))) for k in range(n % 3))
        episodes.append(write_episode(Trajectory(looks, "left", "solid"), case, policy))
    with torch.no_grad():
        logprobs = policy.score(episodes).logprobs
    return [
        replace(
            e,
            stream=stream,
            behaviour_logprobs=logprobs[n, : len(e)] if stream == "policy" else e.behaviour_logprobs,
        )
        for n, e in enumerate(episodes)
    ]


def experience_of(episodes: list[Episode]) -> Experience:
    return Experience(
        tuple(episodes),
        torch.arange(len(episodes)),
        torch.tensor([e.stream == "expert" for e in episodes]),
        torch.zeros(len(episodes)),
    )


def gradients(
    policy: HuggingFacePolicy,
    episodes: list[Episode],
    advantages: torch.Tensor,
    micro_tokens: int = 10_000,
    reference: HuggingFacePolicy | None = None,
    **objective: float,
) -> dict[str, float]:
    policy.zero_grad()
    return accumulate_gradients(
        policy,
        experience_of(episodes),
        advantages,
        DualStreamObjective(**objective),  # type: ignore[arg-type]
        micro_tokens=micro_tokens,
        backward=torch.Tensor.backward,
        autocast=nullcontext,
        reference=reference,
    )


def gradients_of(policy: HuggingFacePolicy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def adapted_policy(checkpoint: Path, **arguments: object) -> HuggingFacePolicy:
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return HuggingFacePolicy(checkpoint, lora=lora, **arguments)  # type: ignore[arg-type]


def trained_adapter(checkpoint: Path) -> HuggingFacePolicy:
    """A policy whose adapter does something."""
    policy = adapted_policy(checkpoint)
    generator = torch.Generator().manual_seed(2)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3, generator=generator)
    return policy


@pytest.mark.parametrize("stream", ["policy", "expert"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_gradient_of_each_stream_makes_a_good_episode_likelier_and_a_bad_one_rarer(
    policy: HuggingFacePolicy, stream: Stream, advantage: float
) -> None:
    episodes = episodes_of(policy, 3, stream)
    numbers = gradients(policy, episodes, torch.full((3,), advantage))
    assert numbers[f"{stream}/gradient_norm"] > 0
    with torch.no_grad():
        before = policy.score(episodes).logprobs.sum()
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / numbers[f"{stream}/gradient_norm"]
        after = policy.score(episodes).logprobs.sum()
    assert (after - before) * advantage > 0


def test_gradient_of_any_microbatch_budget_equals_that_of_one_pass(policy: HuggingFacePolicy) -> None:
    episodes = episodes_of(policy, 5, "policy") + episodes_of(policy, 3, "expert")
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, 1.0, -1.0, 0.3])
    longest = max(map(len, episodes))
    terms = {"entropy_weight": 0.01}
    whole = gradients(policy, episodes, advantages, micro_tokens=8 * longest, **terms)
    expected = gradients_of(policy)
    assert whole["micro_batches"] == 2  # one for each stream
    assert -1 <= whole["gradient_cosine"] <= 1
    cut = []
    for budget in (1, longest, 2 * longest, 3 * longest + 1):
        numbers = gradients(policy, episodes, advantages, micro_tokens=budget, **terms)
        for one, all_at_once in zip(gradients_of(policy), expected, strict=True):
            torch.testing.assert_close(one, all_at_once, atol=1e-6, rtol=0)
        cut.append(numbers.pop("micro_batches"))
        assert numbers == pytest.approx({k: v for k, v in whole.items() if k != "micro_batches"}, abs=1e-4)
    assert cut[0] == 8
    assert cut == sorted(cut, reverse=True)
    assert cut[-1] > 2


def test_a_microbatch_budget_below_one_token_is_refused(
    checkpoints: dict[str, Path], policy: HuggingFacePolicy, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="micro_tokens"):
        gradients(policy, episodes_of(policy, 1, "expert"), torch.ones(1), micro_tokens=0)
    with pytest.raises(ConfigError, match="micro_tokens"):
        trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1, micro_tokens=0)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_with_gradient_checkpointing_is_the_same(
    checkpoints: dict[str, Path], family: str, lora: bool
) -> None:
    make = adapted_policy if lora else HuggingFacePolicy
    advantages = torch.tensor([1.0, -1.0, 0.5])
    found = []
    for switch in (False, True):
        torch.manual_seed(0)  # adapters start at random
        policy = make(checkpoints[family], gradient_checkpointing=switch)
        policy.train(True)
        layers = [m for m in policy.modules() if getattr(m, "gradient_checkpointing", False)]
        assert bool(layers) == switch
        gradients(policy, episodes_of(policy, 3, "expert"), advantages)
        found.append(gradients_of(policy))
    assert any(gradient.abs().max() > 1e-4 for gradient in found[0])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-7, rtol=1e-5)


def test_the_gradient_of_an_entropy_weight_raises_the_entropy(policy: HuggingFacePolicy) -> None:
    episodes = episodes_of(policy, 3, "policy")
    before = gradients(policy, episodes, torch.zeros(3), entropy_weight=1.0)
    assert before["policy/gradient_norm"] > 0
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad / before["policy/gradient_norm"]
    after = gradients(policy, episodes, torch.zeros(3))
    assert after["policy/entropy_mean"] > before["policy/entropy_mean"]
    assert after["policy/gradient_norm"] == 0


def test_gradient_norms_of_the_streams_are_those_of_each_stream_alone(policy: HuggingFacePolicy) -> None:
    mine, others = episodes_of(policy, 2, "policy"), episodes_of(policy, 3, "expert")
    both = gradients(policy, mine + others, torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0]))
    alone = gradients(policy, others, torch.ones(3))
    assert both["expert/gradient_norm"] == pytest.approx(alone["expert/gradient_norm"], rel=1e-4)
    assert alone["policy/gradient_norm"] == 0


def test_gradient_cosine_is_that_of_the_gradients_of_each_stream(policy: HuggingFacePolicy) -> None:
    mine, others = episodes_of(policy, 2, "policy"), episodes_of(policy, 3, "expert")
    both = gradients(policy, mine + others, torch.tensor([1.0, -0.5, 1.0, 1.0, 1.0]))
    vectors = []
    for episodes, advantages in ((mine, torch.tensor([1.0, -0.5])), (others, torch.ones(3))):
        gradients(policy, episodes, advantages)
        vectors.append(torch.cat([gradient.flatten() for gradient in gradients_of(policy)]))
    expected = torch.cosine_similarity(*vectors, dim=0).item()
    assert both["gradient_cosine"] == pytest.approx(expected, abs=1e-4)
    assert both["policy/gradient_norm"] == pytest.approx(vectors[0].norm().item(), rel=1e-4)


def trainer_of(
    checkpoint: Path,
    output: Path,
    *,
    epochs: int,
    resume: bool = False,
    policy_arguments: Mapping[str, Any] = MappingProxyType({}),
    **arguments: object,
) -> DualStreamGRPOTrainer:
    """A trainer as a new process would make it."""
    policy = HuggingFacePolicy(checkpoint, **policy_arguments)
    expert = MemoExpert(AnnotationExpert(PhantomReader()))
    return DualStreamGRPOTrainer(
        policy,
        torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3),
        CaseList(phantom_cases(policy, 6)),
        EpisodeInferer(draws=2, max_turn_tokens=6, greedy=False),
        CompositeReward(),
        PathSampler(Navigator(expert, reader=PhantomReader()), answers_match, n_paths=2),
        max_epochs=epochs,
        epoch_length=3,
        questions=2,
        advantage_mode="stream_running",
        checkpoints=CheckpointFolder(output, every=3),
        resume=resume,
        **arguments,  # type: ignore[arg-type]
    )


def weights_sha(trainer: DualStreamGRPOTrainer) -> str:
    digest = hashlib.sha256()
    for name, parameter in trainer.policy.named_parameters():
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def test_resume_after_three_of_six_steps_gives_the_same_weights_bit_for_bit(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    whole = trainer_of(checkpoints["qwen3_vl"], tmp_path / "a", epochs=2)
    untrained = weights_sha(whole)
    whole.run()
    first = trainer_of(checkpoints["qwen3_vl"], tmp_path / "b", epochs=1)
    first.run()
    second = trainer_of(checkpoints["qwen3_vl"], tmp_path / "b", epochs=2, resume=True)
    second.run()
    assert second.state.iteration == whole.state.iteration == 6
    assert len({untrained, weights_sha(first), weights_sha(whole)}) == 3
    assert weights_sha(second) == weights_sha(whole)


def test_resume_of_a_finished_run_trains_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    again = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1, resume=True)
    again.run()
    assert again.state.output is None


def test_resume_refuses_a_damaged_checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    file = tmp_path / "step-000003" / "policy.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2, resume=True).run()


def test_resume_refuses_a_checkpoint_whose_manifest_lists_nothing(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    (tmp_path / "step-000003" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFolder(tmp_path).latest()


def test_resume_refuses_the_checkpoint_of_another_seed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    with pytest.raises(CheckpointError, match="seed"):
        trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2, resume=True, seed=1).run()


def test_a_fresh_run_drops_the_states_of_an_earlier_one(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2).run()
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_resume_refuses_the_checkpoint_of_another_policy(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1).run()
    with pytest.raises(CheckpointError, match="another policy"):
        trainer_of(checkpoints["qwen2_5_vl"], tmp_path, epochs=2, resume=True).run()


def test_monai_handlers_attach_and_every_step_leaves_a_line(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    loss = from_engine("loss", first=True)
    handlers = [
        StatsHandler(tag_name="loss", output_transform=loss),
        TensorBoardStatsHandler(log_dir=str(tmp_path / "events"), output_transform=loss),
        StepLog(tmp_path / "metrics.jsonl"),
        ProgressHandler(show={"reward": "policy/reward"}),
    ]
    trainer_of(checkpoints["qwen3_vl"], tmp_path / "states", epochs=1, handlers=handlers).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    wanted = {
        "loss", "gradient_norm", "policy/reward", "policy/reward/accuracy", "expert/reward", "policy/looks",
        "policy/advantage_mean", "policy/zero_variance_share", "expert/advantage_negative_share",
        "policy/ratio_mean", "policy/ratio_max", "policy/clipped_share", "policy/entropy_mean",
        "policy/gradient_norm", "expert/gradient_norm", "expert/gaze_iou", "policy/tokens_per_episode",
    }  # fmt: skip
    assert wanted <= lines[0].keys()
    assert list((tmp_path / "events").iterdir())


def test_low_rank_adapters_train_and_are_merged_when_saved(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    policy = adapted_policy(checkpoints["qwen3_vl"])
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    episodes = episodes_of(policy, 3, "expert")
    gradients(policy, episodes, torch.ones(3))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
        policy.save(tmp_path)
        scores = [p.score(episodes).logprobs for p in (policy, HuggingFacePolicy(tmp_path))]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_to_the_policy_without_its_adapter_is_that_to_a_second_policy(
    checkpoints: dict[str, Path], family: str
) -> None:
    policy = trained_adapter(checkpoints[family])
    second = HuggingFacePolicy(checkpoints[family])
    episodes = episodes_of(policy, 3, "policy")
    found = []
    for reference in (None, second):
        numbers = gradients(policy, episodes, torch.ones(3), reference=reference, kl_weight=0.5)
        found.append((numbers, gradients_of(policy)))
    assert found[0][0]["policy/kl_mean"] > 1e-3
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, other)


def test_kl_of_a_new_adapter_is_zero_and_grows_with_training(checkpoints: dict[str, Path]) -> None:
    policy = adapted_policy(checkpoints["qwen3_vl"])
    episodes = episodes_of(policy, 3, "policy")
    assert gradients(policy, episodes, torch.ones(3), kl_weight=0.5)["policy/kl_mean"] == 0
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
    assert gradients(policy, episodes, torch.ones(3), kl_weight=0.5)["policy/kl_mean"] > 1e-4


def test_the_adapter_is_on_again_after_the_reference_even_after_an_error(
    checkpoints: dict[str, Path],
) -> None:
    policy = trained_adapter(checkpoints["qwen2_5_vl"])
    episodes = episodes_of(policy, 2, "expert")
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]

    def logprobs() -> torch.Tensor:
        with torch.no_grad():
            return policy.score(episodes).logprobs

    before = logprobs()
    with policy.reference():
        without = logprobs()
    assert torch.equal(logprobs(), before)
    assert not torch.allclose(without, before, atol=1e-3)
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert torch.equal(logprobs(), before)
    assert [name for name, p in policy.named_parameters() if p.requires_grad] == trained


def test_training_with_a_kl_weight_and_an_adapter_logs_the_kl_and_the_micro_batches(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    objective = DualStreamObjective(kl_weight=0.1, entropy_weight=0.01)
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    log = tmp_path / "metrics.jsonl"
    trainer_of(
        checkpoints["qwen3_vl"],
        tmp_path / "states",
        epochs=1,
        objective=objective,
        policy_arguments={"lora": lora, "gradient_checkpointing": True},
        micro_tokens=1,
        handlers=[StepLog(log)],
    ).run()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["policy/kl_mean"] == 0
    assert lines[-1]["policy/kl_mean"] > 0
    for line in lines:
        assert line["micro_batches"] == line["policy/episodes"] + line.get("expert/episodes", 0)


def test_a_kl_weight_without_a_reference_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    objective = DualStreamObjective(kl_weight=0.1)
    with pytest.raises(ConfigError, match=r"lora.* or give a frozen policy as reference"):
        trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1, objective=objective)


def test_an_expert_path_that_does_not_fit_is_left_out_and_said(
    policy: HuggingFacePolicy, caplog: pytest.LogCaptureFixture
) -> None:
    cases = phantom_cases(policy, 2)
    expert = MemoExpert(AnnotationExpert(PhantomReader()))
    sampler = PathSampler(Navigator(expert, reader=PhantomReader()), answers_match, n_paths=2)
    inferer, reward = EpisodeInferer(draws=2, max_turn_tokens=4, greedy=False), CompositeReward()
    numbers = {"inferer": inferer, "reward": reward, "sampler": sampler, "seed": 0, "step": 0}
    free = gather(policy, cases, **numbers)  # type: ignore[arg-type]
    lengths = sorted(len(e) for e in free.episodes if e.stream == "expert")
    policy.max_tokens = lengths[-1] - 1
    tight = gather(policy, cases, **numbers)  # type: ignore[arg-type]
    left = [len(e) for e in tight.episodes if e.stream == "expert"]
    assert sorted(left) == [length for length in lengths if length < lengths[-1]]
    assert "left out" in caplog.text
