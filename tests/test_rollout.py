from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from policies import LookingPolicy, phantom_cases

from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy, Segment, joined
from medeyes_monai.rollout import rollout
from medeyes_monai.rollout.batch import _draw
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import BlankedScene
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

TOLERANCE = 1e-5  # float32, cached steps against one full pass


def ragged_episodes(policy: HuggingFacePolicy) -> list[Episode]:
    """Episodes of zero to three looks, so of one to four pictures, with texts of different length."""
    episodes = []
    for number, case in enumerate(phantom_cases(policy, 5)):
        boxes = [Box((40 * n, 90), (40 * n + 64 + 9 * number, 190)) for n in range(number % 4)]
        looks = tuple(Fixation("so " * n + "here", box) for n, box in enumerate(boxes))
        episodes.append(write_episode(Trajectory(looks, "left large solid " * number, "solid"), case, policy))
    return episodes


def cached_logprobs(policy: HuggingFacePolicy, episodes: list[Episode]) -> list[torch.Tensor]:
    """Score episodes by appending to a cache: feedback as one chunk, each response token on its own."""
    scored = [torch.zeros(len(episode)) for episode in episodes]
    place = [int(episode.response_mask.float().argmax()) for episode in episodes]
    shown = [1] * len(episodes)
    starts = zip(episodes, place, strict=True)
    decoder = policy.start([Segment(tuple(e.token_ids[:p].tolist()), e.pictures[:1]) for e, p in starts])
    rows = list(range(len(episodes)))
    while rows:
        segments = []
        distribution = torch.log_softmax(decoder.logits, -1)
        for n, row in enumerate(rows):
            episode, start = episodes[row], place[row]
            scored[row][start] = distribution[n, episode.token_ids[start]]
            stop = start + 1
            while stop < len(episode) and not episode.response_mask[stop]:
                stop += 1
            is_look = stop > start + 1
            pictures = episode.pictures[shown[row] : shown[row] + 1] if is_look else ()
            segments.append(Segment(tuple(episode.token_ids[start:stop].tolist()), pictures))
            place[row], shown[row] = stop, shown[row] + is_look
        going_on = [n for n, row in enumerate(rows) if place[row] < len(episodes[row])]
        if going_on:
            decoder.keep(going_on)
            decoder.append({new: segments[n] for new, n in enumerate(going_on)})
        rows = [rows[n] for n in going_on]
    return scored


def test_parity_of_cached_ragged_episodes_with_a_full_forward(policy: HuggingFacePolicy) -> None:
    episodes = ragged_episodes(policy)
    assert [len(episode.pictures) for episode in episodes] == [1, 2, 3, 4, 1]
    with torch.no_grad():
        full = policy.score(episodes).logprobs
    for row, cached in enumerate(cached_logprobs(policy, episodes)):
        mask = episodes[row].response_mask
        torch.testing.assert_close(cached[mask], full[row, : len(mask)][mask], atol=TOLERANCE, rtol=0)
        assert full[row, : len(mask)][mask].std() > 0.1  # the distributions are not all alike


def test_parity_of_behaviour_logprobs_with_a_full_forward(policy: HuggingFacePolicy) -> None:
    episodes = rollout(policy, phantom_cases(policy, 3), draws=4, max_turn_tokens=12)
    with torch.no_grad():
        full = policy.score(episodes)
    for row, episode in enumerate(episodes):
        got, mask = full.logprobs[row, : len(episode)], episode.response_mask
        torch.testing.assert_close(episode.behaviour_logprobs[mask], got[mask], atol=TOLERANCE, rtol=0)
        assert episode.behaviour_logprobs[~mask].abs().sum() == 0


def test_parity_of_a_padded_episode_with_the_same_episode_alone(policy: HuggingFacePolicy) -> None:
    episodes = ragged_episodes(policy)
    with torch.no_grad():
        together = policy.score(episodes).logprobs
        for row, episode in enumerate(episodes):
            alone = policy.score([episode]).logprobs[0]
            torch.testing.assert_close(together[row, : len(episode)], alone, atol=TOLERANCE, rtol=0)


def test_parity_of_draws_where_looks_come_at_different_times(looking: LookingPolicy) -> None:
    episodes = rollout(looking, phantom_cases(looking, 3), draws=8, max_turn_tokens=16)
    looks = [len(episode.trajectory.fixations) for episode in episodes]
    assert {0, 1, 2} <= set(looks)  # so they come at different times
    with torch.no_grad():
        full = looking.score(episodes)
    for row, episode in enumerate(episodes):
        got, mask = full.logprobs[row, : len(episode)], episode.response_mask
        torch.testing.assert_close(episode.behaviour_logprobs[mask], got[mask], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "tolerance"),
    [
        ({"dtype": "bfloat16"}, 0.05),  # a bfloat16 has 8 bits, and the last state passes through all layers
        ({"attention": "eager"}, TOLERANCE),
        (
            {
                "lora": {
                    "r": 4,
                    "target_modules": r".*language_model.*(q_proj|down_proj)",
                    "init_lora_weights": False,
                }
            },
            TOLERANCE,
        ),
    ],
    ids=["bfloat16", "eager", "adapter"],
)
def test_parity_in_low_precision_and_with_an_adapter(
    looking: LookingPolicy, arguments: dict[str, Any], tolerance: float
) -> None:
    policy = LookingPolicy(looking.path, **arguments)
    episodes = rollout(policy, phantom_cases(policy, 2), draws=6, max_turn_tokens=16)
    assert max(len(episode.pictures) for episode in episodes) > 1
    with torch.no_grad():
        full = policy.score(episodes).logprobs
    for row, episode in enumerate(episodes):
        mask = episode.response_mask
        drawn, scored = episode.behaviour_logprobs[mask], full[row, : len(episode)][mask]
        torch.testing.assert_close(drawn, scored, atol=tolerance, rtol=0)


