"""`derta publish`: what it prints, and errors in one line."""

import json

import pytest


def test_publish_prints_the_folder_and_warns_of_unknown_licences(finished, derta, tmp_path):
    called = derta("publish", finished.folder / "derta-seed0/model", "--out", tmp_path / "out", "--license", "mit")
    assert (called.code, called.out.count("\n")) == (0, 1)
    assert called.out.endswith(f"files: {tmp_path / 'out'}\n")
    assert "the licence of triples.jsonl is unknown" in called.err


def test_publish_as_json(finished, derta, tmp_path):
    called = derta("publish", finished.folder / "derta-seed0", "--out", tmp_path / "out", "--json")
    value = json.loads(called.out)
    assert (value["folder"], value["url"]) == (str(tmp_path / "out"), None)
    assert "README.md" in value["files"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --out DIR or --push ORG/NAME, got neither"),
        (["--out", "{new}", "--private"], "--revision, --private: expected --push"),
        (["--out", "{new}", "--base-model", "x"], "--base-model: expected a hub id (org/name), got 'x'"),
        (["--out", "{new}", "--data-license", "x"], "--data-license: expected KEY=VALUE, got 'x'"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(words, message, finished, derta, tmp_path):
    new = tmp_path / "new"
    called = derta("publish", finished.folder / "derta-seed0", *(word.format(new=new) for word in words))
    assert (called.code, called.out, called.err.count("\n")) == (2, "", 1)
    assert message in called.err
    assert not new.exists()
