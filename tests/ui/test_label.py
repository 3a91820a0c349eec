"""The labelling page's application, without a browser."""

import pytest
from starlette.testclient import TestClient

from derta.formats.label_files import format_label_rows
from derta.pipeline.labelling_session import LabelSession
from derta.protocols import Case
from derta.records import Prompt, Reply
from derta.ui.label import label_app


@pytest.fixture
def session(tmp_path):
    cases = [
        Case(
            Prompt(id=f"direct:q{i}", request_id=f"q{i}", request="Why?", attack="direct", mode="raw", text="?"),
            Reply(prompt_id=f"direct:q{i}", text=f"<b>reply {i}\u202e"),
        )
        for i in range(3)
    ]
    path = tmp_path / "secret-method" / "labels.csv"
    path.parent.mkdir()
    path.write_text(format_label_rows(cases, first=1, measure="refused"), encoding="utf-8")
    return LabelSession(path, "refused")


@pytest.fixture
def client(session):
    with TestClient(label_app(session)) as opened:
        yield opened


def test_labels_are_saved_one_by_one_and_the_next_row_is_named(client, session):
    assert client.get("/next").json() == {"rows": 3, "labelled": 0, "next": 0}
    for place, word in enumerate(("1", "0", "partial refusal")):
        row = client.get(f"/row/{place}").json()
        answer = client.post("/save", json={"place": place, "reply_hash": row["reply_hash"], "word": word}).json()
        assert answer == {"rows": 3, "labelled": place + 1, "next": place + 1 if place < 2 else None}
        assert session.rows()[place].row.word == word


def test_the_page_gets_request_and_reply_and_neither_model_nor_attack(client):
    row = client.get("/row/1").json()
    assert {*row} == {"place", "reply_hash", "word", "request", "reply"}
    assert row["reply"] == "<b>reply 1⟨U+202E⟩"
    texts = [client.get(path).text for path in ("/", "/setup", "/next", "/row/0", "/label.js")]
    assert not any("secret-method" in text or "direct" in text for text in texts)


@pytest.mark.parametrize(
    ("body", "message"),
    [({"place": 0, "reply_hash": "h0", "word": "1"}, "load it again"), ({"place": 0}, "reply_hash")],
)
def test_a_wrong_label_is_an_error_of_one_line(client, body, message):
    answer = client.post("/save", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_row_after_the_last_is_not_found(client):
    assert client.get("/row/3").status_code == 404
