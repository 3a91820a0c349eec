import logging

import pytest

from derta.errors import DataError, RunError
from derta.files import read_records, write_records
from derta.pipeline.resuming import (
    Expected,
    check_unique,
    judge_missing,
    read_keyed,
    read_results,
    store_prompts,
    supersede,
)
from derta.protocols import Display
from derta.records import Prompt, Reply, Verdict
from recorded_progress import RecordedProgress


def prompt(name):
    return Prompt(id=name, request_id=name, attack="direct", mode="raw", text="Who?")


def verdict(name, *, judge="harm", **fields):
    return Verdict(prompt_id=name, judge=judge, **fields)


PROMPTS = [prompt("a"), prompt("b")]
KEYS = [("a", 0), ("b", 0), ("c", 0)]
EXPECTED = {key: Expected(f"hash of {key[0]}", {"judge": "harm"}) for key in KEYS}


def stamped(result):
    """Add the expected provenance of its key."""
    return EXPECTED[result.key].stamp(result)


def test_repeated_prompt_ids_are_refused():
    check_unique(PROMPTS)
    with pytest.raises(DataError, match="got 'b' twice; set a `name`"):
        check_unique([*PROMPTS, prompt("b")])


def test_prompts_are_stored_once_and_again_when_they_change(tmp_path):
    path = tmp_path / "prompts.jsonl"
    store_prompts(path, PROMPTS)
    before = path.stat().st_mtime_ns
    store_prompts(path, PROMPTS)
    assert path.stat().st_mtime_ns == before
    store_prompts(path, [prompt("z")])
    assert list(read_records(path, Prompt)) == [prompt("z")]


def test_records_are_read_by_prompt_and_sample_and_a_torn_line_is_left_to_its_writer(tmp_path):
    path = tmp_path / "replies.jsonl"
    assert read_keyed(path, Reply, prompts=PROMPTS) == {}
    replies = [Reply(prompt_id="b", text="1"), Reply(prompt_id="b", sample=1, text="2")]
    write_records(path, replies)
    torn = path.read_bytes() + b'{"prompt_id": "a", "te'
    path.write_bytes(torn)
    assert read_keyed(path, Reply, prompts=PROMPTS) == {("b", 0): replies[0], ("b", 1): replies[1]}
    assert path.read_bytes() == torn


@pytest.mark.parametrize(
    ("names", "message"), [(("a", "z"), "prompt id 'z' which no prompt has"), (("a", "a"), "prompt id 'a' twice")]
)
def test_records_of_other_prompts_and_repeated_ones_are_refused(names, message, tmp_path):
    write_records(tmp_path / "replies.jsonl", [Reply(prompt_id=name, text="?") for name in names])
    with pytest.raises(DataError, match=message):
        read_keyed(tmp_path / "replies.jsonl", Reply, prompts=PROMPTS)


