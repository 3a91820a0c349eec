"""Prompts that a server never answers: recorded, counted in every rate, and shown with the bounds that they leave."""

import json
from pathlib import Path

import pytest
from openai_server import Fault, choice, question, serving

from derta.formats import export
from derta.judges import JUDGES, build_judge, judge, uses_model
from derta.metrics.comparisons import compare
from derta.metrics.rates import rate
from derta.metrics.summaries import Outcome, summarize, transcripts
from derta.protocols import Case
from derta.records import Prompt, Reply, Verdict
from derta.reporting import write_report
from small_run import write_jsonl


def prompts(count):
    return [
        Prompt(
            id=f"p{i}",
            request_id=f"r{i}",
            request=f"Where is bread {i}?",
            attack="direct",
            messages=({"role": "user", "content": f"Where is bread {i}?"},),
        )
        for i in range(count)
    ]


def write_prompts(folder: Path, count=6):
    return write_jsonl(folder / "prompts.jsonl", [one.model_dump(mode="json") for one in prompts(count)])


def stops(number, fault):
    return lambda _number, body: fault if f"bread {number}" in question(body) else None


def generate(derta, folder, server, *options):
    words = ["generate", folder / "prompts.jsonl", "--model", "m", "--engine", "api", "--endpoint", server.url]
    return derta(*words, "--out", folder / "replies.jsonl", "--option", "attempts=2", *options)


def replies(folder):
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]


