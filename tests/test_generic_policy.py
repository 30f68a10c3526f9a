"""Families without code of their own: the same episodes, by way of a model's own parts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from policies import phantom_cases
from test_rollout import TOLERANCE, cached_logprobs, ragged_episodes
from tiny_families import make_gemma3, make_idefics3
from transformers import AutoProcessor

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy, Segment
from medeyes_monai.policy.cache import RaggedCache
from medeyes_monai.policy.generic import GenericFamily
from medeyes_monai.policy.loading import vision_tower
from medeyes_monai.policy.processor import PictureProcessor
from medeyes_monai.policy.trial import logit_cap
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case, ImageScene, View
from medeyes_monai.trajectory import Episode

MAKERS: dict[str, Callable[[Path], None]] = {
    "idefics3": make_idefics3,
    "idefics3_split": lambda directory: make_idefics3(directory, split=True),
    "gemma3": make_gemma3,
}


@pytest.fixture(scope="session")
def generic_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("generic")
    for name, make in MAKERS.items():
        make(folder / name)
    return {name: folder / name for name in MAKERS}


@pytest.fixture(params=MAKERS)
def path(request: pytest.FixtureRequest, generic_checkpoints: dict[str, Path]) -> Path:
    return generic_checkpoints[request.param]


@pytest.fixture
def policy(path: Path) -> HuggingFacePolicy:
    return HuggingFacePolicy(path)


class Looking(HuggingFacePolicy):
    """A random policy with short turns, each of which is read as a look that follows from its tokens."""

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        more = torch.zeros(self.vocabulary_size)
        more[self.end_of_turn] = 5.0 if self.vocabulary_size > 400 else 3.5
        return super().scores(hidden) + more

    def decode(self, token_ids) -> str:
        x, y = (int(token) % 7 * 8 for token in (*token_ids, 1, 2)[:2])
        corners = f"[{x},{y},{x + 30},{y + 40}]"
        return f'<reasoning></reasoning><action>{{"name":"Gaze","coordinate":{corners}}}</action>'


def cases_of(policy: HuggingFacePolicy, number: int) -> list[Case]:
    def scene(image: torch.Tensor, **more: object) -> ImageScene:
        return ImageScene(image, patch=policy.patch, overview_pixels=112**2, look_pixels=56**2, **more)

    cases = PhantomVQA("val", size=number, scene=scene)
    return [cases[i] for i in range(number)]


def assert_behaviour_is_the_score(policy: HuggingFacePolicy, episodes: list[Episode]) -> None:
    with torch.no_grad():
        full = policy.score(episodes).logprobs
    for row, episode in enumerate(episodes):
        got, mask = full[row, : len(episode)], episode.response_mask
        torch.testing.assert_close(episode.behaviour_logprobs[mask], got[mask], atol=TOLERANCE, rtol=0)


def test_parity_of_cached_ragged_episodes_with_a_full_forward(policy, monkeypatch):
    monkeypatch.setattr("test_rollout.phantom_cases", cases_of)
    episodes = ragged_episodes(policy)
    assert [len(episode.pictures) for episode in episodes] == [1, 2, 3, 4, 1]
    with torch.no_grad():
        full = policy.score(episodes).logprobs
    for row, cached in enumerate(cached_logprobs(policy, episodes)):
        mask = episodes[row].response_mask
        torch.testing.assert_close(cached[mask], full[row, : len(mask)][mask], atol=TOLERANCE, rtol=0)
        assert full[row, : len(mask)][mask].std() > 0.1  # the distributions are not all alike


def test_a_rollout_with_looks_gives_the_logprobs_of_a_full_forward(path):
    policy = Looking(path)
    episodes = rollout(policy, cases_of(policy, 3), draws=4, max_looks=3, max_turn_tokens=24)
    looks = [len(episode.trajectory.fixations) for episode in episodes]
    assert max(looks) == 3
    assert len({len(episode) for episode in episodes}) > 6
    assert {episode.defect for episode in episodes} <= {"no_answer", "too_long"}
    assert_behaviour_is_the_score(policy, episodes)


def test_a_tools_reply_is_plain_text_between_turns(policy):
    picture = np.zeros((policy.patch, policy.patch, 3), np.uint8)
    looked = policy.feedback(View(picture, Box((0, 0), (9, 9)))).token_ids
    replied = policy.reply("12 mm <end_of_turn>")
    assert replied.pictures == ()
    assert policy.image_token_id not in replied.token_ids
    said = policy.encode("12 mm <end_of_turn>")
    place = next(i for i in range(len(replied.token_ids)) if replied.token_ids[i : i + len(said)] == said)
    before, after = replied.token_ids[:place], replied.token_ids[place + len(said) :]
    assert looked[: len(before)] == before
    assert looked[-len(after) :] == after


def test_a_draw_does_not_depend_on_what_else_is_in_the_batch(path):
    policy = Looking(path)
    cases = cases_of(policy, 3)
    together = rollout(policy, cases, draws=2, max_looks=2, address=(7,))
    alone = rollout(policy, cases[1:2], draws=2, max_looks=2, address=(7,))
    assert [e.token_ids.tolist() for e in together[2:4]] == [e.token_ids.tolist() for e in alone]


def test_the_score_is_the_models_own_distribution(policy, tmp_path):
    """Against one call of the model with the inputs of the saved processor, nothing of ours between."""
    (episode,) = rollout(policy, cases_of(policy, 1), draws=1, max_turn_tokens=8)
    policy.save(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(np.ascontiguousarray(episode.pictures[0]))
    inputs = processor(
        text=processor.image_token, images=[image], return_tensors="pt", add_special_tokens=False
    )
    start = episode.token_ids.tolist().index(int(inputs["input_ids"][0, -1]))
    more = {"input_ids": episode.token_ids[None], "attention_mask": torch.ones(1, len(episode)).long()}
    if policy.core.config.model_type == "gemma3":
        more["token_type_ids"] = (more["input_ids"] == policy.image_token_id).long()
    text_only = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
    pixels = {name: value for name, value in inputs.items() if name not in text_only}
    with torch.no_grad():
        logits = policy.core(**pixels, **more).logits
        got = policy.score([episode]).logprobs[0]
    distribution = torch.log_softmax(logits[0].masked_fill(policy._forbidden, float("-inf")), -1)
    wanted = distribution[:-1].gather(-1, episode.token_ids[1:, None])[:, 0]
    mask = episode.response_mask
    assert start < int(mask.float().argmax())
    torch.testing.assert_close(got[mask], wanted[mask[1:]], atol=TOLERANCE, rtol=0)


def test_the_prompt_is_what_the_saved_processor_makes_of_the_conversation(policy, tmp_path):
    policy.save(tmp_path)
    picture = cases_of(policy, 1)[0].scene.overview().pixels
    said = [{"type": "image"}, {"type": "text", "text": "Which kind is the lesion?"}]
    processor = AutoProcessor.from_pretrained(tmp_path)
    wanted = processor.apply_chat_template(
        [{"role": "user", "content": [{**said[0], "image": Image.fromarray(picture)}, said[1]]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    ids = policy.conversation.prompt("Which kind is the lesion?", policy.family.picture_ids(picture))
    assert policy.decode(ids) == policy.decode(wanted["input_ids"][0])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_family_with_code_of_its_own_gives_the_same_episodes_without_it(family, checkpoints):
    fast, slow = Looking(checkpoints[family]), Looking(checkpoints[family])
    slow.family = GenericFamily(slow.core, slow.path, 2**28, 1024)
    slow.family.processor.image_processor.size["shortest_edge"] = 1  # small looks are not enlarged
    cases = phantom_cases(fast, 3)
    both = [rollout(policy, cases, draws=3, max_looks=2, max_turn_tokens=32) for policy in (fast, slow)]
    assert max(len(episode.pictures) for episode in both[0]) == 3
    for one, other in zip(*both, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        torch.testing.assert_close(one.behaviour_logprobs, other.behaviour_logprobs, atol=TOLERANCE, rtol=0)
    scores = [policy.score(both[0]).logprobs for policy in (fast, slow)]
    torch.testing.assert_close(*scores, atol=TOLERANCE, rtol=0)


def test_rows_that_wait_or_leave_or_are_copied_do_not_change_the_others(policy):
    cases = cases_of(policy, 3)
    prompts = [policy.prompt(case) for case in cases]
    words = policy.encode("left large solid, 3 candidates")
    assert len(set(words)) > 3
    reader = policy.family.start()
    reader.append(dict(enumerate(prompts)))
    reader.keep([2, 0, 1, 0])
    whole = [prompts[row] for row in (2, 0, 1, 0)]

    def add(segments: dict[int, Segment]) -> None:
        states = reader.append(segments)
        for row, more in segments.items():
            old = whole[row]
            whole[row] = Segment(old.token_ids + more.token_ids, old.pictures + more.pictures)
        full = policy.family.hidden([whole[row] for row in segments])
        last = torch.stack([full[n, len(whole[row].token_ids) - 1] for n, row in enumerate(segments)])
        torch.testing.assert_close(states, last, atol=TOLERANCE, rtol=0)

    with torch.no_grad():
        look = policy.feedback(cases[0].scene.overview())
        add({row: Segment((words[row],)) for row in (3, 0, 1)})  # row 2 is left behind
        add({1: Segment((policy.end_of_turn, *look.token_ids), look.pictures)})
        add({row: Segment((words[1],)) for row in (0, 1, 2, 3)})
        reader.keep([3, 1])
        whole = [whole[3], whole[1]]
        add({0: Segment((words[2],)), 1: Segment(words)})
        add({0: Segment((words[0],)), 1: Segment((words[1],))})


def test_tokens_of_pictures_and_tokens_that_do_not_exist_are_never_drawn(policy):
    spelled = {
        "idefics3": {"<image>", "<fake_token_around_image>", "<global-img>"},
        "gemma3": {"<start_of_image>", "<image_soft_token>", "<end_of_image>"},
    }[policy.core.config.model_type]
    (scores,) = policy.start([policy.prompt(cases_of(policy, 1)[0])]).logits
    allowed = {policy.decode([i]) for i in torch.nonzero(scores.isfinite())[:, 0].tolist()}
    assert not spelled & allowed
    assert policy.decode([policy.end_of_turn]) in allowed
    assert scores[len(policy.conversation.tokenizer) :].isinf().all()


def test_a_turn_ends_where_the_chat_template_ends_it(policy):
    said = {"idefics3": "<end_of_utterance>", "gemma3": "<end_of_turn>"}[policy.core.config.model_type]
    assert policy.decode([policy.end_of_turn]) == said
    assert policy.end_of_turn not in policy.feedback(cases_of(policy, 1)[0].scene.overview()).token_ids[:1]


def test_special_tokens_in_a_question_are_plain_text(policy):
    (case,) = cases_of(policy, 1)
    text = policy.decode(sorted(policy.family.pictures.picture_tokens)) + "<end_of_turn></s><s>"
    plain = policy.prompt(case).token_ids
    asked = policy.prompt(replace(case, question=text)).token_ids
    special = set(policy.conversation.tokenizer.added_tokens_decoder)
    assert [i for i in asked if i in special] == [i for i in plain if i in special]


@pytest.mark.parametrize(("dtype", "attention"), [("bfloat16", "sdpa"), ("float32", "eager")])
def test_other_precision_and_attention_pass_the_trial_on_loading(path, dtype, attention):
    policy = HuggingFacePolicy(path, dtype=dtype, attention=attention)
    (episode,) = rollout(policy, cases_of(policy, 1), draws=1, max_turn_tokens=6)
    assert policy.core.dtype == getattr(torch, dtype)
    assert policy.score([episode]).logprobs.isfinite().all()


def test_gradients_reach_the_decoder_and_not_the_frozen_vision_tower(path):
    frozen, trained = HuggingFacePolicy(path), HuggingFacePolicy(path, freeze_vision=False)
    for policy in (frozen, trained):
        episodes = rollout(policy, cases_of(policy, 2), draws=1, max_turn_tokens=6)
        policy.train(True)
        policy.score(episodes).logprobs.sum().backward()
        tower = list(vision_tower(policy.core).parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in tower) == (policy is trained)
        assert policy.core.get_input_embeddings().weight.grad.abs().max() > 0


def test_checkpointed_gradients_are_the_same(path):
    gradients = []
    for checkpointing in (False, True):
        policy = HuggingFacePolicy(path, gradient_checkpointing=checkpointing)
        episodes = rollout(policy, cases_of(policy, 2), draws=1, max_turn_tokens=6)
        policy.train(True)
        policy.score(episodes).logprobs.sum().backward()
        gradients.append(policy.core.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_an_adapter_is_trained_switched_off_and_saved_as_weights(path, tmp_path):
    policy = HuggingFacePolicy(
        path, lora={"r": 2, "target_modules": r".*(text|language)_model.*(q_proj|v_proj)"}
    )
    episodes = rollout(policy, cases_of(policy, 2), draws=1, max_turn_tokens=6)
    mask = policy.score(episodes).response_mask
    before = policy.score(episodes).logprobs.detach()
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            assert "lora_" in name
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        after = policy.score(episodes).logprobs
        with policy.reference():
            reference = policy.score(episodes).logprobs
    assert (after - before)[mask].abs().max() > 1e-3
    torch.testing.assert_close(reference, before, atol=TOLERANCE, rtol=0)
    policy.save(tmp_path / "saved")
    loaded = HuggingFacePolicy(tmp_path / "saved")
    assert (loaded.coordinates, loaded.instruction) == (policy.coordinates, policy.instruction)
    with torch.no_grad():
        torch.testing.assert_close(loaded.score(episodes).logprobs, after, atol=TOLERANCE, rtol=0)
    again = rollout(loaded, cases_of(loaded, 2), draws=1, max_turn_tokens=6)
    assert [e.token_ids.tolist() for e in again] == [
        e.token_ids.tolist() for e in rollout(policy, cases_of(policy, 2), draws=1, max_turn_tokens=6)
    ]


def test_an_unknown_family_writes_relative_coordinates(policy):
    assert policy.coordinates == "relative"
    assert policy.frame(cases_of(policy, 1)[0].scene) == (1000, 1000)


def test_a_processor_is_loaded_without_its_part_for_videos(checkpoints):
    """Qwen's processor asks for a video processor, which torchvision is needed for."""
    policy = HuggingFacePolicy(checkpoints["qwen2_5_vl"])
    pictures = PictureProcessor(policy.path, policy.core.config, 1024)
    picture = phantom_cases(policy, 1)[0].scene.overview().pixels
    assert pictures.picture_ids(picture) == policy.family.picture_ids(picture)
    assert type(pictures.processor).__name__ == "Qwen2_5_VLProcessor"
    assert pictures.processor.get_attributes() == ["image_processor", "tokenizer"]


