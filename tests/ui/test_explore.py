"""The playground's application, without a browser."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from derta.engines import load_engine
from derta.pipeline.explored_models import Example
from derta.pipeline.exploring import Question, StoppedError, continue_conversation
from derta.records import Message
from derta.ui import explore
from derta.ui.answers import MAX_BODY
from derta.ui.explore import explore_app

ASKED = {"messages": [{"role": "user", "content": "How do I paint a fence?"}], "max_new_tokens": 4}
EXAMPLE = Example("prefill@50%: q1", (Message(role="user", content="<b>Why?</b>"),), "Sure", ("Sorry",))


@pytest.fixture(scope="module")
def engine(make_model_dir):
    return load_engine(make_model_dir(), device="cpu", dtype="float32")


@pytest.fixture
def client(engine):
    app = explore_app({"one": engine, "two": engine}, examples=[EXAMPLE], max_new_tokens=7)
    with TestClient(app) as opened:
        yield opened


def ask(client, model="one", **changes):
    return client.post("/continue", json={"model": model, "question": ASKED | changes})


def test_the_answer_is_the_continuation_as_json(client, engine):
    answer = ask(client, prefill="Sure", banned=["Sorry"], threshold=0.5)
    expected = continue_conversation(engine, Question(**ASKED, prefill="Sure", banned=("Sorry",), threshold=0.5))
    assert answer.json() == expected.model_dump(mode="json")


def test_the_setup_has_models_refusal_words_and_examples(client):
    assert client.get("/setup").json() == {
        "models": [{"name": "one", "refusal_words": ["Sorry"]}, {"name": "two", "refusal_words": ["Sorry"]}],
        "max_new_tokens": 7,
        "examples": [
            {
                "name": "prefill@50%: q1",
                "messages": [{"role": "user", "content": "<b>Why?</b>"}],
                "prefill": "Sure",
                "banned": ["Sorry"],
            }
        ],
    }


@pytest.mark.parametrize("path", ["/", "/page.css", "/explore.js"])
def test_the_files_of_the_page_are_served(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "Invalid JSON"),
        (b'{"model": "one"}', 400, "question"),
        (b'{"model": "one", "question": {"messages": [], "max_new_tokens": 1}}', 400, "question.messages"),
        (b'{"model": "\\ud800", "question": {}}', 400, "JSON"),
        (b" " * (MAX_BODY + 1), 413, "shorten"),
    ],
)
def test_a_wrong_body_is_an_error_of_one_line(client, body, status, message):
    answer = client.post("/continue", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_that_a_form_of_another_site_could_send_is_refused(client):
    answer = client.post("/continue", content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_an_unknown_model_and_a_conversation_that_does_not_fit_are_errors_of_one_line(client):
    assert "did you mean 'one'" in ask(client, model="on").json()["error"]
    answer = ask(client, max_new_tokens=999)
    assert answer.status_code == 400
    assert "256 positions" in answer.json()["error"]


def test_one_model_generates_at_a_time(client, monkeypatch, engine):
    running, most = 0, 0
    guard, first_runs, may_end = threading.Lock(), threading.Event(), threading.Event()

    def slow(_engine, question, *, stopped):
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        first_runs.set()
        may_end.wait(5)
        found = continue_conversation(engine, question, stopped=stopped)
        with guard:
            running -= 1
        return found

    monkeypatch.setattr(explore, "continue_conversation", slow)
    threads = [threading.Thread(target=ask, args=(client, name)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    assert first_runs.wait(5)
    threading.Timer(0.2, may_end.set).start()
    for thread in threads:
        thread.join(20)
    assert (running, most) == (0, 1)


def test_a_generation_stops_when_its_page_has_gone(engine, monkeypatch):
    class Gone:
        async def is_disconnected(self):
            return True

    def endless(_engine, _question, *, stopped):
        while not stopped():
            time.sleep(0.01)
        raise StoppedError("stopped")

    monkeypatch.setattr(explore, "continue_conversation", endless)
    with pytest.raises(StoppedError), ThreadPoolExecutor(1) as thread:
        asyncio.run(explore._while_open(Gone(), thread, engine, Question(**ASKED)))


def test_nothing_that_is_typed_is_logged(client, caplog, capfd):
    caplog.set_level("DEBUG")
    ask(client, prefill="fence secret")
    ask(client, messages=[{"role": "user", "content": "fence secret " * 99}])
    assert "secret" not in caplog.text
    out, err = capfd.readouterr()
    assert "secret" not in out + err
