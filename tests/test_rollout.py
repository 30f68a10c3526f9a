from dataclasses import replace

import pytest
import torch
from conftest import phantom_cases

from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy, Segment
from medeyes_monai.rollout import rollout
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


def test_a_draw_does_not_depend_on_what_else_is_in_the_batch(policy: HuggingFacePolicy) -> None:
    cases = phantom_cases(policy, 3)
    together = rollout(policy, cases, draws=2, address=(7,), max_turn_tokens=10)
    alone = rollout(policy, cases[1:2], draws=2, address=(7,), max_turn_tokens=10)
    other = rollout(policy, cases[1:2], draws=2, address=(8,), max_turn_tokens=10)
    for a, b, c in zip(together[2:4], alone, other, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert b.token_ids.tolist() != c.token_ids.tolist()


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
