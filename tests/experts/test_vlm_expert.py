"""A vision-language model as an expert: what it writes is read strictly, and a real one is asked."""

import json
import math
import socket
import time
import warnings
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
from expert_chats import BOXES, OPINION
from expert_scenes import QUERY, bare_scene, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import Verdict, checked
from medeyes_monai.experts.contract import check_expert
from medeyes_monai.experts.openai_chat import OpenAIChat
from medeyes_monai.experts.vlm import VLMExpert
from medeyes_monai.experts.vlm_chat import Reply
from medeyes_monai.experts.vlm_reading import Opinion, Pointed, read_boxes, read_opinion
from medeyes_monai.experts.vlm_votes import Vote, elect, settle
from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.chat import PolicyChat
from medeyes_monai.scenes import ImageScene

REGION = Box((100, 60), (200, 160))


def other_scene():
    return ImageScene(make_scene().image.flip(1), key="scene-0")


class Written:
    """A model that has written its replies already, and keeps what it was asked."""

    name, grid = "written", 28

    def __init__(self, *replies):
        self.replies, self.asked = [r if isinstance(r, Reply) else Reply(r) for r in replies], []

    def ask(self, picture, text, seeds):
        self.asked.append((picture, text, tuple(seeds)))
        return self.replies


def boxes(*corners, key="bbox_2d"):
    return json.dumps([{key: list(c), "label": f"nr {n}"} for n, c in enumerate(corners)])


# Reading.


def test_boxes_are_read_with_their_words_and_the_place_of_their_numbers():
    text = '[{"bbox_2d": [1, 2, 30, 40], "label": "a \\"box\\": [1]"}, {"label": "b", "box": [5.4,5.5,9,9]}]'
    first, second = read_boxes(text, (50, 50))
    assert first == Pointed(Box((1, 2), (30, 40)), 'a "box": [1]', (14, 26))
    assert (second.box, second.label) == (Box((5, 6), (9, 9)), "b")
    assert [text[a:b] for a, b in (first.span, second.span)] == ["1, 2, 30, 40", "5.4,5.5,9,9"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 400),
            st.integers(1, 600),
            st.integers(1, 600),
            st.text(max_size=9),
        ),
        max_size=6,
    ),
    st.sampled_from(["{}", "```json\n{}\n```", "```\n{}```", " {} \n"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_well_written_is_read_back(items, around):
    written = [{"bbox_2d": [x, y, x + w, y + h], "label": label} for x, y, w, h, label in items]
    text = around.format(json.dumps(written))
    read = read_boxes(text, (1000, 1000))
    assert [(list(p.box.corners), p.label) for p in read] == [(w["bbox_2d"], w["label"]) for w in written]
    assert [json.loads(f"[{text[a:b]}]") for a, b in (p.span for p in read)] == [
        w["bbox_2d"] for w in written
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "There is one: " + boxes((1, 2, 3, 4)),
        boxes((1, 2, 3, 4)) + " I hope this helps.",
        boxes((1, 2, 3, 4))[:-1],
        "null",
        "{}",
        "[1, 2, 3, 4]",
        "[[1, 2, 3, 4]]",
        '[{"label": "ring"}]',
        '[{"bbox_2d": [1, 2, 3], "label": "ring"}]',
        '[{"bbox_2d": [1, 2, 3, 4, 5, 6]}]',
        '[{"bbox_2d": ["1", 2, 3, 4]}]',
        '[{"bbox_2d": [true, 2, 3, 4]}]',
        '[{"bbox_2d": [NaN, 2, 3, 4]}]',
        '[{"bbox_2d": [1e999, 2, 3, 4]}]',
        '[{"bbox_2d": "1 2 3 4"}]',
        '[{"bbox_2d": null}]',
        '[{"bbox_2d": [1, 2, 3, 4], "box": [1, 2, 3, 4]}]',
        '[{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 4]}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": 5}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "' + "a" * 1001 + '"}]',
        boxes((3, 2, 1, 4)),
        boxes((1, 1, 1, 1)),
        boxes((-1, 2, 3, 4)),
        boxes((1, 2, 3, 101)),
        boxes(*[(1, 2, 3, 4)] * 101),
        "[" * 100_000,
        " " * 20_001,
        boxes((1, 2, 3, 4), (1, 2, 3, 101)),
    ],
)
def test_a_reply_that_is_malformed_anywhere_is_no_reply(text):
    with pytest.raises(ValueError, match=r"^(no |a box|an element|label|more than)"):
        read_boxes(text, (100, 100))


def test_an_opinion_is_read_with_the_place_of_its_values():
    text = '```json\n{"relevant": true, "finding": "a \\"ring\\"", "answer": null}\n```'
    opinion = read_opinion(text)
    assert opinion == Opinion(True, 'a "ring"', None, opinion.spans)
    assert [text[a:b] for a, b in opinion.spans] == ["true", '"a \\"ring\\""', "null"]


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "[]",
        "{}",
        '{"relevant": 1, "finding": "ring"}',
        '{"relevant": true}',
        '{"relevant": true, "finding": null}',
        '{"relevant": true, "finding": "ring", "answer": 3}',
        OPINION + OPINION,
    ],
)
def test_an_opinion_that_is_malformed_is_none(text):
    with pytest.raises(ValueError, match=r"^(no |finding|answer)"):
        read_opinion(text)