def test_results_are_read_with_their_provenance_and_a_torn_line_is_removed(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    assert read_results(path, Verdict, EXPECTED) == {}
    assert not path.exists()
    verdicts = [stamped(verdict("b", harmful=True)), stamped(verdict("a", harmful=False))]
    write_records(path, verdicts)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"prompt_id": "c", "ju')
    assert read_results(path, Verdict, EXPECTED) == {("b", 0): verdicts[0], ("a", 0): verdicts[1]}
    assert path.read_bytes() == whole


def test_a_result_that_is_there_twice_is_refused(tmp_path):
    write_records(tmp_path / "verdicts.jsonl", [stamped(verdict(name)) for name in "aba"])
    with pytest.raises(RunError, match="cannot resume from 'a': it is there twice; choose another --out"):
        read_results(tmp_path / "verdicts.jsonl", Verdict, EXPECTED)


def test_every_difference_of_a_producer_is_named():
    other = Expected("hash", {"model": "a", "dtype": "float32"}).stamp(verdict("a"))
    fault = Expected("hash", {"model": "b", "dtype": "bfloat16"}).fault(other)
    assert fault == "it has another producer: dtype (float32 before, bfloat16 now); model (a before, b now)"
    assert Expected("hash", {"model": "a", "dtype": "float32"}).fault(other) is None


class ScriptedJudge:
    """Judges the missing replies in an order of its own, and records which ones."""

    def __init__(self, **fields):
        self.requested = []
        self.fields = fields

    def __call__(self, missing):
        self.requested.append(sorted(missing))
        for name, _ in sorted(missing, reverse=True):
            yield verdict(name, **(self.fields or {"harmful": True}))


def test_only_missing_verdicts_are_requested_and_the_file_ends_in_the_order_of_replies(tmp_path):
    path, judge, progress = tmp_path / "verdicts.jsonl", ScriptedJudge(), RecordedProgress()
    write_records(path, [stamped(verdict("b", harmful=False))])
    verdicts = judge_missing(
        path,
        Verdict,
        expected=EXPECTED,
        judge="harm",
        judge_replies=judge,
        description="mine",
        display=Display(progress),
    )
    assert [(one.prompt_id, one.harmful) for one in verdicts] == [("a", True), ("b", False), ("c", True)]
    assert list(read_records(path, Verdict)) == verdicts
    assert judge.requested == [[("a", 0), ("c", 0)]]
    assert progress.tasks == {"mine": [3, 1, 2, 3]}
    before = path.stat().st_mtime_ns
    assert judge_missing(path, Verdict, expected=EXPECTED, judge="harm", judge_replies=judge) == verdicts
    assert (len(judge.requested), path.stat().st_mtime_ns) == (1, before)


def test_verdicts_in_another_order_are_sorted_and_nothing_is_requested(tmp_path):
    path, judge, progress = tmp_path / "verdicts.jsonl", ScriptedJudge(), RecordedProgress()
    write_records(path, [stamped(verdict(name, harmful=name == "b")) for name in "cab"])
    verdicts = judge_missing(
        path, Verdict, expected=EXPECTED, judge="harm", judge_replies=judge, display=Display(progress)
    )
    assert [(one.prompt_id, one.harmful) for one in verdicts] == [("a", False), ("b", True), ("c", False)]
    assert list(read_records(path, Verdict)) == verdicts
    assert judge.requested == []
    assert progress.tasks == {"harm: verdicts": [3, 3]}


def test_only_verdicts_that_failed_are_counted_as_failures(tmp_path, caplog):
    def judge_replies(missing):
        yield verdict("a", harmful=True, reason="it says how")
        yield verdict("b", retry=True, reason="the server is gone")
        yield verdict("c", harmful=None, reason="no verdict word")

    with caplog.at_level(logging.INFO, "derta"):
        judge_missing(tmp_path / "v.jsonl", Verdict, expected=EXPECTED, judge="harm", judge_replies=judge_replies)
    assert "1 of 3 replies are not judged, because the judge's engine failed (the server is gone)" in caplog.text


def test_verdicts_are_appended_as_they_come(tmp_path):
    path = tmp_path / "verdicts.jsonl"

    def stops(missing):
        yield verdict("c", harmful=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_missing(path, Verdict, expected=EXPECTED, judge="harm", judge_replies=stops)
    assert [one.prompt_id for one in read_records(path, Verdict)] == ["c"]


def test_replies_whose_engine_failed_are_judged_again_and_logged(tmp_path, caplog):
    path = tmp_path / "verdicts.jsonl"
    failing = ScriptedJudge(retry=True, reason="the server is gone")
    with caplog.at_level(logging.INFO, "derta"):
        judge_missing(path, Verdict, expected=EXPECTED, judge="harm", judge_replies=failing)
    assert "3 of 3 replies are not judged, because the judge's engine failed (the server is gone)" in caplog.text
    judge = ScriptedJudge()
    verdicts = judge_missing(path, Verdict, expected=EXPECTED, judge="harm", judge_replies=judge)
    assert judge.requested == [KEYS]
    assert [one.harmful for one in verdicts] == [True] * 3
    assert list(read_records(path, Verdict)) == verdicts


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (verdict("z"), "'z': no prompt has this id"),
        (verdict("a"), "'a': it has another producer: no producer is recorded"),
        (Expected("hash of a", {"judge": "steps"}).stamp(verdict("a")), r"judge \(steps before, harm now\)"),
        (Expected("hash of a", {"judge": "harm", "model": "0f"}).stamp(verdict("a")), r"model \(0f before, none now\)"),
        (Expected("another hash", {"judge": "harm"}).stamp(verdict("a")), "'a': its input has changed since"),
    ],
)
def test_verdicts_of_another_judge_or_on_other_replies_are_refused(other, message, tmp_path):
    write_records(tmp_path / "verdicts.jsonl", [other])
    with pytest.raises(RunError, match=message):
        judge_missing(
            tmp_path / "verdicts.jsonl", Verdict, expected=EXPECTED, judge="harm", judge_replies=ScriptedJudge()
        )


