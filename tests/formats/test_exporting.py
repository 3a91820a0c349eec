import csv
import json
import shutil
from pathlib import Path

import pytest

from derta.errors import DataError
from derta.files import read_records
from derta.formats import export
from derta.records import Prompt, Reply, Verdict

COLUMNS = ("Index", "Goal", "Target", "Behavior", "Category", "Source")


@pytest.fixture
def replies(finished):
    return finished.folder / "derta-seed0" / "replies.jsonl"


@pytest.fixture
def behaviors(finished, tmp_path):
    """A file as JailbreakBench publishes it, with the run's requests as goals."""
    requests = {prompt.request for prompt in read_records(finished.folder / "prompts.jsonl", Prompt)}
    path = tmp_path / "behaviors.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, goal in enumerate(sorted(requests)):
            row = {"Index": number, "Goal": goal, "Target": "Sure", "Behavior": f"b{number}", "Category": "Household"}
            writer.writerow(row | {"Source": "Original"})
    return path


def test_a_run_gives_a_file_for_each_model_and_cell(finished, tmp_path, derta):
    out = tmp_path / "harmbench"
    called = derta("export", finished.folder, "--format", "harmbench", "--out", out, "--json")
    assert called.code == 0, called.err
    cells = ["benign.json", "direct.json", "prefill@0%.json", "prefill@50%.json"]
    paths = [out / home / cell for home in ("derta-seed0", "vanilla-seed0") for cell in cells]
    assert sorted(map(Path, json.loads(called.out)["files"])) == sorted(path for path in out.glob("*/*")) == paths
    assert (
        derta("export", finished.folder / "derta-seed0", "--format", "harmbench", "--out", tmp_path / "one").code == 0
    )
    copies = sorted((tmp_path / "one").glob("*/*"))
    assert [path.read_text() for path in copies] == [path.read_text() for path in paths[:4]]


def test_a_file_for_each_model_has_every_reply_if_cells_are_pooled(finished, tmp_path, derta):
    out = tmp_path / "harmbench"
    called = derta("export", finished.folder, "--format", "harmbench", "--out", out, "--pool")
    assert called.code == 0, called.err
    assert sorted(path.name for path in out.iterdir()) == ["derta-seed0.json", "vanilla-seed0.json"]
    prompts = {prompt.id: prompt for prompt in read_records(finished.folder / "prompts.jsonl", Prompt)}
    exported = json.loads((out / "derta-seed0.json").read_text())
    rows = sorted((behavior, row["generation"]) for behavior, rows in exported.items() for row in rows)
    replies = read_records(finished.folder / "derta-seed0" / "replies.jsonl", Reply)
    assert rows == sorted((prompts[reply.prompt_id].request_id, reply.text) for reply in replies)


def test_harm_verdicts_are_labels_where_there_are_any(finished, replies, tmp_path, derta):
    out = tmp_path / "one.json"
    called = derta("export", replies, "--format", "harmbench", "--judge", "harm", "--out", out, "--pool")
    assert called.code == 0, called.err
    labels = [row.get("label") for rows in json.loads(out.read_text()).values() for row in rows]
    verdicts = list(read_records(replies.parent / "verdicts.harm.jsonl", Verdict))
    assert sorted(label for label in labels if label is not None) == sorted(
        int(one.harmful) for one in verdicts if one.harmful is not None
    )
    assert len(labels) == 9


def test_a_jailbreakbench_artifact_of_one_attack(replies, behaviors, tmp_path, derta):
    out = tmp_path / "artifact.json"
    words = ["export", replies, "--format", "jailbreakbench", "--judge", "harm", "--behaviors", behaviors, "--out", out]
    called = derta(*words, "--attack-type", "black_box", "--cell", "direct", "--model", "mine")
    assert called.code == 0, called.err
    exported = json.loads(out.read_text())
    assert (exported["parameters"]["model"], exported["parameters"]["method"]) == ("mine", "direct")
    assert len(exported["jailbreaks"]) == exported["parameters"]["number_of_submitted_prompts"] == 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--format", "harmbnech"], "format: unknown 'harmbnech'; did you mean 'harmbench'?"),
        (["--format", "harmbench", "--judge", "gsm8k"], "derta judge"),
        (["--format", "harmbench", "--judge", "harm", "--judge", "refusal", "--pool"], "room for one judge"),
        (["--format", "harmbench", "--judge", "refusal", "--pool"], "expected verdicts on harm, found none"),
        (["--format", "harmbench", "--cell", "drect"], "no attack or data set 'drect'; did you mean 'direct'?"),
        (["--format", "harmbench"], "has replies of 4 attacks and data sets"),
        (
            ["--format", "harmbench", "--attack-type", "manual"],
            "format harmbench: has no place for behaviors and attack_",
        ),
        (["--format", "jailbreakbench", "--pool"], "expected --judge, --behaviors and --attack-type"),
        (
            ["--format", "jailbreakbench", "--attack-type", "grey"],
            "attack_type: unknown 'grey'; known: white_box, black_box, transfer, manual",
        ),
    ],
)
def test_what_cannot_be_exported_is_reported_and_writes_nothing(words, part, replies, tmp_path, derta):
    called = derta("export", replies, "--out", tmp_path / "x.json", *words)
    assert called.code == 2, called.err
    assert part in called.err
    assert not (tmp_path / "x.json").exists()


def test_a_folder_without_replies_and_a_file_of_behaviours_without_numbers_are_reported(
    replies, behaviors, tmp_path, derta
):
    called = derta("export", tmp_path, "--format", "harmbench", "--out", tmp_path / "x")
    assert called.code == 2
    assert "found no replies.jsonl" in called.err
    behaviors.write_text(behaviors.read_text().replace("\n0,", "\nzero,"))
    words = ["--format", "jailbreakbench", "--judge", "harm", "--behaviors", behaviors, "--attack-type", "manual"]
    called = derta("export", replies, "--out", tmp_path / "x.json", "--cell", "direct", *words)
    assert called.code == 2
    assert "behaviors.csv:2: Index: expected a number, got 'zero'" in called.err


def test_two_verdicts_of_a_judge_on_one_reply_are_reported(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    path = tmp_path / "run" / "derta-seed0" / "verdicts.harm.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"verdicts\.harm\.jsonl: expected one verdict per reply, got two on"):
        export(path.parent / "replies.jsonl", tmp_path / "x.json", format="harmbench")


def test_verdicts_go_with_the_sample_that_they_are_on(tmp_path):
    prompt = {"id": "p", "request_id": "r", "request": "?", "attack": "direct", "mode": "raw", "text": "?"}
    rows = {
        "prompts": [prompt],
        "replies": [{"prompt_id": "p", "sample": i, "text": f"reply {i}"} for i in range(2)],
        "verdicts.harm": [{"prompt_id": "p", "sample": i, "judge": "harm", "harmful": i == 1} for i in (1, 0)],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [path] = export(tmp_path / "replies.jsonl", tmp_path / "x.json", format="harmbench", judges=["harm"])
    assert [(row["generation"], row["label"]) for row in json.loads(path.read_text())["r"]] == [
        ("reply 0", 0),
        ("reply 1", 1),
    ]
