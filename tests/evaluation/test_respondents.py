"""Who is asked: policies in this process and models behind servers, looking or with one glance."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from policies import phantom_cases

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation import ChatRespondent, PolicyRespondent
from medeyes_monai.evaluation.identity import weights_digest
from medeyes_monai.evaluation.records import record_of
from medeyes_monai.evaluation.respondents import glance_answer
from medeyes_monai.experts.openai_chat import OpenAIChat
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import answer_confidence
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.scenes import Case, ImageScene

LOOK = '<reasoning>a</reasoning><action>{"name":"Gaze","coordinate":[0,0,500,500]}</action>'
ANSWER = "<reasoning>b</reasoning><answer>left</answer>"


@pytest.fixture
def server():
    """A server that replies what ``replies`` holds, by the number of messages, and notes what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        sent, replies, tells = [], [LOOK, ANSWER], True

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.sent.append(body)
            text = self.replies[min(len(body["messages"]) // 2, len(self.replies) - 1)]
            choice = {"message": {"content": text}}
            if self.tells:
                choice["logprobs"] = {"content": [{"token": c, "logprob": -0.01} for c in text]}
            data = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{http.server_port}"
    yield Handler
    http.shutdown()
    http.server_close()


def chat_of(server, **more):
    chat = OpenAIChat(server.url, "m", retries=0, timeout_s=30)
    return ChatRespondent(chat, **more)


def bright(options=()):
    image = torch.full((1, 96, 128), 40, dtype=torch.uint8)
    return Case("q", ImageScene(image, key="a"), "Which half?", "left", options)


def test_a_policy_looks_and_every_answer_keeps_its_probability(looking):
    cases = phantom_cases(looking, 5)
    asked = PolicyRespondent(looking, max_looks=3, max_turn_tokens=6, batch=2).answer(cases)
    whole = PolicyRespondent(looking, max_looks=3, max_turn_tokens=6, batch=5).answer(cases)
    for one, other, case in zip(asked, whole, cases, strict=True):
        assert one.episode.case == case.key
        assert one.episode.turns == other.episode.turns
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert one.confidence == answer_confidence(one.episode, looking.decode)
        assert one.seconds > 0
        row = record_of(0, case, one).to_row()
        assert len(row["turns"]) == len(one.episode.turns)


def test_one_glance_takes_the_whole_reply_and_leaves_the_policy_as_it_was(policy):
    before = policy.instruction
    respondent = PolicyRespondent(policy, protocol="glance", max_turn_tokens=5, instruction="Say: {question}")
    cases = phantom_cases(policy, 3)
    for said in respondent.answer(cases):
        assert said.episode.trajectory.fixations == ()
        assert said.episode.trajectory.answer == said.episode.turns[0].strip()
        chances = said.episode.behaviour_logprobs[said.episode.response_mask]
        assert said.confidence == pytest.approx(math.exp(float(chances.sum())))
    assert policy.instruction == before
    assert respondent.identity["instruction"] == "Say: {question}"
    assert respondent.identity["max_looks"] == 0


@pytest.mark.parametrize(
    ("text", "whole", "read"),
    [
        ("left", True, ("left", None)),
        ("left", False, ("left", "too_long")),
        (" \n", True, (None, "empty")),
        (ANSWER, True, ("left", None)),
        (LOOK, True, (None, "no_answer")),
        ("<answer>left</answer>", True, (None, "missing_reasoning")),
    ],
)
def test_the_reply_to_one_glance_is_the_answer_unless_it_keeps_to_the_protocol(text, whole, read):
    assert glance_answer(text, whole) == read


def test_a_model_behind_a_server_looks_and_is_shown_what_it_asked_for(server):
    (said,) = chat_of(server).answer([bright(("left", "right"))])
    first, second = server.sent
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][:1] == first["messages"]
    assert "A. left\nB. right" in first["messages"][0]["content"][1]["text"]
    assert second["messages"][2]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert first["temperature"] == 0
    path = said.episode.trajectory
    assert (path.answer, said.episode.defect) == ("left", None)
    assert path.boxes == (Box((0, 0), (48, 64)),)
    assert said.episode.turns == (LOOK, ANSWER)
    assert said.confidence == pytest.approx(math.exp(-0.01 * len("left")))
    row = record_of(0, bright(), said).to_row()
    assert [len(turn["logprobs"]) for turn in row["turns"]] == [len(LOOK), len(ANSWER)]


def test_a_server_that_tells_no_probabilities_leaves_confidence_unknown(server):
    server.tells = False
    (said,) = chat_of(server).answer([bright()])
    assert said.confidence is None
    assert record_of(0, bright(), said).to_row()["turns"][1]["logprobs"] == []


def test_a_model_that_looks_too_often_or_speaks_otherwise_gives_no_answer(server):
    (said,) = chat_of(server, max_looks=0).answer([bright()])
    assert (said.episode.trajectory.answer, said.episode.defect) == (None, "no_answer")
    server.replies = ["It is left."]
    (said,) = chat_of(server).answer([bright()])
    assert (said.episode.defect, said.confidence) == ("missing_reasoning", 0.0)
    (said,) = chat_of(server, protocol="glance").answer([bright()])
    assert said.episode.trajectory.answer == "It is left."


def test_settings_of_respondents_that_leave_nothing_to_do_are_refused(server, policy):
    with pytest.raises(ConfigError, match="protocol is gaze or glance, got 'look'"):
        PolicyRespondent(policy, protocol="look")
    with pytest.raises(ConfigError, match=r"holds \{question\}"):
        chat_of(server, instruction="Say!")
    with pytest.raises(ConfigError, match="workers at least 1"):
        chat_of(server, workers=0)


def test_weights_are_told_apart_and_places_are_not(checkpoints, tmp_path):
    policy = HuggingFacePolicy(checkpoints["qwen3_vl"])
    policy.save(tmp_path / "moved")
    moved = HuggingFacePolicy(tmp_path / "moved")
    assert weights_digest(moved) == weights_digest(policy)
    next(iter(moved.parameters())).data += 1e-3
    assert weights_digest(moved) != weights_digest(policy)


def test_an_adapter_is_laid_over_the_weights_and_a_wrong_one_is_named(checkpoints, tmp_path):
    path, target = checkpoints["qwen3_vl"], r".*language_model.*\.(q_proj|v_proj)"
    trained = HuggingFacePolicy(path, lora={"r": 2, "target_modules": target})
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    trained.adapted.save_pretrained(tmp_path / "adapter")
    laid = HuggingFacePolicy(path, adapter=tmp_path / "adapter")
    prompts = [policy.prompt(phantom_cases(policy, 1)[0]) for policy in (trained, laid)]
    logits = [p.start([prompt]).logits for p, prompt in zip((trained, laid), prompts, strict=True)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits[0], HuggingFacePolicy(path).start([prompts[0]]).logits, atol=1e-3)
    with pytest.raises(ConfigError, match=r"absent: lacks adapter_config\.json"):
        HuggingFacePolicy(path, adapter=tmp_path / "absent")
