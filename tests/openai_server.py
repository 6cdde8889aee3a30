"""A small server that speaks the OpenAI protocol, with faults on demand; run as a process.

`python openai_server.py SCRIPT` prints its port and answers by the JSON file SCRIPT: `reply`, the
texts of the first, second ... request of the same content; `echo`, the last message instead;
`by_content`, texts for requests that hold a mark; `faults`, what goes wrong at the first tries of
each content (a status, "hang", "garbage", "html", "shape", "drop"), of requests that hold `mark` if
there is one, `forever` if the last one stays; `top`, log-probabilities of likely tokens; `key`, the
key that is needed; `usage`, tokens it says a reply took; `delay` in seconds; `cut`, what a text
ends with that was cut off. GET tells the requests
it had and how many at once.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SCRIPT = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
LOCK = threading.Lock()
TRIES: Counter[str] = Counter()
SEEN: dict[str, Any] = {"requests": [], "at_once": 0, "under_way": 0}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        with LOCK:
            self._send(200, SEEN)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = json.dumps(body, sort_keys=True)
        with LOCK:
            SEEN["requests"].append({"path": self.path, "body": body})
            SEEN["under_way"] += 1
            SEEN["at_once"] = max(SEEN["at_once"], SEEN["under_way"])
            tried = TRIES[content]
            TRIES[content] += 1
        try:
            self._answer(body, tried)
        finally:
            with LOCK:
                SEEN["under_way"] -= 1

    def _answer(self, body: dict[str, Any], tried: int) -> None:
        time.sleep(SCRIPT.get("delay", 0))
        if SCRIPT.get("key") and self.headers.get("authorization") != f"Bearer {SCRIPT['key']}":
            self._send(401, {"error": {"message": "wrong key"}})
            return
        said = json.dumps(body)
        faults = SCRIPT.get("faults", []) if SCRIPT.get("mark", "") in said else []
        place = min(tried, len(faults) - 1) if SCRIPT.get("forever") else tried
        if faults and place < len(faults):
            self._fail(faults[place])
            return
        replies = SCRIPT.get("reply", ["ok"])
        text = replies[min(tried, len(replies) - 1)]
        if SCRIPT.get("echo"):
            text = (body.get("messages") or [{"content": body.get("prompt")}])[-1]["content"]
        for mark, given in SCRIPT.get("by_content", {}).items():
            if mark in said:
                text = given
        self._send(200, _completion(body, text))

    def _fail(self, fault: Any) -> None:
        if isinstance(fault, int):
            self._send(fault, {"error": {"message": "on purpose"}}, {"Retry-After": "0.01"})
        elif fault == "hang":
            time.sleep(5)
            self.close_connection = True
        elif fault == "garbage":
            self._raw(200, b"{'not json")
        elif fault == "html":
            self._raw(200, b"<html>busy</html>")
        elif fault == "shape":
            self._send(200, {"object": "error", "choices": []})
        elif fault == "drop":
            self.close_connection = True
            self.connection.close()

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(value).encode(), headers)

    def _raw(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def _completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    top = SCRIPT.get("top")
    usage = {"usage": {"total_tokens": SCRIPT["usage"]}} if "usage" in SCRIPT else {}
    end = {"finish_reason": "length" if text.endswith(SCRIPT.get("cut", "\0")) else "stop"}
    if "messages" not in body:
        told = {"tokens": [text], "top_logprobs": [top]} if body.get("logprobs") and top else None
        return {"choices": [{"text": text, "logprobs": told, **end}], **usage}
    told = None
    if body.get("logprobs") and top:
        likely = [{"token": token, "logprob": p} for token, p in top.items()]
        told = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": likely}]}
    message = {"role": "assistant", "content": text}
    return {"choices": [{"message": message, "logprobs": told, **end}], **usage}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