# Votes.


def test_a_draw_counts_once_at_a_place_and_the_box_with_most_behind_it_is_taken():
    middle, left, right = Box((2, 0), (12, 10)), Box((0, 0), (10, 10)), Box((4, 0), (14, 10))
    assert (left.iou(middle), left.iou(right)) == (80 / 120, 60 / 140)
    votes = [
        Vote(0, left, "left", 1.0),
        Vote(0, left, "again", 1.0),
        Vote(1, middle, "middle", 1.0),
        Vote(2, right, "right", 1.0),
    ]
    (one,) = elect(votes, draws=4)
    assert (one.box, one.finding, one.confidence) == (middle, "middle", 3 / 4)


def test_weights_of_draws_are_added_and_divided_by_all_draws():
    here, there = Box((0, 0), (10, 10)), Box((50, 0), (60, 10))
    votes = [Vote(0, here, "a", 0.5), Vote(1, here, "b", 0.3), Vote(1, there, "c", 0.9)]
    assert [(c.finding, c.confidence) for c in elect(votes, draws=2)] == [("c", 0.45), ("a", 0.4)]
    assert elect([], draws=2) == ()


def test_opinions_agree_by_answer_and_only_relevant_ones_count():
    yes, blind = Opinion(True, "ring", "Yes ", ()), Opinion(False, "noise", "yes", ())
    no, silent = Opinion(True, "disc", "no", ()), Opinion(True, "yes", None, ())
    assert settle([(no, 1.0), (blind, 1.0), (yes, 1.0)], draws=4) == Verdict(0.25, "ring", "Yes ")
    assert settle([(blind, 1.0)], draws=1) == Verdict(0.0, "noise", "yes")
    assert settle([(silent, 0.5)], draws=1) == Verdict(0.5, "yes", None)


# The expert, with replies of known form.


@pytest.mark.parametrize(
    ("coordinates", "corners"), [("relative", (250, 500, 750, 1000)), ("pixels", (126, 196, 378, 392))]
)
def test_boxes_come_back_in_voxels_of_the_scene_from_either_frame(coordinates, corners):
    chat = Written(boxes(corners), boxes(corners, key="box"))
    expert = VLMExpert(chat, draws=2, confidence="agreement", coordinates=coordinates)
    (candidate,) = checked.scan(expert, make_scene(), QUERY)
    picture, text, _ = chat.asked[0]
    assert picture.shape == (392, 504, 3)  # 512 x 400 in squares of 28, at most 448 x 448 pixels
    assert candidate.box == Box((128, 200), (384, 400))
    assert ("504 wide and 392 high" in text) == (coordinates == "pixels")
    assert text.startswith(QUERY)


