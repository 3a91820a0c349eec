"""Commands that open a page: `view`, `explore` and `label --page`; tests/ui has the pages of the last two."""

import json
import re
import shutil
import socket
import webbrowser

import pytest
import uvicorn

from derta.ui import server


@pytest.fixture
def opened(monkeypatch):
    """Addresses that the browser was told to open."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


def test_view_opens_the_report_of_a_run_and_prints_its_path(finished, derta, opened):
    called = derta("view", finished.folder)
    page = finished.folder / "report.html"
    assert (called.code, called.out) == (0, f"{page}\n")
    assert opened == [page.as_uri()]


def test_view_without_opening_only_prints(finished, derta, opened):
    page = str(finished.folder / "report.html")
    assert derta("view", finished.folder, "--no-open").out == f"{page}\n"
    assert json.loads(derta("view", page, "--no-open", "--json").out) == {"report": page}
    assert opened == []


def test_view_says_so_where_there_is_no_browser(finished, derta, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    called = derta("view", finished.folder)
    assert called.code == 0
    assert "no browser was found" in called.err


def test_a_redacted_view_is_another_page_beside_the_whole_one(finished, derta, opened, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    before = (folder / "report.html").read_bytes()
    called = derta("view", folder, "--redact")
    page = folder / "redacted" / "report.html"
    assert (called.code, called.out) == (0, f"{page}\n")
    assert opened == [page.as_uri()]
    assert (folder / "report.html").read_bytes() == before
    assert "Where is bread now?" in before.decode()
    assert "Where is bread now?" not in page.read_text()
    assert "Who likes bread?" in page.read_text()  # a benign request
    assert (folder / "redacted" / "summary.json").read_bytes() == (folder / "summary.json").read_bytes()


def test_report_can_leave_the_texts_of_attacks_out(finished, derta, tmp_path):
    assert derta("report", finished.folder, "--redact", "--out", tmp_path).code == 0
    assert "Where is bread now?" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "expected a run with a report.html, found none; `derta report nowhere` writes it"),
        (["page.html", "--redact"], "expected the folder of a run to redact, got a file"),
        (["notes.txt"], "expected a run with a report.html"),
    ],
)
def test_a_path_without_a_report_is_a_one_line_error(words, part, derta, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("page.html", "notes.txt"):
        (tmp_path / name).write_text("")
    called = derta("view", *words)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert part in called.err


@pytest.fixture
def served(monkeypatch):
    """Requests are not served: the command ends at once, as by Ctrl-C. Returns the opened addresses and the sockets."""
    found = {"opened": [], "sockets": []}

    def run(_server, sockets):
        found["sockets"] += [one.getsockname() for one in sockets]
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(webbrowser, "open", found["opened"].append)
    return found


def test_explore_prints_the_address_and_opens_it_until_ctrl_c(derta, served, finished):
    called = derta("explore", finished.folder)
    assert called.code == 0
    match = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)/[\w-]{32}/) \(Ctrl-C ends it\)\n", called.out)
    assert match is not None, called.out
    assert served["opened"] == [match[1]]
    assert served["sockets"] == [("127.0.0.1", int(match[2]))]


def test_no_open_opens_nothing_and_the_address_may_be_json(derta, served, tiny_model_dir):
    called = derta("explore", tiny_model_dir, "--no-open", "--json")
    assert called.code == 0
    assert json.loads(called.out)["url"].startswith("http://127.0.0.1:")
    assert served["opened"] == []


def test_label_with_a_page_writes_the_file_and_serves_it(derta, served, finished, tmp_path):
    called = derta("label", finished.folder / "derta-seed0", "--sample", 3, "--out", tmp_path / "labels.csv", "--page")
    assert called.code == 0
    assert "3 rows (3 new), 0 labelled" in called.out
    assert len(served["opened"]) == 1
    assert (tmp_path / "labels.csv").read_text().count("\n") >= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explore", "nowhere"], "expected a model folder or a hub id"),
        (["explore", "{model}", "--base", "x"], "--base x: expected an adapter"),
        (["explore", "{model}", "{model}"], "expected each model once"),
        (["explore", "{model}", "--prompts", "nowhere.jsonl"], "nowhere.jsonl: cannot read it"),
        (["explore", "{model}", "--engine-option", "dtyp=x"], "did you mean 'dtype'?"),
        (["explore", "{model}", "--port", "{port}"], "choose another one"),
    ],
)
def test_a_mistake_is_one_line(derta, served, tiny_model_dir, words, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"model": tiny_model_dir, "port": taken.getsockname()[1]}
        called = derta(*[word.format(**values) for word in words])
    last = called.err.strip().splitlines()[-1]
    assert called.code == 2
    assert last.startswith("derta: ")
    assert message in last
    assert served["sockets"] == []


@pytest.mark.parametrize("words", [["explore", "{model}"], ["label", "replies.jsonl", "--page"]])
def test_without_the_extra_nothing_is_loaded_or_written(derta, monkeypatch, tmp_path, tiny_model_dir, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "find_spec", lambda _name: None)
    called = derta(*[word.format(model=tiny_model_dir) for word in words])
    assert called.code == 2
    assert "pip install -c constraints.txt -e '.[ui]'" in called.err
    assert [*tmp_path.iterdir()] == []
