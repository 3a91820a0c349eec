"""The guard of local pages: token, host, origin and websockets, and the headers of every answer."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from derta.ui.guard import Guard

TOKEN = "a-token"  # noqa: S105 of a test
HOST = "127.0.0.1:8123"


@pytest.fixture
def client():
    async def page(request):
        return PlainTextResponse(request.url.path)

    async def socket(websocket):
        await websocket.accept()
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/setup", page),
            Route("/continue", page, methods=["POST"]),
            WebSocketRoute("/live", socket),
        ]
    )
    return TestClient(Guard(app, token=TOKEN, port=8123), base_url=f"http://{HOST}")


@pytest.mark.parametrize("path", ["/", "/setup"])
def test_a_request_with_the_token_gets_the_page_without_it(client, path):
    answer = client.get(f"/{TOKEN}{path}")
    assert (answer.status_code, answer.text) == (200, path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/setup",
        f"/{TOKEN}",
        f"/{TOKEN}x/setup",
        f"/{TOKEN[:-1]}/setup",
        f"//{TOKEN}/setup",
        "/é/setup",
        "/%ff/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_any_other_path_is_refused(client, path, method):
    answer = client.request(method, path)
    assert answer.status_code == 403
    assert "token" in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8123", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8123.evil.example", ""]
)
def test_a_name_that_resolves_to_this_machine_is_refused(client, host):
    answer = client.get(f"/{TOKEN}/setup", headers={"Host": host})
    assert answer.status_code == 403
    assert "host" in answer.text


def test_two_hosts_are_refused(client):
    request = client.build_request("GET", f"/{TOKEN}/setup")
    request.headers = type(request.headers)([("Host", HOST), ("Host", "evil.example")])
    assert client.send(request).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://{HOST}", "http://127.0.0.1:9999", ""])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_of_another_site_is_refused_though_it_has_the_token(client, origin, method):
    answer = client.request(method, f"/{TOKEN}/continue", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "another site" in answer.text


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_pages_own_requests_pass(client, name):
    own = {"Host": f"{name}:8123", "Origin": f"http://{name}:8123"}
    assert client.post(f"/{TOKEN}/continue", headers=own).status_code == 200


@pytest.mark.parametrize("path", [f"/{TOKEN}/live", "/live"])
def test_websockets_are_refused_with_and_without_the_token(client, path):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
        pass


@pytest.mark.parametrize("path", [f"/{TOKEN}/", "/", f"/{TOKEN}/nothing"])
def test_every_answer_forbids_scripts_frames_caches_and_referrers(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name.startswith("access-control") for name in headers)