def test_the_confidence_of_a_box_is_the_mean_probability_of_its_digits():
    text = boxes((10, 20, 300, 400))
    tokens = [(n, n + 1, math.log(0.5) if text[n].isdigit() else -9.0) for n in range(len(text))]
    at = text.index("300")
    tokens[at] = (at, at + 1, math.log(0.125))
    expert = VLMExpert(Written(Reply(text, tuple(tokens))))
    (candidate,) = expert.scan(make_scene(), QUERY)
    assert candidate.confidence == pytest.approx(math.exp((9 * math.log(0.5) + math.log(0.125)) / 10))


def test_the_share_of_draws_is_of_all_draws_also_of_those_that_cannot_be_read():
    chat = Written(boxes((0, 0, 500, 500)), "nonsense", boxes((0, 0, 480, 500)), "[]")
    expert = VLMExpert(chat, draws=4, confidence="agreement")
    (candidate,) = expert.scan(make_scene(), QUERY)
    assert (candidate.finding, candidate.confidence) == ("nr 0", 0.5)


def test_a_call_of_which_no_draw_can_be_read_is_an_error_that_names_expert_and_model_and_quotes_nothing():
    chat = Written("Mr. Smith has a ring", boxes((0, 0, 5000, 5)))
    expert = VLMExpert(chat, draws=2, confidence="agreement")
    told = rf"^{expert.name}: written gave no readable reply in 2: no JSON; a box is not inside the frame"
    with pytest.raises(ExpertError, match=told) as error:
        expert.scan(make_scene(), QUERY)
    assert "Smith" not in str(error.value)
    with pytest.raises(ExpertError, match="no readable reply"):
        expert.drill(make_scene(), REGION, QUERY)


def test_nothing_to_see_is_a_reply():
    assert VLMExpert(Written("[]")).scan(make_scene(), QUERY) == ()


def test_a_drill_shows_the_crop_and_asks_for_an_opinion():
    chat = Written(OPINION, OPINION.replace("yes", "no"), OPINION.replace("true", "false"))
    verdict = VLMExpert(chat, draws=3, confidence="agreement").drill(
        make_scene(), Box((136, 86), (164, 114)), QUERY
    )
    assert verdict == Verdict(1 / 3, "ring", "yes")
    picture, text, _ = chat.asked[0]
    assert picture.mean() > 180  # the bright spot fills the crop
    assert text.startswith(QUERY)


def test_one_draw_takes_the_likeliest_words_and_several_have_seeds_that_belong_to_what_is_asked():
    one, three = Written("[]"), Written("[]", "[]", "[]")
    VLMExpert(one).scan(make_scene(), QUERY)
    assert one.asked[0][2] == (None,)
    expert = VLMExpert(three, draws=3, confidence="agreement")
    for scene, query in (
        (make_scene(), QUERY),
        (make_scene(), QUERY),
        (make_scene(), "else"),
        (other_scene(), QUERY),
    ):
        expert.scan(scene, query)
    seeds = [asked[2] for asked in three.asked]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2], *seeds[3]}) == 9


def test_a_model_that_does_not_tell_probabilities_needs_several_draws():
    with pytest.raises(ExpertError, match=r"written does not tell the probabilities .* 'agreement'"):
        VLMExpert(Written(BOXES)).scan(make_scene(), QUERY)
    with pytest.raises(ExpertError, match="asked for 1 replies, got 2"):
        VLMExpert(Written("[]", "[]")).scan(make_scene(), QUERY)


def test_scenes_without_a_picture_are_refused():
    with pytest.raises(ExpertError, match="takes pictures"):
        VLMExpert(Written("[]")).scan(make_volume(), QUERY)
    with pytest.raises(ExpertError, match="needs the voxels"):
        VLMExpert(Written("[]")).scan(bare_scene(), QUERY)


@pytest.mark.parametrize(
    "arguments",
    [
        {"draws": 0},
        {"pixels": 0},
        {"max_candidates": 0},
        {"confidence": "feeling"},
        {"coordinates": "miles"},
        {"confidence": "agreement"},
        {"scan_prompt": "where?"},
        {"drill_prompt": "what?"},
    ],
)
def test_settings_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError):
        VLMExpert(Written(), **arguments)