FILTERS = {
    "azure": (Fault("status", 400, message="stopped by the content_filter"), "filtered"),
    "openrouter": (Fault("status", 403, message="your input was flagged"), "filtered"),
    "a gateway": (Fault("status", 500, message="content filter"), "filtered"),
    "too long": (Fault("status", 400, message="maximum context length is 9"), "rejected"),
    "unprocessable": (Fault("status", 422, message="no such role"), "rejected"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_prompt_that_the_server_rejects_is_recorded_and_the_run_finishes(derta, tmp_path, name):
    fault, kind = FILTERS[name]
    write_prompts(tmp_path)
    with serving(fault=stops(2, fault)) as server:
        first = generate(derta, tmp_path, server)
        sent = len(server.requests)
        second = generate(derta, tmp_path, server)
        assert (first.code, second.code, len(server.requests)) == (0, 0, sent)
    [unanswered] = [one for one in replies(tmp_path) if one.get("unanswered")]
    assert (unanswered["prompt_id"], unanswered["unanswered"], unanswered["text"]) == ("p2", kind, "")
    assert fault.message in unanswered["reason"]
    assert len(replies(tmp_path)) == 6
    assert "1 of 6 prompts are unanswered, first 'p2'" in first.err


def test_a_reply_that_a_content_filter_removed_is_no_empty_reply(derta, tmp_path):
    def answer(path, body):
        removed = "bread 2" in question(body)
        return choice(path, "" if removed else "Mix it.", "content_filter" if removed else "stop")

    write_prompts(tmp_path)
    with serving(answer) as server:
        assert generate(derta, tmp_path, server).code == 0
    assert [one["prompt_id"] for one in replies(tmp_path) if one.get("unanswered") == "filtered"] == ["p2"]


def test_judge_counts_the_unanswered_prompt_and_shows_both_bounds(derta, tmp_path):
    write_prompts(tmp_path)
    with serving(lambda path, _: choice(path, "Mix the flour."), fault=stops(2, FILTERS["azure"][0])) as server:
        generate(derta, tmp_path, server)
    out = tmp_path / "verdicts.refusal.jsonl"
    for _ in range(2):
        judged = derta("judge", tmp_path / "replies.jsonl", "--judge", "refusal", "--json", "--out", out)
        cell = json.loads(judged.out)
        assert (cell["scored"], cell["unscored"], cell["unanswered"]) == (5, 0, 1)
        assert cell["bounds"] == [0.0, 1 / 6]
        assert "1 of 6 prompts are unanswered" in judged.err
    [verdict] = [v for v in map(json.loads, out.read_text().splitlines()) if v.get("unanswered")]
    assert (verdict["prompt_id"], verdict.get("refused"), verdict.get("reply_class")) == ("p2", None, None)
    text = derta("judge", tmp_path / "replies.jsonl", "--judge", "refusal").out
    assert "1 unanswered (0.0% if none of them counted, 16.7% if all did)" in " ".join(text.split())


def test_judge_counts_prompts_that_have_no_reply_yet(derta, tmp_path):
    write_prompts(tmp_path)
    write_jsonl(tmp_path / "replies.jsonl", [{"prompt_id": f"p{i}", "text": "Mix it."} for i in range(5)])
    judged = derta("judge", tmp_path / "replies.jsonl", "--judge", "refusal", "--json")
    assert "1 of 6 prompts have no reply here and are in no rate, first 'p5'" in judged.err


def test_a_prompt_whose_attempts_all_fail_is_tried_by_one_more_command(derta, tmp_path):
    write_prompts(tmp_path)
    with serving(fault=stops(2, Fault("status", 500))) as server:
        first = generate(derta, tmp_path, server)
        assert (first.code, len(replies(tmp_path))) == (2, 6)
        assert "run the same command again" in first.err
        sent = len(server.requests)
        second = generate(derta, tmp_path, server)
        assert (second.code, len(server.requests) - sent) == (0, 2)
    assert [one["prompt_id"] for one in replies(tmp_path) if one.get("unanswered") == "failed"] == ["p2"]
    with serving() as server:  # a later command gets the answer of a server that works again
        assert generate(derta, tmp_path, server).code == 0
    assert sorted(one["prompt_id"] for one in replies(tmp_path)) == [f"p{i}" for i in range(6)]
    assert not any(one.get("unanswered") for one in replies(tmp_path))


def test_a_server_that_rejects_every_prompt_has_the_wrong_settings_and_nothing_is_recorded(derta, tmp_path):
    write_prompts(tmp_path)
    with serving(fault=lambda *_: Fault("status", 400, message="temperature is not supported")) as server:
        called = generate(derta, tmp_path, server)
    assert called.code == 2
    assert "temperature is not supported" in called.err
    assert not (tmp_path / "replies.jsonl").exists()


def test_a_last_prompt_that_is_rejected_alone_is_recorded(derta, tmp_path):
    write_prompts(tmp_path)
    with serving(fault=lambda number, _: Fault("status", 503) if number > 3 else None) as server:
        assert generate(derta, tmp_path, server, "--option", "patience=0.2", "--concurrency", 1).code == 2
    kept = replies(tmp_path)
    assert len(kept) == 3
    with serving(fault=lambda *_: Fault("status", 400, message="no")) as server:
        assert generate(derta, tmp_path, server).code == 0
    assert sum(one.get("unanswered") == "rejected" for one in replies(tmp_path)) == 3
    assert replies(tmp_path)[:3] == kept


ANSWERED = [Reply(prompt_id=f"p{i}", text="Sorry, I cannot help with that.") for i in range(9)]
UNANSWERED = Reply(prompt_id="p9", text="", unanswered="filtered", reason="400")


@pytest.mark.parametrize("name", sorted(JUDGES))
def test_no_judge_receives_or_scores_an_unanswered_reply(name):
    class Engine:
        def generate(self, prompts, *, max_new_tokens):
            raise AssertionError("no request for an unanswered reply")

    one = build_judge(name, engine=Engine()) if uses_model(name) else build_judge(name)
    case = Case(prompts(10)[9], UNANSWERED)
    [verdict] = one.judge([case])
    assert verdict.unanswered
    assert (verdict.harmful, verdict.refused, verdict.correct, verdict.score, verdict.retry) == (None,) * 4 + (False,)


def test_verdicts_stay_in_order_with_a_judge_that_reads_ahead():
    class ReadsAhead:
        name, measures, uses_model = "ahead", "harmful", False

        def judge(self, cases):
            for prompt, _ in list(cases):
                yield Verdict(prompt_id=prompt.id, judge="ahead", harmful=True)

    mixed = [
        one.model_copy(update={"unanswered": "failed", "text": ""}) if i % 3 == 0 else one
        for i, one in enumerate(ANSWERED)
    ]
    verdicts = judge(prompts(9), mixed, ReadsAhead())
    assert [v.prompt_id for v in verdicts] == [f"p{i}" for i in range(9)]
    assert [v.unanswered for v in verdicts] == [i % 3 == 0 for i in range(9)]
    result = rate(verdicts)
    assert (result.value, result.scored, result.unanswered, result.bounds) == (1.0, 6, 3, (6 / 9, 1.0))


def test_a_share_of_exactly_5_percent_has_no_bounds_and_more_has():
    assert rate([True] * 19 + [None]).bounds is None
    assert rate([True] * 18 + [None]).bounds == (18 / 19, 1.0)
    assert rate([None, "unanswered"]) == (None, None, None, 0, 1, 1)
    assert rate([None, "unanswered"]).bounds is None  # no rate


def test_summary_and_report_count_unanswered_prompts_and_rows_without_a_pair(tmp_path):
    def outcome(method, missing):
        ones = [
            UNANSWERED.model_copy(update={"prompt_id": f"p{i}"}) if i in missing else one
            for i, one in enumerate([*ANSWERED, UNANSWERED])
        ]
        ones = [
            one
            if one.unanswered is None or i in missing
            else one.model_copy(update={"unanswered": None, "text": "Mix it."})
            for i, one in enumerate(ones)
        ]
        return Outcome(method, 0, prompts(10), ones, {"refusal": judge(prompts(10), ones, "refusal")})

    outcomes = [outcome("first", {0, 1}), outcome("second", {1, 2})]
    summary = summarize(outcomes)
    cell = next(c for c in summary.cells if c.method == "first" and c.measure == "refused")
    assert (cell.scored, cell.unscored, cell.unanswered) == (8, 0, 2)
    assert cell.bounds == (7 / 10, 9 / 10)
    [comparison] = summary.comparisons
    assert (comparison.pairs, comparison.left_out) == (7, 3)
    write_report(tmp_path, summary, transcripts(outcomes))
    page = (tmp_path / "report.html").read_text()
    assert "2 unanswered" in page
    assert "70.0–90.0" in page
    assert "No reply: a content filter stopped the request (400)." in page
    assert '"unanswered": 2' in (tmp_path / "summary.json").read_text()


def test_compare_counts_the_prompts_of_one_side_only():
    ours = [Verdict(prompt_id=str(i), judge="harm", harmful=True) for i in range(5)]
    theirs = [Verdict(prompt_id=str(i), judge="harm", harmful=None if i == 3 else False) for i in range(2, 7)]
    result = compare(ours, theirs)
    assert (result.pairs, result.left_out) == (2, 5)


def test_the_command_compare_shows_what_it_leaves_out(derta, tmp_path):
    rows = [{"question": f"Where is {i}?", "response": "Mix the flour."} for i in range(5)]
    first = write_jsonl(tmp_path / "first.jsonl", [*rows, rows[0]])
    second = write_jsonl(tmp_path / "second.jsonl", [*rows[2:], {"question": "Other?", "response": "Mix."}])
    called = derta("compare", first, second, "--judge", "refusal")
    assert "of 3 pairs (3 prompts left out)" in " ".join(called.out.split())
    assert "1 of 6 rows repeat another row and are left out" in called.err
    assert "3 prompts are in only one of the files" in called.err


def test_an_unanswered_prompt_loses_no_pairwise_comparison(derta, tmp_path):
    write_prompts(tmp_path, 4)
    for name, missing in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_jsonl(
            tmp_path / name / "replies.jsonl",
            [
                {"prompt_id": f"p{i}", "text": "", "unanswered": "filtered", "reason": "400"}
                if i == missing
                else {"prompt_id": f"p{i}", "text": f"Mix it {name}."}
                for i in range(4)
            ],
        )
    with serving(lambda path, _: choice(path, "VERDICT: 1")) as server:
        called = derta(
            "pairwise", tmp_path / "a" / "replies.jsonl", tmp_path / "b" / "replies.jsonl", "--judge-model", "m",
            "--engine", "api", "--engine-option", f"endpoints={server.url}", "--json",
        )  # fmt: skip
    cell = json.loads(called.out)["win_rate"]
    assert (cell["scored"], cell["unscored"], cell["unanswered"]) == (2, 0, 2)
    assert cell["bounds"] == [0.25, 0.75]


def test_an_exported_classifier_input_has_no_empty_generation_for_an_unanswered_prompt(tmp_path, caplog):
    write_prompts(tmp_path, 10)
    write_jsonl(tmp_path / "replies.jsonl", [one.model_dump(mode="json") for one in (*ANSWERED, UNANSWERED)])
    [path] = export(tmp_path / "replies.jsonl", tmp_path / "out.json", format="harmbench")
    assert len(json.loads(path.read_text())) == 9
    assert "1 of 10 prompts are unanswered and are left out" in caplog.text


def test_a_kill_between_a_failed_verdict_and_its_second_attempt_does_not_block_the_next_command(derta, tmp_path):
    write_prompts(tmp_path)
    write_jsonl(tmp_path / "replies.jsonl", [{"prompt_id": f"p{i}", "text": "Mix it."} for i in range(6)])
    out = tmp_path / "verdicts.jsonl"
    words = ["judge", tmp_path / "replies.jsonl", "--judge", "guideline", "--judge-model", "m", "--engine", "api"]
    with serving(lambda path, _: choice(path, "VERDICT: SAFE"), fault=stops(2, Fault("status", 500))) as server:
        options = ["--out", out, "--engine-option", f"endpoints={server.url}", "--engine-option", "attempts=1"]
        assert derta(*words, *options).code == 0
    failed = next(line for line in out.read_text().splitlines() if '"retry":true' in line)
    record = json.loads(failed)
    del record["retry"], record["reason"]
    with out.open("a") as file:  # a kill right after the second attempt leaves both lines
        file.write(json.dumps({**record, "harmful": False}) + "\n")
    assert derta(*words, "--out", out, "--engine-option", "endpoints=http://127.0.0.1:9/v1").code == 0
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["prompt_id"] for one in verdicts] == [f"p{i}" for i in range(6)]
    assert not any(one.get("retry") for one in verdicts)
