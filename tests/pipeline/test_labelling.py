import csv
import json
from pathlib import Path

import pytest

from small_run import write_jsonl

REFUSAL, ANSWER = "I'm sorry, but I can't assist with that.", "Wash the roots and boil them for an hour."


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    rows = [
        {"id": f"q{i}", "question": f"How do I cook {i}?", "response": REFUSAL if i % 3 else ANSWER} for i in range(40)
    ]
    return write_jsonl(tmp_path / "replies.jsonl", rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path, *, first: int = 0, last: int = 1000, word: str | None = None) -> None:
    """Label rows as people would: a row is a refusal if it is one, apart from every tenth."""
    rows = read(path)
    for i, row in enumerate(rows):
        if first <= i < last:
            row["refused"] = word or str(int((row["reply"] == REFUSAL) != (i % 10 == 9)))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def label(replies: Path, tmp_path: Path, derta):
    def run(*words: object, out: Path = tmp_path / "labels.csv"):
        return derta("label", replies, "--out", out, "--measure", "refused", *words)

    return run


def test_a_sample_is_random_seeded_and_whole_and_nothing_of_it_is_printed(label, tmp_path: Path):
    called = label("--sample", 12)
    assert (called.code, called.out.strip()) == (0, f"{tmp_path / 'labels.csv'}: 12 rows (12 new), 0 labelled")
    assert "cook" not in called.out + called.err
    rows = read(tmp_path / "labels.csv")
    assert [row["row"] for row in rows] == [str(i + 1) for i in range(12)]
    assert all(row["reply"] in (REFUSAL, ANSWER) and row["request"] and row["refused"] == "" for row in rows)
    assert [row["id"] for row in rows] != sorted((row["id"] for row in rows), key=lambda name: int(name[1:]))
    label("--sample", 12, "--seed", 1, out=tmp_path / "other.csv")
    assert {row["id"] for row in read(tmp_path / "other.csv")} != {row["id"] for row in rows}


def test_a_larger_sample_keeps_the_labels_and_the_order(label, tmp_path: Path):
    path = tmp_path / "labels.csv"
    label("--sample", 10)
    fill_in(path)
    before = path.read_text()
    assert label("--sample", 10).out.strip().endswith("10 rows (0 new), 10 labelled")
    assert path.read_text() == before
    assert label("--sample", 15).out.strip().endswith("15 rows (5 new), 10 labelled")
    assert path.read_text().startswith(before)
    label("--sample", 15, out=tmp_path / "whole.csv")
    assert [row["reply_hash"] for row in read(path)] == [row["reply_hash"] for row in read(tmp_path / "whole.csv")]


def test_a_file_with_labels_is_never_overwritten(label, replies: Path, tmp_path: Path):
    path = tmp_path / "labels.csv"
    label("--sample", 10)
    fill_in(path)
    before = path.read_text()
    assert "got rows of other replies or another order" in label("--sample", 10, "--seed", 3).err
    replies.write_text(replies.read_text().replace("Wash", "Peel"))
    assert label("--sample", 10).code == 2
    assert path.read_text() == before
    path.write_text("name,word\n")
    assert label("--sample", 10).code == 2
    assert path.read_text() == "name,word\n"


@pytest.mark.parametrize("sample", [0, 41])
def test_a_sample_of_more_replies_than_there_are_is_an_error_and_leaves_no_file(sample: int, label, tmp_path: Path):
    called = label("--sample", sample)
    assert (called.code, "expected a --sample of 1 to 40" in called.err) == (2, True)
    assert not (tmp_path / "labels.csv").exists()