def test_settings_that_change_replies_change_the_name():
    others = [
        {},
        {"seed": 1},
        {"draws": 2},
        {"coordinates": "pixels"},
        {"pixels": 9999},
        {"scan_prompt": "{query}"},
    ]
    names = {VLMExpert(Written(), **other).name for other in others}
    renamed = Written()
    renamed.name = "another"
    assert len(names | {VLMExpert(renamed).name}) == len(others) + 1


# A real model, in this process and behind real servers.


def test_a_model_in_this_process_is_asked_and_its_probabilities_are_its_own(chat):
    expert, scene = VLMExpert(chat, pixels=112 * 112), make_scene()
    (candidate,) = check_expert(expert, scene, QUERY)
    assert candidate.box == Box((102, 40), (205, 120))  # 200..400 and 100..300 thousandths of 512 x 400
    assert candidate.finding == "ring"
    assert 0.5 < candidate.confidence < 1
    assert expert.drill(scene, REGION, QUERY).answer == "yes"


def test_a_reply_belongs_to_its_seed_alone_and_carries_the_models_own_log_probabilities(chat):
    picture = make_scene().overview().pixels
    policy = chat.policy
    together = chat.ask(picture, QUERY, [3, None, 4])
    apart = [chat.ask(picture, QUERY, [seed])[0] for seed in (3, None, 4)]
    assert [reply.text for reply in together] == [reply.text for reply in apart]
    assert together[0].text != together[2].text
    reply = together[1]
    assert "".join(reply.text[a:b] for a, b, _ in reply.tokens) == reply.text
    decoder = policy.start([policy_prompt(policy, picture)])
    first = decoder.logits.log_softmax(-1).max()
    assert reply.tokens[0][2] == pytest.approx(float(first), abs=1e-5)


def policy_prompt(policy, picture):
    ids = policy.conversation.prompt(QUERY, policy.family.picture_ids(picture))
    return SimpleNamespace(token_ids=ids, pictures=(picture,))


def test_replies_end_at_the_limit(talker, chat):
    short = PolicyChat(HuggingFacePolicy(talker), max_tokens=5)
    (reply,) = short.ask(make_scene().overview().pixels, QUERY, [None])
    assert len(reply.tokens) == 5
    assert short.name != chat.name
    with pytest.raises(ExpertError, match="leaves no room"):
        short.ask(make_scene().overview().pixels, QUERY * 1000, [None])
    with pytest.raises(ConfigError):
        PolicyChat(chat.policy, max_tokens=0)


def test_a_model_behind_a_server_with_logprobs_says_what_it_says_in_process(chat, openai_chat):
    scene = make_scene()
    here, there = VLMExpert(chat, pixels=112 * 112), VLMExpert(openai_chat, pixels=112 * 112)
    for seed in (None, 7):
        picture = scene.overview().pixels
        (mine,), (other,) = (c.ask(picture, "Wo ist der Herd? 在哪里", [seed]) for c in (chat, openai_chat))
        assert mine.text == other.text
        assert {t for t in mine.tokens if t[0] < t[1]} == {t for t in other.tokens if t[0] < t[1]}
    (mine,), (other,) = here.scan(scene, QUERY), there.scan(scene, QUERY)
    assert (mine.box, mine.confidence) == (other.box, pytest.approx(other.confidence, abs=1e-9))
    drilled = there.drill(scene, REGION, QUERY)
    assert drilled.confidence == pytest.approx(here.drill(scene, REGION, QUERY).confidence, abs=1e-9)
    assert 0 < drilled.confidence < 1


