"""Judging in a browser: one self-contained page, served on this machine only.

The address holds a random key, and requests from other sites are refused: whoever runs the page reads the corpus.
"""

from __future__ import annotations

import importlib.resources
import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gecko.errors import GeckoError, UsageError
from gecko.judge.judging import Judging

_HOST = "127.0.0.1"
_MOST = 1 << 16  # bytes of a request
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class JudgePage:
    """The page's server; requests are answered one at a time.

    Args:
        judging: What is judged.
        port: 0 takes a free one.

    Raises:
        UsageError: The port is taken.
    """

    def __init__(self, judging: Judging, port: int = 0) -> None:
        self._judging = judging
        self._lock = threading.Lock()
        self._key = secrets.token_urlsafe(12)
        self._html = importlib.resources.files("gecko.judge").joinpath("page.html").read_bytes()
        page = self

        class Handler(BaseHTTPRequestHandler):
            """Hands each request to the page."""

            def do_GET(self) -> None:
                page._get(self)

            def do_POST(self) -> None:
                page._post(self)

            def log_message(self, *_args: Any) -> None:  # noqa: ANN401
                """Say nothing: the terminal is the user's."""

        try:
            self._server = ThreadingHTTPServer((_HOST, port), Handler)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror or error}", "choose another, or leave it out") from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://{_HOST}:{self.port}/{self._key}/"

    def serve(self) -> None:
        """Answer until the user stops the page or presses Ctrl-C."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self._server.server_close()

    def stop(self) -> None:
        """End :meth:`serve`, from another thread."""
        self._server.shutdown()

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        if not self._allowed(request):
            _send(request, HTTPStatus.FORBIDDEN, {"error": "use the address that gecko judge shows"})
        elif request.path == f"/{self._key}/":
            _send_bytes(request, HTTPStatus.OK, self._html, "text/html; charset=utf-8")
        elif request.path == f"/{self._key}/state":
            with self._lock:
                _send(request, HTTPStatus.OK, self._state())
        else:
            _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        if not self._allowed(request):
            _send(request, HTTPStatus.FORBIDDEN, {"error": "use the address that gecko judge shows"})
            return
        if request.path != f"/{self._key}/act":
            _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})
            return
        try:
            size = int(request.headers.get("Content-Length", "0"))
            body = json.loads(request.rfile.read(size)) if 0 < size <= _MOST else None
        except ValueError:
            body = None
        if not isinstance(body, dict):
            _send(request, HTTPStatus.BAD_REQUEST, {"error": "not a JSON object"})
            return
        with self._lock:
            try:
                status = self._act(body)
            except GeckoError as error:
                _send(request, HTTPStatus.BAD_REQUEST, {"error": f"{error.message}. {error.hint}", **self._state()})
                return
            _send(request, status, self._state())
        if body.get("action") == "stop":
            # Not from the thread that answers: the answer must be out first.
            threading.Thread(target=self._server.shutdown, daemon=True).start()

    def _allowed(self, request: BaseHTTPRequestHandler) -> bool:
        """Whether the request comes from the page itself and not from another site in the same browser."""
        hosts = {f"{_HOST}:{self.port}", f"localhost:{self.port}"}
        origin = request.headers.get("Origin")
        return request.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts)

    def _act(self, body: dict[str, Any]) -> HTTPStatus:
        """Do what the page asks; an answer to a question that is no longer asked changes nothing (409)."""
        session = self._judging.session
        action = body.get("action")
        if action == "undo":
            session.undo()
        elif action == "add":
            texts = body.get("queries")
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                return HTTPStatus.BAD_REQUEST
            session.add(texts)
        elif action in {"grade", "skip", "drop"}:
            asked = session.question()
            if asked is None or (asked.query_id, asked.doc_id) != (body.get("query_id"), body.get("doc_id")):
                return HTTPStatus.CONFLICT
            if action == "drop":
                session.drop(asked)
            elif action == "skip":
                session.grade(asked, None)
            else:
                try:
                    session.grade(asked, body.get("grade", -1))
                except ValueError:
                    return HTTPStatus.BAD_REQUEST
        elif action != "stop":
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.OK

    def _state(self) -> dict[str, Any]:
        """What the page shows: the question, how far it is, and what it takes; nothing of who found what."""
        asked = self._judging.session.question()
        state: dict[str, Any] = {"question": None, "report": self._judging.report()}
        if asked is not None:
            title, text = self._judging.document(asked)
            state["question"] = {
                "query_id": asked.query_id,
                "query": asked.query,
                "doc_id": asked.doc_id,
                "title": title,
                "text": text,
                "number": asked.number,
                "queries": asked.queries,
                "candidate": asked.candidate,
                "candidates": asked.candidates,
            }
        return state


def _send(request: BaseHTTPRequestHandler, status: HTTPStatus, value: dict[str, Any]) -> None:
    _send_bytes(request, status, json.dumps(value, ensure_ascii=False).encode(), "application/json")


def _send_bytes(request: BaseHTTPRequestHandler, status: HTTPStatus, body: bytes, kind: str) -> None:
    request.send_response(status)
    for name, text in (
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Content-Security-Policy", _POLICY),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ):
        request.send_header(name, text)
    request.end_headers()
    request.wfile.write(body)