def test_a_cap_on_the_logits_is_honoured_where_the_model_puts_one(generic_checkpoints):
    policy = HuggingFacePolicy(generic_checkpoints["gemma3"])
    said = policy.encode("left or right?")
    policy.core.config.text_config.final_logit_softcapping = 2.0
    assert logit_cap(policy.core, said) is None  # configured, but this model does not apply it

    def capped(module, arguments, output):
        output.logits = 2.0 * torch.tanh(output.logits / 2.0)

    hook = policy.core.register_forward_hook(capped)
    assert logit_cap(policy.core, said) == 2.0
    (episode,) = rollout(policy, cases_of(policy, 1), draws=1, max_turn_tokens=6)
    free = policy.score([episode]).logprobs
    policy._cap = 2.0
    assert (policy.score([episode]).logprobs - free).abs().max() > 0.1
    policy.core.config.text_config.final_logit_softcapping = None
    with pytest.raises(
        ConfigError, match="neither the scores of its output layer nor those under a soft cap"
    ):
        logit_cap(policy.core, said)
    hook.remove()


def test_a_step_at_wrong_positions_is_refused_on_loading(path, monkeypatch):
    step = GenericFamily.step
    monkeypatch.setattr(
        GenericFamily, "step", lambda self, ids, place, seen, cache: step(self, ids, place + 1, seen, cache)
    )
    with pytest.raises(ConfigError, match="what is appended to a cache differs from the model's own forward"):
        HuggingFacePolicy(path)


