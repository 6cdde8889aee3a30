"""A client of OpenAI-compatible servers: many requests at once, none paid for twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tamis.errors import RecipeError, TamisError
from tamis.language.replies import Replies, Reply, Unusable, read, usage
from tamis.recipe import Endpoint, Model

REFUSED = "refused_by_endpoint"
FAILED = "no_reply_from_endpoint"
# Seconds before the first repetition, doubled each time; and the longest wait.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
# So many failures one after the other are the server's, not the rows'.
IN_A_ROW = 5
# Likely tokens asked for in each place: what servers offer.
TOP = 20
# Tokens a chat template may add to a message, for the cap.
_PER_MESSAGE = 16
_AGAIN = frozenset({408, 409, 425, 429})
_WRONG = frozenset({401, 403, 404, 405})

# A text, or messages with role and content.
Prompt = str | Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class NoReply:
    """A request without a usable answer: `refused_by_endpoint` or `no_reply_from_endpoint`."""

    reason: str


class SpendCap(TamisError):
    """The cap of requests or tokens is reached; what was paid for is kept."""


def check(model: Model | None, user: str) -> Endpoint:
    """The endpoint of a model. Raises `RecipeError` when it has none or its key is not set."""
    if model is None or model.endpoint is None:
        raise RecipeError(
            f"{user} asks a server: give its model an endpoint with url and model, like "
            "{endpoint: {url: http://localhost:8000/v1, model: NAME}, prompt_style: chat}"
        )
    name = model.endpoint.key_env
    if name is not None and not os.environ.get(name):
        raise RecipeError(f"{user}: the environment variable {name} (key_env) is not set")
    return model.endpoint


def identity(model: Model) -> dict[str, Any]:
    """What determines the replies, as far as can be known from here."""
    assert model.endpoint is not None
    place = {"endpoint": model.endpoint.url.rstrip("/"), "model": model.endpoint.model}
    return {**place, "prompt_style": model.prompt_style}


def turns(prompt: Prompt) -> list[Mapping[str, str]]:
    """A prompt as messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def plain(prompt: Prompt, cue: str = "") -> str:
    """A prompt as one text, the messages joined by blank lines; `cue` is what it ends with."""
    return "\n\n".join([*(turn["content"] for turn in turns(prompt)), *([cue] if cue else [])])