def test_parity_of_draws_after_the_weights_have_changed(looking: LookingPolicy) -> None:
    policy = LookingPolicy(looking.path)
    before = rollout(policy, phantom_cases(policy, 1), draws=2, max_turn_tokens=8)
    with torch.no_grad():
        for weight in policy.core.model.language_model.layers.parameters():
            weight.mul_(1.5)
    episodes = rollout(policy, phantom_cases(policy, 1), draws=2, max_turn_tokens=8)
    with torch.no_grad():
        full, stale = policy.score(episodes).logprobs, policy.score(before).logprobs
    for row, episode in enumerate(episodes):
        got, mask = full[row, : len(episode)], episode.response_mask
        torch.testing.assert_close(episode.behaviour_logprobs[mask], got[mask], atol=TOLERANCE, rtol=0)
    mask = before[0].response_mask
    assert (before[0].behaviour_logprobs - stale[0, : len(mask)])[mask].abs().max() > 0.01  # they matter


def test_parity_where_weights_are_too_large_to_be_joined(
    looking: LookingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = looking.core.model.language_model.layers
    assert all(layer.mlp.weight is not None for layer in joined.joined_layers(layers))
    together = rollout(looking, phantom_cases(looking, 2), draws=4, max_turn_tokens=16)
    monkeypatch.setattr(joined, "MOST_BYTES", 1000)
    assert all(layer.mlp.weight is None for layer in joined.joined_layers(layers))
    apart = rollout(looking, phantom_cases(looking, 2), draws=4, max_turn_tokens=16)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.token_ids, other.token_ids)
        torch.testing.assert_close(one.behaviour_logprobs, other.behaviour_logprobs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    scores = torch.tensor([[float("-inf"), 0.3, float("-inf"), 1e-3, float("-inf")]])
    (token,), (logprob,) = _draw(scores, [SimpleNamespace(uniforms=[uniform], drawn=0)], False)
    assert token == (1 if uniform <= 0.5 else 3)  # 1 has 0.57 of the mass
    assert logprob == torch.log_softmax(scores, -1)[0, token]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_parity_of_draws_on_a_gpu_with_a_full_forward_there_and_on_the_cpu(looking: LookingPolicy) -> None:
    policy = LookingPolicy(looking.path, device="cuda")
    episodes = rollout(policy, phantom_cases(policy, 3), draws=8, max_turn_tokens=16)
    with torch.no_grad():
        scored = [policy.score(episodes).logprobs.cpu(), looking.score(episodes).logprobs]
    for row, episode in enumerate(episodes):
        mask = episode.response_mask
        for full in scored:
            got = full[row, : len(episode)][mask]
            torch.testing.assert_close(episode.behaviour_logprobs[mask], got, atol=1e-4, rtol=0)


def test_a_draw_does_not_depend_on_what_else_is_in_the_batch(looking: LookingPolicy) -> None:
    cases = phantom_cases(looking, 3)
    together = rollout(looking, cases, draws=4, address=(7,), max_turn_tokens=16)
    alone = rollout(looking, cases[1:2], draws=4, address=(7,), max_turn_tokens=16)
    other = rollout(looking, cases[1:2], draws=4, address=(8,), max_turn_tokens=16)
    for a, b, c in zip(together[4:8], alone, other, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert b.token_ids.tolist() != c.token_ids.tolist()


def test_a_prompt_that_draws_share_is_read_once(looking: LookingPolicy) -> None:
    cases = phantom_cases(looking, 2)
    read: list[torch.Size] = []
    hook = looking.core.model.language_model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"].shape), with_kwargs=True
    )
    rollout(looking, cases, draws=8, max_turn_tokens=2)
    hook.remove()
    assert read[0][0] == len(cases)
    assert max(shape[1] for shape in read[1:]) < read[0][1]


def test_image_tokens_are_never_drawn(policy: HuggingFacePolicy) -> None:
    episodes = rollout(policy, phantom_cases(policy, 4), draws=4, max_turn_tokens=40)
    drawn = torch.cat([episode.token_ids[episode.response_mask] for episode in episodes])
    spelled = {policy.decode([int(token)]) for token in drawn}
    assert not spelled & {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    assert int(drawn.max()) < len(policy.conversation.tokenizer)


def test_an_episode_cut_at_its_token_limit_is_defective(policy: HuggingFacePolicy) -> None:
    (episode,) = rollout(policy, phantom_cases(policy, 1), draws=1, max_turn_tokens=1)
    assert episode.defect is not None
    assert int(episode.response_mask.sum()) == 1


def test_a_batch_in_which_every_row_ends_at_once_is_a_batch_of_episodes(policy: HuggingFacePolicy) -> None:
    episodes = rollout(policy, phantom_cases(policy, 2), draws=3, max_turn_tokens=1)
    assert [episode.response_mask.sum().item() for episode in episodes] == [1] * 6


def test_rows_without_a_valid_action_end_as_defects_and_leave_the_others_alone(
    looking: LookingPolicy,
) -> None:
    class Mumbling(LookingPolicy):
        def decode(self, token_ids: Sequence[int]) -> str:
            return "mumble" if sum(token_ids) % 2 else super().decode(token_ids)

    mumbling = Mumbling(looking.path)
    cases = phantom_cases(mumbling, 2)
    clear = rollout(looking, cases, draws=8, max_turn_tokens=16)
    mixed = rollout(mumbling, cases, draws=8, max_turn_tokens=16)
    ended = [episode for episode in mixed if "mumble" in episode.turns]
    assert 0 < len(ended) < len(mixed)
    assert all(episode.defect and episode.turns[-1] == "mumble" for episode in ended)
    for a, b in zip(clear, mixed, strict=True):
        if b not in ended:
            assert a.token_ids.tolist() == b.token_ids.tolist()


def test_an_episode_ends_as_too_long_at_the_position_limit(looking: LookingPolicy) -> None:
    cases = phantom_cases(looking, 2)
    free = rollout(looking, cases, draws=8, max_turn_tokens=16)
    prompt = max(len(looking.prompt(case).token_ids) for case in cases)
    looking.max_tokens = prompt + 6
    tight = rollout(looking, cases, draws=8, max_turn_tokens=16)
    assert max(len(episode) for episode in tight) <= prompt + 6
    assert all(len(e.trajectory.fixations) == len(e.pictures) - 1 for e in tight)  # none that was not shown
    for a, b in zip(free, tight, strict=True):
        if len(a) <= prompt + 6:
            assert a.token_ids.tolist() == b.token_ids.tolist()
            assert a.defect == b.defect
        else:
            assert b.defect == "too_long"


def test_a_prompt_that_fills_all_positions_is_an_episode_without_a_turn(looking: LookingPolicy) -> None:
    short, long = phantom_cases(looking, 2)
    long = replace(long, question="candidates " * 60)
    looking.max_tokens = len(looking.prompt(short).token_ids) + 20
    first, second = rollout(looking, [short, long], draws=1, max_turn_tokens=16)
    assert first.turns
    assert (second.defect, second.turns, int(second.response_mask.sum())) == ("too_long", (), 0)
    with torch.no_grad():
        assert looking.score([second]).logprobs.abs().sum() == 0


@pytest.mark.parametrize("corner", [(0, 0), (1, 1)])
def test_a_look_at_less_than_a_patch_is_shown_enlarged(
    policy: HuggingFacePolicy, corner: tuple[int, int]
) -> None:
    class Peering(LookingPolicy):
        def decode(self, token_ids: Sequence[int]) -> str:
            x, y = (side - 1 if far else 0 for side, far in zip(frame, corner, strict=True))
            box = [x, y, x + 1, y + 1]
            return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'

    peering = Peering(policy.path)
    (case,) = phantom_cases(peering, 1)
    frame = peering.frame(case.scene)
    episodes = rollout(peering, [case], draws=4, max_turn_tokens=16, max_looks=1)
    shown = [picture.shape for episode in episodes for picture in episode.pictures[1:]]
    assert shown
    assert all(side % peering.patch == 0 for shape in shown for side in shape[:2])


def test_blanked_looks_change_the_scores_after_them_and_nothing_before(policy: HuggingFacePolicy) -> None:
    (case,) = phantom_cases(policy, 1)
    path = Trajectory((Fixation("", Box((100, 100), (164, 164))),), "solid", "solid")
    seen = write_episode(path, case, policy)
    blank = write_episode(path, replace(case, scene=BlankedScene(case.scene)), policy)
    with torch.no_grad():
        scores = policy.score([seen, blank]).logprobs
    look = len(policy.prompt(case).token_ids) + len(policy.encode(seen.turns[0])) + 1
    torch.testing.assert_close(scores[0, :look], scores[1, :look], atol=TOLERANCE, rtol=0)
    assert (scores[0, look:] - scores[1, look:]).abs().max() > 1e-3


@pytest.mark.parametrize("text", ["<|im_end|>", "<|image_pad|>", "a <|vision_start|> b"])
def test_special_tokens_in_a_question_are_plain_text(policy: HuggingFacePolicy, text: str) -> None:
    (case,) = phantom_cases(policy, 1)
    plain = policy.prompt(case).token_ids
    asked = policy.prompt(replace(case, question=text)).token_ids
    special = set(policy.conversation.tokenizer.all_special_ids)
    assert [i for i in asked if i in special] == [i for i in plain if i in special]
    assert policy.decode(policy.encode(text)) == text