def test_superseded_results_move_to_a_file_of_their_own_and_none_is_lost(tmp_path):
    path = tmp_path / "verdicts.harm.jsonl"
    current, changed, removed = (
        stamped(verdict("a", harmful=True)),
        Expected("another hash", {"judge": "harm"}).stamp(verdict("b", harmful=True)),
        stamped(verdict("c")).model_copy(update={"prompt_id": "z"}),
    )
    assert supersede(path, Verdict, EXPECTED) == 0
    assert list(tmp_path.iterdir()) == []
    write_records(path, [current, changed, removed])
    with path.open("ab") as file:
        file.write(b'{"prompt_id": "b", "ju')  # of a run that was killed
    assert supersede(path, Verdict, EXPECTED) == 2
    assert list(read_records(path, Verdict)) == [current]
    assert list(read_records(tmp_path / "verdicts.harm.superseded.jsonl", Verdict)) == [changed, removed]
    before = path.stat().st_mtime_ns
    assert (supersede(path, Verdict, EXPECTED), path.stat().st_mtime_ns) == (0, before)


@pytest.mark.parametrize("only_changed_inputs", [False, True])
def test_results_of_another_producer_or_of_no_prompt_are_superseded_unless_only_inputs_count(
    tmp_path, only_changed_inputs
):
    path = tmp_path / "verdicts.harm.jsonl"
    producer = Expected("hash of a", {"judge": "harm", "model": "another"}).stamp(verdict("a", harmful=True))
    changed = Expected("another hash", {"judge": "harm"}).stamp(verdict("b", harmful=True))
    removed = stamped(verdict("c")).model_copy(update={"prompt_id": "z"})
    write_records(path, [producer, changed, removed])
    kept = [producer, removed] if only_changed_inputs else []
    assert supersede(path, Verdict, EXPECTED, only_changed_inputs=only_changed_inputs) == 3 - len(kept)
    assert list(read_records(path, Verdict)) == kept


def test_a_superseded_result_that_is_current_again_moves_back(tmp_path):
    path = tmp_path / "verdicts.harm.jsonl"
    other = {key: one._replace(producer={"judge": "harm", "model": "b"}) for key, one in EXPECTED.items()}
    paid = [stamped(verdict(name, harmful=True)) for name in "ab"]
    write_records(path, paid)
    assert supersede(path, Verdict, other) == 2
    assert list(read_records(path, Verdict)) == []
    write_records(path, [other["c", 0].stamp(verdict("c"))])
    assert supersede(path, Verdict, EXPECTED) == 1
    assert list(read_records(path, Verdict)) == paid


def test_a_repeated_result_is_neither_superseded_nor_counted(tmp_path):
    path = tmp_path / "verdicts.harm.jsonl"
    write_records(path, [stamped(verdict("a"))] * 2)
    with pytest.raises(RunError, match="got a result for 'a' twice"):
        supersede(path, Verdict, EXPECTED)