@pytest.fixture(scope="module")
def transformers_serve(talker):
    """``transformers serve`` with the tiny model, at a real port."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers serve needs the extra 'serving' of transformers")
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = Serve(
            force_model=str(talker),
            host="127.0.0.1",
            port=port,
            device="cpu",
            dtype="float32",
            non_blocking=True,
        )
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            with urlopen(f"{url}/health", timeout=5):  # noqa: S310
                break
        except OSError:
            time.sleep(0.1)
    yield url
    server.kill_server()


@pytest.mark.filterwarnings("ignore")  # what the server warns of is its own affair
def test_a_model_behind_transformers_serve_is_asked(transformers_serve, talker):
    chat = OpenAIChat(transformers_serve, str(talker), grid=28, max_tokens=64, temperature=0.3, retries=0)
    scene = make_scene()
    expert = VLMExpert(chat, draws=2, confidence="agreement", pixels=112 * 112)
    (candidate, *_) = checked.scan(expert, scene, QUERY)
    assert candidate.box.iou(Box((102, 40), (205, 120))) > 0.9
    assert candidate.confidence in (0.5, 1.0)
    assert checked.drill(expert, scene, REGION, QUERY).answer == "yes"
    (likeliest,) = chat.ask(scene.overview().pixels, QUERY, [None])
    assert likeliest.tokens is None  # it tells no probabilities
    with pytest.raises(ExpertError, match=r"answered 400 .*pinned"):
        VLMExpert(OpenAIChat(transformers_serve, "another", retries=0)).scan(scene, QUERY)


def test_what_a_server_says_is_read_strictly(scripted):
    message = {"message": {"content": "[]"}}
    token = {"token": "[]", "logprob": -0.5}
    good = [
        {"choices": [message]},
        {"choices": [{**message, "logprobs": None}]},
        {"choices": [{**message, "logprobs": {"content": [token]}}]},
        {"choices": [{**message, "logprobs": {"content": [{"token": "<s> "}, token, {"token": "</s>"}]}}]},
    ]
    for other in good[3]["choices"][0]["logprobs"]["content"][::2]:
        other["logprob"] = -1
    scripted.replies = [*good, {}]
    chat = OpenAIChat(scripted.url, "m", retries=0)
    replies = [chat.ask(np.zeros((28, 28, 3), np.uint8), "?", [5])[0] for _ in good]
    assert replies[:3] == [Reply("[]"), Reply("[]"), Reply("[]", ((0, 2, -0.5),))]
    assert [t for t in replies[3].tokens if t[0] < t[1]] == [(0, 2, -0.5)]
    asked = json.loads(scripted.asked[0][2])
    assert (asked["seed"], asked["temperature"], asked["logprobs"], asked["stream"]) == (5, 0.7, True, False)
    assert asked["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    mad = [
        {},
        {"choices": []},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": {"content": ["[]"]}}]},
        {"choices": [{**message, "logprobs": {"content": [{"token": "[]", "logprob": 0.5}]}}]},
        {"choices": [{**message, "logprobs": {"content": [{"token": "[]"}]}}]},
        {"choices": [{**message, "logprobs": {"content": [{**token, "bytes": [300]}]}}]},
    ]
    for reply in mad:
        scripted.replies = [reply]
        with pytest.raises(ExpertError, match=r"^m at .*makes no sense"):
            chat.ask(np.zeros((28, 28, 3), np.uint8), "?", [None])


def test_tokens_that_are_parts_of_a_character_are_placed_all_the_same(scripted):
    said = '[{"label": "在", "box": [1, 2, 3, 4]}]'
    data = said.encode()
    pieces = [data[n : n + 1] for n in range(len(data))]
    content = [{"token": "?", "bytes": list(piece), "logprob": -float(n)} for n, piece in enumerate(pieces)]
    scripted.replies = [{"choices": [{"message": {"content": said}, "logprobs": {"content": content}}]}]
    (reply,) = OpenAIChat(scripted.url, "m").ask(np.zeros((28, 28, 3), np.uint8), "?", [None])
    at = data.index(b"1")
    assert (said.index("1"), said.index("1") + 1, -float(at)) in reply.tokens


@pytest.mark.parametrize("arguments", [{"temperature": 0}, {"max_tokens": 0}, {"grid": 0}])
def test_a_chat_that_cannot_reply_is_refused(arguments):
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        OpenAIChat("http://127.0.0.1:1", "m", **arguments)