def test_labels_of_these_replies_make_an_estimate_with_an_interval(label, replies: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    label("--sample", 20)
    fill_in(path)
    called = derta("judge", replies, "--judge", "refusal", "--labels", path, "--json")
    assert called.code == 0, called.err
    raw, estimate = json.loads(called.out)
    assert (raw["measure"], raw["value"]) == ("refused", pytest.approx(26 / 40))
    assert (estimate["measure"], estimate["scored"]) == ("refused_with_labels", 40)
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert "20 of 40 replies have labels" in called.err
    assert "the rate is biased" not in called.err


def test_a_table_of_another_program_is_read(label, replies: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    label("--sample", 10)
    fill_in(path)
    rows = [list(row.values()) for row in read(path)]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([HEADER, *rows])
    assert derta("judge", replies, "--judge", "refusal", "--labels", path).code == 0


HEADER = ["row", "reply_hash", "id", "sample", "request", "reply", "refused"]


def test_rows_that_are_skipped_or_undecided_are_counted_in_a_warning(label, replies: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    label("--sample", 20)
    fill_in(path, first=2)
    fill_in(path, first=5, last=6, word="partial refusal")
    called = derta("judge", replies, "--judge", "refusal", "--labels", path)
    assert called.code == 0
    assert "2 rows before the last label are skipped or missing, and 1 undecided" in called.err


def test_labels_of_the_first_rows_of_a_sorted_file_are_no_random_sample(label, replies: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    label("--sample", 40)
    rows = sorted(read(path), key=lambda row: row["reply"])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(row | {"refused": "1" if i < 20 else ""} for i, row in enumerate(rows))
    called = derta("judge", replies, "--judge", "refusal", "--labels", path)
    assert "rows before the last label are skipped or missing" in called.err
    assert "the labelled replies are no random sample: the judge finds 100% of them refused and 30%" in called.err


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Replies to 30 attacks, all refused, and to 30 harmless requests of two sets, all answered."""
    prompts = [
        {"id": f"a{i}", "request_id": f"a{i}", "request": f"Do {i}?", "attack": "direct", "mode": "raw", "text": "Do?"}
        for i in range(30)
    ]
    prompts += [
        {**prompts[i], "id": f"b{i}", "suite": "over_refusal", "dataset": "tea" if i < 25 else "rye"} for i in range(30)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    texts = [REFUSAL] * 30 + [ANSWER] * 30
    rows = [{"prompt_id": one["id"], "text": text} for one, text in zip(prompts, texts, strict=True)]
    return write_jsonl(tmp_path / "replies.jsonl", rows)


def test_a_file_of_attacks_and_harmless_requests_has_a_rate_of_each_with_labels(mixed: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    derta("label", mixed, "--out", path, "--measure", "refused", "--sample", 54)
    rows = read(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(row | {"refused": int(row["reply"] == REFUSAL)} for row in rows)
    called = derta("judge", mixed, "--judge", "refusal", "--labels", path, "--json")
    assert called.code == 0, called.err
    cells = [one for one in json.loads(called.out) if one["measure"] == "refused_with_labels"]
    assert [(one["suite"], one["name"], one["value"], one["scored"]) for one in cells] == [
        ("attack", "all attacks", 1.0, 30),
        ("over_refusal", "harmless requests", 0.0, 30),
        ("attack", "direct", 1.0, 30),
        ("over_refusal", "tea", 0.0, 25),
    ]
    table = derta("judge", mixed, "--judge", "refusal", "--labels", path)
    assert "all attacks: refused: 100.0% of 30" in table.out
    assert "harmless requests: refused_with_labels: 0.0% of 30" in table.out


@pytest.mark.parametrize("change", ["text", "twice", "word", "measure", "empty"])
def test_labels_that_are_wrong_or_stale_are_one_line_errors(change, label, replies: Path, tmp_path: Path, derta):
    path = tmp_path / "labels.csv"
    label("--sample", 10)
    if change != "empty":
        fill_in(path, word="perhaps" if change == "word" else None)
    if change == "text":
        replies.write_text(replies.read_text().replace(REFUSAL, REFUSAL + " Sorry."))
    if change == "twice":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, lines[-1]]))
    judge = "harm" if change == "measure" else "refusal"
    called = derta("judge", replies, "--judge", judge, "--labels", path)
    part = {
        "text": "of other replies, or of replies that changed",
        "twice": "expected one row for each reply",
        "word": "expected one of 1, true, yes",
        "measure": "expected the columns reply_hash and harmful",
        "empty": "expected labels in some of the 10 rows, got none",
    }[change]
    assert called.code == 2
    assert part in called.err
    assert len(called.err.strip().splitlines()) == 1


def test_a_text_that_is_a_formula_is_no_formula_in_the_file(tmp_path: Path, derta):
    replies = write_jsonl(tmp_path / "r.jsonl", [{"question": "q", "response": '=HYPERLINK("x")'}])
    derta("label", replies, "--sample", 1, "--out", tmp_path / "l.csv")
    assert read(tmp_path / "l.csv")[0]["reply"] == '\'=HYPERLINK("x")'


def test_a_folder_of_a_run_has_one_file_of_replies(tmp_path: Path, derta):
    folder = tmp_path / "run"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        write_jsonl(folder / name / "replies.jsonl", [{"question": "q", "response": name}])
    called = derta("label", folder, "--out", tmp_path / "l.csv", "--sample", 1)
    assert (called.code, "expected one replies.jsonl" in called.err) == (2, True)
    assert derta("label", folder / "a", "--out", tmp_path / "l.csv", "--sample", 1).code == 0
    assert derta("label", folder / "b", "--out", tmp_path / "m.csv", "--measure", "harm", "--sample", 1).code == 2


def test_a_calibration_on_other_replies_warns_with_the_result_of_the_shift_test(replies: Path, tmp_path: Path, derta):
    rows = [{"question": "q", "response": REFUSAL, "label": 1}] * 20 + [
        {"question": "q", "response": ANSWER, "label": 0}
    ]
    labelled = [{**row, "id": str(i)} for i, row in enumerate(rows + rows[-1:] * 19)]
    labels = write_jsonl(tmp_path / "labelled.jsonl", labelled)
    assert derta("calibrate", "--labels", labels, "--judge", "refusal", "--out", tmp_path / "c.json").code == 0
    called = derta("judge", replies, "--judge", "refusal", "--calibration", tmp_path / "c.json", "--json")
    raw, corrected = json.loads(called.out)
    assert (raw["measure"], corrected["measure"]) == ("refused", "refused_corrected")
    assert "the shift test found no difference" in called.err
    malformed = write_jsonl(
        tmp_path / "other.jsonl", [{"question": f"q{i}", "response": "Sorry " * 20 + "the wizard"} for i in range(60)]
    )
    called = derta("judge", malformed, "--judge", "refusal", "--calibration", tmp_path / "c.json")
    assert "do not use the corrected rate" in called.err
