"""Asking a server for JSON: pauses between tries, addresses, tokens."""

import logging
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from expert_scenes import QUERY, make_scene
from expert_servers import HEALTH

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.remote import RemoteExpert
from medeyes_monai.experts.remote_http import JsonService

# Pauses.


def pauses(scripted, monkeypatch, replies, **arguments):
    slept = []
    monkeypatch.setattr("medeyes_monai.experts.remote_http.time", SimpleNamespace(sleep=slept.append))
    scripted.replies = replies
    service = JsonService(scripted.url, **arguments)
    try:
        service.ask("/x", {}, lambda reply: reply, who="me", address=("case", 1))
    except ExpertError as error:
        return slept, str(error)
    return slept, None


def test_pauses_double_and_are_shortened_by_up_to_a_half_by_address(scripted, monkeypatch):
    arguments = {"retries": 6, "backoff_s": 1.0, "longest_wait_s": 10.0}
    slept, _ = pauses(scripted, monkeypatch, [(500, {}, b"")], **arguments)
    for pause, longest in zip(slept, [1, 2, 4, 8, 10, 10], strict=True):
        assert longest / 2 <= pause <= longest
    assert slept == pauses(scripted, monkeypatch, [(500, {}, b"")], **arguments)[0]
    assert slept != pauses(scripted, monkeypatch, [(500, {}, b"")], seed=1, **arguments)[0]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_waited_for(scripted, monkeypatch, status):
    slept, error = pauses(scripted, monkeypatch, [(status, {"Retry-After": "7"}, b""), {}])
    assert (slept, error) == ([7.0], None)
    date = formatdate(time.time() + 30, usegmt=True)
    slept, error = pauses(scripted, monkeypatch, [(status, {"Retry-After": date}, b""), {}])
    assert 25 < slept[0] <= 30


def test_a_server_that_asks_to_wait_too_long_is_given_up(scripted, monkeypatch):
    slept, error = pauses(scripted, monkeypatch, [(503, {"Retry-After": "3600"}, b"")])
    assert slept == []
    assert "answered 503, asks to wait 3600 s; tried once" in error


def test_tries_are_logged_without_what_was_asked(scripted, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, "medeyes_monai"):
        pauses(scripted, monkeypatch, [(503, {}, b""), {}])
    assert "me at http://127.0.0.1" in caplog.text
    assert "case" not in caplog.text


# Addresses and tokens.


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "host:80",
        "",
        "http://host:99999",
        "http://[::1",
        "http://a b",
        "http://host/?q=secret",
        "http://host/#secret",
        "http://user:secret@host",
        "https://secret@host",
        "http://user:secret@host:port",
        "http://host/a\r\nsecret: 1",
    ],
)
def test_a_url_that_is_not_plain_http_is_refused_without_being_quoted(url):
    with pytest.raises(ConfigError) as error:
        RemoteExpert(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [{"timeout_s": 0}, {"retries": -1}, {"backoff_s": -1}, {"longest_wait_s": -1}, {"max_reply_bytes": 0}],
)
def test_limits_that_leave_nothing_to_do_are_refused(arguments):
    with pytest.raises(ConfigError, match="must be above 0"):
        RemoteExpert("http://127.0.0.1:1", **arguments)


def test_a_token_is_sent_and_never_shown(scripted, monkeypatch, caplog):
    monkeypatch.setenv("THE_TOKEN", "s3cret-token")
    scripted.replies = [HEALTH, (401, {}, b"{}")]
    expert = RemoteExpert(scripted.url, token_env="THE_TOKEN")  # noqa: S106
    with pytest.raises(ExpertError, match="answered 401") as error:
        expert.scan(make_scene(), QUERY)
    assert [headers["Authorization"] for _, headers, _ in scripted.asked] == ["Bearer s3cret-token"] * 2
    everything = f"{error.value} {expert.name} {vars(expert)} {vars(expert.service)} {caplog.text}"
    assert "s3cret" not in everything


@pytest.mark.parametrize("token", ["", "two words", "a\r\nHost: evil", "schlüssel"])
def test_a_token_that_is_none_is_refused_without_being_quoted(monkeypatch, token):
    monkeypatch.setenv("THE_TOKEN", token)
    with pytest.raises(ConfigError, match="THE_TOKEN does not hold a token") as error:
        RemoteExpert("http://127.0.0.1:1", token_env="THE_TOKEN")  # noqa: S106
    assert not token or token not in str(error.value)


def test_a_token_does_not_leave_this_machine_in_clear_text(monkeypatch):
    monkeypatch.setenv("THE_TOKEN", "abc")
    with pytest.raises(ConfigError, match="clear text"):
        RemoteExpert("http://expert.hospital:80", token_env="THE_TOKEN")  # noqa: S106
    RemoteExpert("https://expert.hospital", token_env="THE_TOKEN")  # noqa: S106
