"""A real HTTP server on 127.0.0.1 that speaks OpenAI's protocol, and can fail in the ways that servers do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

Kind = Literal["status", "text", "hang", "trickle", "drop", "truncate", "no choices"]


class Fault(NamedTuple):
    """Kind of failure: a status with JSON or any text, no answer or one without end, or half an answer."""

    kind: Kind
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "an injected fault"


class ReceivedRequest(NamedTuple):
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


Answer = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass
class Server:
    """State of a running server and the requests that it received."""

    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    answered: int = 0
    in_flight: int = 0
    peak: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)


def question(body: dict[str, Any]) -> str:
    """Return the content of a request in either format."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def choice(path: str, text: str, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    """Return an answer of the protocol with one choice."""
    content = {"message": {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
    return {"id": "x", "choices": [{"index": 0, "finish_reason": finish_reason, **content, **more}]}


def parrot(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Answer with the question."""
    return choice(path, f"About {question(body)}")


def _handler(
    server: Server, answer: Answer, fault: Callable[[int, dict[str, Any]], Fault | None], delay: float
) -> type:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.requests.append(ReceivedRequest(self.path, dict(self.headers), body, time.monotonic()))
                number = len(server.requests)
                server.in_flight += 1
                server.peak = max(server.peak, server.in_flight)
            failure = fault(number, body)
            server.closing.wait(delay)
            with server.lock:  # before the answer: the client may send its next request at once
                server.in_flight -= 1
            self._reply(body, failure)

        def _reply(self, body: dict[str, Any], failure: Fault | None) -> None:
            if failure is None:
                with server.lock:
                    server.answered += 1
                self._send(200, json.dumps(answer(self.path, body)).encode())
            elif failure.kind == "status":
                text = json.dumps({"error": {"message": failure.message, "code": None}})
                self._send(failure.status, text.encode(), headers=failure.headers)
            elif failure.kind == "text":
                self._send(failure.status, failure.message.encode(), headers=failure.headers)
            elif failure.kind == "hang":
                server.closing.wait(30)
                self.close_connection = True
            elif failure.kind == "trickle":
                self._send(200, b"{", length=10_000)
                while not server.closing.wait(0.05):
                    self.wfile.write(b" ")
            elif failure.kind == "no choices":
                self._send(200, b'{"choices": []}')
            else:
                whole = json.dumps(answer(self.path, body)).encode()
                half = whole[: len(whole) // 2]
                self._send(200, half, length=len(whole) if failure.kind == "drop" else len(half))
                self.close_connection = failure.kind == "drop"

        def _send(
            self, status: int, body: bytes, *, length: int | None = None, headers: tuple[tuple[str, str], ...] = ()
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def serving(
    answer: Answer = parrot,
    *,
    fault: Callable[[int, dict[str, Any]], Fault | None] = lambda _number, _body: None,
    delay: float = 0.0,
) -> Generator[Server]:
    """Serve on a free port while the block runs; every request takes `delay` seconds at least."""
    server = Server()
    with _Quiet(("127.0.0.1", 0), _handler(server, answer, fault, delay)) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            http.shutdown()
            thread.join()


def in_order(faults: list[Fault | None]) -> Callable[[int, dict[str, Any]], Fault | None]:
    """Return a function that fails the first requests with these faults in order."""
    remaining: Iterator[Fault | None] = iter(faults)
    return lambda _number, _body: next(remaining, None)


def model_answer(engine: Any) -> Answer:
    """Return a function that answers with a Hugging Face engine's model, with vLLM's fields if requested."""
    import torch

    from derta.engines.decoding import decode
    from derta.engines.hf_engine import stop_tokens
    from derta.engines.sampling import Draws

    tokenizer, lock = engine.chat.tokenizer, threading.Lock()

    def prompt_ids(body: dict[str, Any]) -> list[int]:
        if "messages" in body:
            continued = body.get("continue_final_message", False)
            text = tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=not continued, continue_final_message=continued
            )
            return tokenizer.encode(text, add_special_tokens=False)
        return body["prompt"] if isinstance(body["prompt"], list) else tokenizer.encode(body["prompt"])

    def log_probs(token_ids: list[int]) -> list[float | None]:
        with torch.no_grad():
            table = engine.model(torch.tensor([token_ids])).logits[0].log_softmax(dim=-1)
        following = torch.tensor(token_ids[1:])
        last = table[-1].max().item()  # of the one token that is written
        return [None, *table[:-1].gather(-1, following[:, None])[:, 0].tolist(), last]

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        token_ids = prompt_ids(body)
        with lock:
            if body.get("echo"):
                return choice(path, "", logprobs={"token_logprobs": log_probs(token_ids)})
            stop_ids = stop_tokens(engine.model, engine.chat)
            draws = Draws(body["temperature"], body["top_p"], (body["seed"],)) if body["temperature"] else None
            limit = body["max_tokens"]
            [written] = decode(engine.model, [token_ids], max_new_tokens=limit, stop_ids=stop_ids, draws=draws)
        more = {}
        if body.get("return_token_ids"):
            ended = [min(stop_ids)] if written.stop_reason == "eos" else []
            more = {"token_ids": [*written.token_ids, *ended], "stop_reason": None}
        text = tokenizer.decode(written.token_ids, skip_special_tokens=body.get("skip_special_tokens", True))
        reason = "stop" if written.stop_reason == "eos" else "length"
        return choice(path, text, reason, **more) | {"usage": {"prompt_tokens": len(token_ids)}}

    return answer