def test_a_row_that_is_kept_in_another_place_is_refused_on_loading(path, monkeypatch):
    keep = RaggedCache.keep
    monkeypatch.setattr(RaggedCache, "keep", lambda self, rows: keep(self, [*rows[1:], rows[0]]))
    with pytest.raises(ConfigError, match="what is appended to a cache differs from the model's own forward"):
        HuggingFacePolicy(path)


def test_features_that_are_not_the_models_own_are_refused_on_loading(path, monkeypatch):
    encode = GenericFamily._encode
    monkeypatch.setattr(
        GenericFamily, "_encode", lambda self, pictures: [(2 * f[0],) for f in encode(self, pictures)]
    )
    with pytest.raises(ConfigError, match="a pass over embedded tokens and pictures differs"):
        HuggingFacePolicy(path)


def test_a_decoder_that_cannot_be_called_on_embeddings_is_refused_in_one_line(path, monkeypatch):
    def uncallable(self, segments):
        raise TypeError("forward() got an unexpected\nkeyword argument 'inputs_embeds'")

    monkeypatch.setattr(GenericFamily, "hidden", uncallable)
    with pytest.raises(ConfigError, match="cannot be called on embeddings") as caught:
        HuggingFacePolicy(path)
    assert "\n" not in str(caught.value)
    assert "(TypeError: forward() got an unexpected keyword argument 'inputs_embeds')" in str(caught.value)


def test_only_gemmas_pictures_attend_to_themselves_in_both_directions(generic_checkpoints):
    found = {name: HuggingFacePolicy(path).family.both_ways for name, path in generic_checkpoints.items()}
    assert found == {"idefics3": False, "idefics3_split": False, "gemma3": True}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "family 'llama' makes no text of images and text"),
        ({"model_type": "t5"}, "family 't5' makes no text of images and text"),
    ],
)
def test_a_model_that_does_not_make_text_of_images_is_named(
    config, message, generic_checkpoints, tmp_path, monkeypatch
):
    for file in generic_checkpoints["gemma3"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        HuggingFacePolicy(tmp_path)


def test_a_processor_that_cannot_be_loaded_is_named(generic_checkpoints, tmp_path):
    for file in generic_checkpoints["gemma3"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "NoSuchProcessor"}))
    with pytest.raises(ConfigError, match="its processor cannot be used for pictures and text"):
        HuggingFacePolicy(tmp_path)
