"""The client of OpenAI-compatible servers, against a real server process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tamis.errors import RecipeError, TamisError
from tamis.language.endpoint import Client, NoReply, SpendCap, check
from tamis.language.replies import Replies, Reply
from tamis.recipe import Model

Serve = Callable[..., str]


def client(url: str, style: str = "chat", **given: Any) -> Client:
    endpoint = {"url": url, "model": "m", "timeout": 2.0, **given}
    model = Model.model_validate({"endpoint": endpoint, "prompt_style": style})
    return Client(model, first_wait=0.01)


def seen(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(url).json()
    return found


def test_replies_are_in_order_and_at_most_so_many_at_once(serve: Serve) -> None:
    url = serve(echo=True, delay=0.05)
    told: list[int] = []
    asked = [f"q{i}" for i in range(12)]
    found = client(url, concurrency=3).ask(asked, max_tokens=4, done=told.append)
    assert [r.text for r in found if isinstance(r, Reply)] == asked
    assert sum(told) == 12
    what = seen(url)
    assert what["at_once"] == 3 and len(what["requests"]) == 12
    body = what["requests"][0]["body"]
    assert what["requests"][0]["path"] == "/v1/chat/completions"
    assert body["model"] == "m" and body["temperature"] == 0 and body["max_tokens"] == 4
    assert body["messages"][0]["role"] == "user"


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_likely_tokens_of_both_kinds(serve: Serve, style: str) -> None:
    url = serve(reply=["3"], top={"3": -0.1, " 4": -2.5})
    (reply,) = client(url, style).ask(["q"], max_tokens=1, among=["a"])
    assert isinstance(reply, Reply)
    assert reply.text == "3" and reply.tokens == (("3", {"3": -0.1, " 4": -2.5}),)
    request = seen(url)["requests"][0]
    if style == "plain":
        assert request["path"] == "/v1/completions" and request["body"]["prompt"] == "q"
    else:
        assert request["body"]["top_logprobs"] == 20 and request["body"]["logprobs"] is True
    (plain,) = client(url, style).ask(["q"], max_tokens=1)
    assert isinstance(plain, Reply) and plain.tokens == ()


@pytest.mark.parametrize("fault", [429, 500, 503, "garbage", "html", "shape", "drop", "hang"])
def test_passing_faults_are_tried_again(serve: Serve, fault: Any) -> None:
    url = serve(echo=True, faults=[fault, fault])
    asking = client(url, timeout=0.5)
    found = asking.ask(["a", "b"], max_tokens=4)
    assert [r.text for r in found if isinstance(r, Reply)] == ["a", "b"]
    assert len(seen(url)["requests"]) == 6 == asking.paid_requests


def test_a_row_that_always_fails_is_no_reply_and_the_others_are(serve: Serve) -> None:
    url = serve(echo=True, faults=[500], forever=True, mark="poison")
    found = client(url, retries=2).ask(["a", "poison", "b"], max_tokens=4)
    assert found[1] == NoReply("no_reply_from_endpoint")
    assert isinstance(found[0], Reply) and isinstance(found[2], Reply)
    assert len(seen(url)["requests"]) == 5
    url = serve(echo=True, faults=[400], forever=True, mark="long")
    found = client(url).ask(["a", "long"], max_tokens=4)
    assert found[1] == NoReply("refused_by_endpoint") and len(seen(url)["requests"]) == 2


def test_a_server_that_fails_everything_ends_the_call(serve: Serve) -> None:
    url = serve(faults=[500], forever=True)
    with pytest.raises(TamisError, match=r"failed 5 requests one after the other.*status 500"):
        client(url, retries=0, concurrency=1).ask([str(i) for i in range(50)], max_tokens=4)
    assert len(seen(url)["requests"]) == 5
    with pytest.raises(TamisError, match="one after the other"):
        client("http://127.0.0.1:9/v1", retries=0).ask([str(i) for i in range(9)], max_tokens=4)


def test_the_key_comes_from_the_environment_and_nowhere_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = serve(key="secret-1234")
    with pytest.raises(RecipeError, match=r"MY_KEY \(key_env\) is not set"):
        client(url, key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret-1234")
    asking = client(url, key_env="MY_KEY", cache=str(tmp_path / "r"))
    assert isinstance(asking.ask(["q"], max_tokens=1)[0], Reply)
    kept = "".join(p.read_text() for p in (tmp_path / "r").rglob("*.json"))
    assert kept and "secret" not in kept
    monkeypatch.setenv("MY_KEY", "another")
    with pytest.raises(TamisError, match="status 401: check url, model and key") as caught:
        client(url, key_env="MY_KEY").ask(["q"], max_tokens=1)
    assert "another" not in str(caught.value)


def test_what_was_answered_once_is_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    url = serve(echo=True)
    folder = tmp_path / "replies"
    client(url, cache=str(folder)).ask(["a", "b"], max_tokens=4)
    again = client(url, cache=str(folder))
    assert [r.text for r in again.ask(["b", "a"], max_tokens=4) if isinstance(r, Reply)] == [
        "b",
        "a",
    ]
    assert again.paid_requests == 0 and len(seen(url)["requests"]) == 2
    # Another question, length or model is another request.
    again.ask(["a"], max_tokens=5)
    client(url, cache=str(folder), model="n").ask(["a"], max_tokens=4)
    assert len(seen(url)["requests"]) == 4
    files = sorted(folder.rglob("*.json"))
    assert len(files) == 4 and not list(folder.rglob("*.tmp"))
    # Another server may hold another model by the same name.
    other = serve(echo=True)
    client(other, cache=str(tmp_path / "replies")).ask(["a"], max_tokens=4)
    assert len(seen(other)["requests"]) == 1
    # A file cut off by a full disk counts as none, and is written anew.
    for path in files:
        path.write_bytes(path.read_bytes()[:7])
    third = client(url, cache=str(folder))
    assert isinstance(third.ask(["a"], max_tokens=4)[0], Reply) and third.paid_requests == 1


def test_failures_are_not_kept(serve: Serve, tmp_path: Path) -> None:
    url = serve(faults=["garbage", 400])
    asking = client(url, cache=str(tmp_path), retries=0)
    assert asking.ask(["a"], max_tokens=4) == [NoReply("no_reply_from_endpoint")]
    assert asking.ask(["a"], max_tokens=4) == [NoReply("refused_by_endpoint")]
    assert isinstance(asking.ask(["a"], max_tokens=4)[0], Reply)
    assert Replies(None).get("0" * 32) is None


def test_the_cap_of_requests_keeps_what_came(serve: Serve, tmp_path: Path) -> None:
    url = serve(echo=True)
    asked = [f"q{i}" for i in range(20)]
    with pytest.raises(SpendCap, match=r"7 requests \(most_requests\) .* raise the cap"):
        client(url, cache=str(tmp_path), most_requests=7).ask(asked, max_tokens=4)
    assert len(seen(url)["requests"]) == 7
    # Cached replies are free: three runs under the cap finish it.
    with pytest.raises(SpendCap):
        client(url, cache=str(tmp_path), most_requests=7).ask(asked, max_tokens=4)
    found = client(url, cache=str(tmp_path), most_requests=7).ask(asked, max_tokens=4)
    assert [r.text for r in found if isinstance(r, Reply)] == asked
    assert len(seen(url)["requests"]) == 20


def test_the_cap_of_tokens_is_never_passed(serve: Serve, tmp_path: Path) -> None:
    # Each request holds back 1 + 16 + 3 tokens; the server says that it took 5.
    url = serve(echo=True, usage=5)
    asking = client(url, cache=str(tmp_path), most_tokens=42, concurrency=4)
    with pytest.raises(SpendCap, match="42 tokens"):
        asking.ask(list("abcdefghij"), max_tokens=3)
    assert asking.paid_tokens == 25 and asking.paid_requests == 5
    # A server that does not say is taken at the most it can have been.
    url = serve(echo=True)
    asking = client(url, most_tokens=42)
    with pytest.raises(SpendCap):
        asking.ask(list("abcdefghij"), max_tokens=3)
    assert asking.paid_tokens == 40


def test_retry_after_is_obeyed_and_waits_end_with_the_call(serve: Serve) -> None:
    url = serve(faults=[429])
    start = time.monotonic()
    model = {"endpoint": {"url": url, "model": "m"}, "prompt_style": "chat"}
    slow = Client(Model.model_validate(model), first_wait=30.0)
    assert isinstance(slow.ask(["q"], max_tokens=1)[0], Reply)
    assert time.monotonic() - start < 5


def test_a_local_model_is_no_endpoint() -> None:
    with pytest.raises(RecipeError, match="judge asks a server"):
        check(Model(path=os.sep, prompt_style="chat"), "judge")
