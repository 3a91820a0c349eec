"""Server of a local page: a free or given port of 127.0.0.1, a new token, until Ctrl-C."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from secrets import token_urlsafe
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import EngineError, RunError, install_advice

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp


class Address(NamedTuple):
    """Listening socket of a server, and the token that its requests need."""

    socket: socket.socket
    token: str

    @property
    def port(self) -> int:
        """The port of the socket."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"


def check_installed() -> None:
    """Fail if a package of the extra `ui` is missing.

    Raises:
        EngineError: one is.
    """
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise EngineError(f"expected the package {package} for the page, found none; {install_advice('ui')}")


@contextmanager
def listen(port: int = 0) -> Generator[Address]:
    """Listen on a port of 127.0.0.1 (0: any free one) while the block runs, with a new token.

    >>> with listen() as address:
    ...     address.url.startswith(f"http://127.0.0.1:{address.port}/{address.token}")
    True

    Raises:
        RunError: the port is in use, or not allowed.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()
        except OSError as error:
            raise RunError(
                f"--port {port}: cannot listen on it ({error.strerror}); choose another one, or leave it out"
            ) from error
        yield Address(listening, token_urlsafe(24))


def make_server(app: ASGIApp, address: Address) -> uvicorn.Server:
    """Return the server of an application, which gets the requests that have the token (`Guard`); none is logged."""
    import uvicorn

    from derta.ui.guard import Guard

    guarded = Guard(app, token=address.token, port=address.port)
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )


def serve(app: ASGIApp, address: Address, *, open_page: bool = True) -> None:
    """Serve an application until the process is interrupted.

    Args:
        app: The page's application.
        address: Result of `listen`.
        open_page: Open the page in the user's browser.
    """
    if open_page:
        webbrowser.open(address.url)
    try:
        make_server(app, address).run(sockets=[address.socket])
    except KeyboardInterrupt:
        return
