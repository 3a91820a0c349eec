"""Ports, tokens and addresses of the local server."""

import socket
from importlib.util import find_spec

import pytest

from derta.errors import EngineError, RunError
from derta.ui import server


def test_it_listens_on_this_machine_only_with_a_new_token_each_time():
    with server.listen() as first, server.listen() as second:
        assert first.socket.getsockname()[0] == "127.0.0.1"
        assert first.token != second.token
        assert len(first.token) >= 32
        assert first.url == f"http://127.0.0.1:{first.port}/{first.token}/"
    assert first.socket.fileno() == -1


def test_a_port_in_use_is_an_error_of_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = rf"^--port {port}: cannot listen on it \(.*in use\); choose another one"
        with pytest.raises(RunError, match=wanted), server.listen(port):
            pass


def test_without_the_extra_the_error_names_an_install_that_works(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    with pytest.raises(EngineError, match=r"pip install -c constraints\.txt -e '\.\[ui\]'"):
        server.check_installed()


@pytest.mark.parametrize("page", ["explore", "label"])
def test_the_pages_name_no_other_host_and_set_no_html(page):
    from importlib.resources import files

    texts = [(files("derta.ui") / "static" / name).read_text() for name in (f"{page}.html", f"{page}.js", "page.css")]
    for text in texts:
        assert "//" not in text.replace("// ", "")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "url(",
            "@import",
            " style=",
        ):
            assert word not in text
