"""A tiny vision-language model that has learned by heart to reply with boxes, here and behind servers."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import make_idefics3

from medeyes_monai.experts.openai_chat import OpenAIChat
from medeyes_monai.experts.vlm import DRILL_PROMPT, SCAN_PROMPT
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.chat import PolicyChat
from medeyes_monai.trajectory import Episode, Trajectory

BOXES = '[{"bbox_2d": [200, 100, 400, 300], "label": "ring"}]'
OPINION = '{"relevant": true, "finding": "ring", "answer": "yes"}'
QUESTIONS = ("Is there a ring?", "Wo ist der Herd? 在哪里", "")
STEPS, RATE = 55, 4e-3


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    """A checkpoint of Idefics3 that replies BOXES to a scan and OPINION to a drill, whatever it is shown."""
    folder = tmp_path_factory.mktemp("talker")
    make_idefics3(folder)
    policy = HuggingFacePolicy(folder, freeze_vision=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _learn(policy)
    policy.core.generation_config.do_sample = True  # so that a server heeds the temperature
    policy.core.generation_config.eos_token_id = policy.end_of_turn
    policy.save(folder)
    return folder


def _learn(policy):
    lessons = [_lesson(policy, *lesson) for lesson in _lessons()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    for _ in range(STEPS):
        scores = policy.score(lessons)
        loss = -scores.logprobs[scores.response_mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()


def _lessons():
    """Questions with pictures of several kinds, and what is to be said."""
    rng = np.random.default_rng(0)
    scan = SCAN_PROMPT.replace("{coordinates}", "relative, from 0 to 1000 along each side")
    for number, question in enumerate(QUESTIONS):
        for prompt, said in ((scan, BOXES), (DRILL_PROMPT, OPINION)):
            noise = rng.integers(0, 256, (56, 56, 3), np.uint8)
            plain = np.full((56, 84, 3), 100 * number, np.uint8)
            yield (plain if number else noise), prompt.replace("{query}", question), said


def _lesson(policy, picture, asked, said):
    before = policy.conversation.prompt(asked, policy.family.picture_ids(picture))
    after = (*policy.encode(said), policy.end_of_turn)
    written = torch.tensor([False] * len(before) + [True] * len(after))
    return Episode(
        case="lesson",
        stream="expert",
        draw=0,
        token_ids=torch.tensor([*before, *after]),
        response_mask=written,
        behaviour_logprobs=torch.zeros(len(written)),
        pictures=(picture,),
        turns=(said,),
        trajectory=Trajectory(),
    )


@pytest.fixture(scope="session")
def chat(talker):
    """The model in this process."""
    return PolicyChat(HuggingFacePolicy(talker), max_tokens=64)


class TinyOpenAIServer:
    """``POST /v1/chat/completions`` with a real model and ``logprobs``, which transformers serve lacks.

    Args:
        chat: Who replies.
    """

    def __init__(self, chat):
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                image, text = asked["messages"][0]["content"]
                with urlopen(image["image_url"]["url"]) as data:  # noqa: S310 - a data URI
                    picture = np.array(Image.open(BytesIO(data.read())).convert("RGB"))
                with lock:
                    (reply,) = chat.ask(picture, text["text"], [asked.get("seed")])
                content = [
                    {"token": reply.text[a:b], "logprob": p, "bytes": list(reply.text[a:b].encode())}
                    for a, b, p in reply.tokens
                ]
                message = {"role": "assistant", "content": reply.text}
                logprobs = {"content": content} if asked.get("logprobs") else None
                body = json.dumps({"choices": [{"message": message, "logprobs": logprobs}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextlib.contextmanager
def serving(chat):
    """Serve a chat while a block runs."""
    server = TinyOpenAIServer(chat)
    try:
        yield server.url
    finally:
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture(scope="session")
def openai_chat(chat):
    """The same model behind a server."""
    with serving(chat) as url:
        yield OpenAIChat(url, "talker", grid=chat.grid, retries=0)