class Client:
    """Asks one server. `paid_requests` and `paid_tokens` count what did not come from the cache."""

    def __init__(self, model: Model, *, first_wait: float = FIRST_WAIT) -> None:
        """`model` has an endpoint; chat style asks chat/completions, plain style completions."""
        self.endpoint = check(model, "an endpoint")
        self.paid_requests = 0
        self.paid_tokens = 0
        self._chat = model.prompt_style == "chat"
        self._replies = Replies(self.endpoint.cache)
        self._first_wait = first_wait
        self._failures = 0
        self._reserved = 0
        self._stopped = threading.Event()
        self._lock = threading.Condition()

    def ask(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        among: Sequence[str] = (),
        cue: str = "",
        done: Callable[[int], None] | None = None,
    ) -> list[Reply | NoReply]:
        """The replies in the order of the prompts, at temperature 0.

        A prompt is text, or messages with role and content. `among` are tokens whose probabilities
        are wanted: then the server tells the 20 likeliest in each place. `cue` is what a prompt in
        plain style ends with. Each reply is kept on disk as it comes, and a request that was
        answered once is not sent again. 429, 5xx, timeouts and unreadable replies are repeated with
        growing waits (`Retry-After` is obeyed); what still fails is a `NoReply`, as is a request
        the server refuses. Raises `SpendCap` before a request that could pass a cap, `TamisError`
        for a wrong key or address and after five failures one after the other. `done` is told of
        each reply.
        """
        bodies = [self._body(prompt, max_tokens, TOP if among else 0, cue) for prompt in prompts]
        self._stopped.clear()
        _ = self._http  # made once, before threads ask for it

        def one(body: dict[str, Any]) -> Reply | NoReply:
            try:
                reply = self._answered(body)
            except BaseException:
                self._stopped.set()  # at once, before another request is sent
                raise
            if done is not None:
                with self._lock:
                    done(1)
            return reply

        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            futures = [pool.submit(one, body) for body in bodies]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # After an error, or Ctrl-C: what is under way is finished and kept, no more sent.
                self._stopped.set()
                _cancel(futures)
        return _results(futures)

    def excess(self, prompt: Prompt, max_tokens: int, cue: str) -> int:
        """0: the tokenizer is the server's, and what it cannot take it refuses."""
        return 0

    def _body(self, prompt: Prompt, max_tokens: int, logprobs: int, cue: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.endpoint.model, "max_tokens": max_tokens}
        body["temperature"] = 0
        told: dict[str, Any] = {"logprobs": logprobs} if logprobs else {}
        if not self._chat:
            return body | {"prompt": plain(prompt, cue)} | told
        told = {"logprobs": True, "top_logprobs": logprobs} if logprobs else {}
        return body | {"messages": turns(prompt)} | told

    def _answered(self, body: dict[str, Any]) -> Reply | NoReply:
        key = self._replies.key(self._url, body)
        kept = self._replies.get(key)
        if kept is not None:
            try:
                return read(kept)
            except Unusable:
                pass  # a file of another version, or damaged: ask again
        most = _most_tokens(body)
        for attempt in range(self.endpoint.retries + 1):
            self._reserve(most)
            spent = 0
            try:
                found = self._send(body)
                spent = usage(found, most)
                reply = read(found)
                self._replies.put(key, found)
                self._count(None)
                return reply
            except Unusable as error:
                told, pause = str(error), error.wait
            except _Refused as error:
                self._count(str(error))
                return NoReply(REFUSED)
            finally:
                self._settle(most, spent)
            if attempt < self.endpoint.retries:
                grown = self._first_wait * 2**attempt
                self._stopped.wait(min(LONGEST_WAIT, grown if pause is None else pause))
                self._check_running()
        self._count(told)
        return NoReply(FAILED)

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise Unusable(f"{type(error).__name__} {error}".strip()) from error
        status = response.status_code
        line = " ".join(response.text[:2000].split())[:200]
        if status in _AGAIN or status >= 500:
            raise Unusable(f"status {status}: {line}", _seconds(response.headers))
        if status in _WRONG or 300 <= status < 400:
            raise TamisError(
                f"{self._url} answers with status {status}: check url, model and key ({line})"
            )
        if status >= 400:
            raise _Refused(f"status {status}: {line}")
        try:
            found = response.json()
        except ValueError as error:
            raise Unusable(f"a reply that is no JSON: {line}") from error
        if not isinstance(found, dict):
            raise Unusable(f"a reply that is no object: {line}")
        return found

    def _reserve(self, most: int) -> None:
        """Wait until the request fits under the caps whatever it costs; raise if it never will."""
        cap_requests, cap_tokens = self.endpoint.most_requests, self.endpoint.most_tokens
        with self._lock:
            while True:
                self._check_running()
                if cap_requests is not None and self.paid_requests >= cap_requests:
                    raise self._cap(f"{cap_requests:,} requests (most_requests)")
                free = cap_tokens is None or self.paid_tokens + self._reserved + most <= cap_tokens
                if free:
                    break
                if not self._reserved:
                    raise self._cap(f"{cap_tokens:,} tokens (most_tokens)")
                # Requests under way may cost less than what is held back for them.
                self._lock.wait(timeout=1.0)
            self.paid_requests += 1
            self._reserved += most

    def _settle(self, most: int, spent: int) -> None:
        with self._lock:
            self._reserved -= most
            self.paid_tokens += spent
            self._lock.notify_all()

    def _cap(self, what: str) -> SpendCap:
        return SpendCap(
            f"the cap of {what} of {self.endpoint.model} is reached after {self.paid_requests:,} "
            f"requests and {self.paid_tokens:,} tokens; what came is kept: raise the cap and run "
            "again to go on"
        )

    def _count(self, failure: str | None) -> None:
        """Raise after too many failures one after the other."""
        with self._lock:
            self._failures = 0 if failure is None else self._failures + 1
            if self._failures >= IN_A_ROW:
                raise TamisError(
                    f"{self._url} failed {self._failures} requests one after the other; what came "
                    f"is kept. The last: {failure}"
                )

    def _check_running(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    @property
    def _url(self) -> str:
        path = "chat/completions" if self._chat else "completions"
        return f"{self.endpoint.url.rstrip('/')}/{path}"

    @cached_property
    def _http(self) -> Any:
        import httpx

        name = self.endpoint.key_env
        headers = {} if name is None else {"Authorization": f"Bearer {os.environ[name]}"}
        return httpx.Client(
            headers=headers,
            timeout=self.endpoint.timeout,
            limits=httpx.Limits(max_connections=self.endpoint.concurrency),
        )


class _Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class _Stopped(Exception):
    """Another request ended the call."""


def _cancel(futures: Sequence[Future[Reply | NoReply]]) -> None:
    for future in futures:
        future.cancel()


def _results(futures: Sequence[Future[Reply | NoReply]]) -> list[Reply | NoReply]:
    """The replies; raises what ended the call, not what it ended."""
    errors = [e for f in futures if not f.cancelled() and (e := f.exception())]
    if errors:
        raise next((e for e in errors if not isinstance(e, _Stopped)), errors[0])
    return [future.result() for future in futures]


def _most_tokens(body: Mapping[str, Any]) -> int:
    """No token is shorter than a byte."""
    said = body.get("messages") or [{"content": body.get("prompt", "")}]
    size = sum(len(turn["content"].encode()) + _PER_MESSAGE for turn in said)
    return size + int(body["max_tokens"])


def _seconds(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for; dates are left to the usual wait."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
