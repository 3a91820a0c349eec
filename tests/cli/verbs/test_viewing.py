import json
import shutil
import webbrowser

import pytest


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
