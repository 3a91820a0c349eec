"""Guard of a local server: every request needs the token of its URL, and the host and origin of this server.

Another site that the browser has open can send requests to 127.0.0.1, and can give its own name this address (DNS
rebinding). It has no token, its requests have its name as `Origin` or as `Host`, and it may neither read nor frame an
answer.
"""

from __future__ import annotations

from secrets import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI application that passes on the requests that have the token as the first part of their path, without it.

    Others get the status 403; websockets are refused, because no page uses one.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if reason := self._refusal(scope):
            await PlainTextResponse(f"{reason}\n", status_code=403)(scope, receive, send_guarded)
            return
        path = "/" + str(scope["path"]).split("/", 2)[2]
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send_guarded)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        headers = Headers(scope=scope)
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return f"expected the host {HOST}; open the address that derta printed"
        origins = headers.getlist("origin")
        if origins and origins not in [[f"http://{host}"] for host in self._hosts]:
            return "expected a request of this page, got one of another site"
        parts = str(scope["path"]).split("/", 2)
        if len(parts) < 3 or not compare_digest(parts[1].encode("utf-8", "replace"), self._token):
            return "expected the token of this server in the address; open the address that derta printed"
        return None
