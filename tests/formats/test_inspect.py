from datetime import UTC, datetime

import pytest

from derta.errors import EngineError
from derta.formats.cases import JudgedCase
from derta.formats.inspect import write_log
from derta.formats.replies import read_cases
from derta.records import Message, Prompt, Reply, Verdict

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def judged(name, *, harmful=None, refused=None, prefill=None, reason=""):
    prompt = Prompt(
        id=name,
        request_id="r",
        request="How do I bake?",
        attack="prefill",
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="How do I bake?")),
        prefill=prefill,
        category="kitchen",
    )
    verdicts = {
        "harm": Verdict(prompt_id=name, judge="harm", harmful=harmful, reason=reason),
        "refusal": Verdict(prompt_id=name, judge="refusal", refused=refused, reply_class="comply", refusal_at=7),
    }
    return JudgedCase(prompt, Reply(prompt_id=name, text="Mix flour.", stop_reason="length"), verdicts)


RAW = Prompt(id="raw", request_id="r", request="?", attack="completing", mode="raw", text="First clean")
CASES = [
    judged("a", harmful=True, refused=False, prefill="First,"),
    judged("b", harmful=False, refused=False),
    judged("c", refused=True, reason="no verdict word"),
    JudgedCase(RAW, Reply(prompt_id="raw", text=" the wood.", stop_reason="eos"), {}),
]


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("derta.formats.inspect.find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=r"run `pip install -e '\.\[inspect\]'`"):
        write_log(tmp_path / "x.eval", CASES, model="m", judges=["harm"], now=NOW)


@pytest.fixture
def log(tmp_path):
    reader = pytest.importorskip(
        "inspect_ai.log", reason="needs the extra `inspect`, which cannot be pinned beside the rest"
    )
    write_log(tmp_path / "logs" / "x.eval", CASES, model="derta-seed0", judges=["harm", "refusal"], now=NOW)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["x.eval"]
    return reader.read_eval_log(str(tmp_path / "logs" / "x.eval"))


def test_inspect_s_own_reader_finds_every_case(log):
    assert (log.status, log.eval.model, log.results.completed_samples) == ("success", "derta-seed0", 4)
    samples = {sample.id: sample for sample in log.samples}
    assert set(samples) == {"a", "b", "c", "raw"}
    assert [message.role for message in samples["a"].messages] == ["system", "user", "assistant", "assistant"]
    assert (samples["a"].output.completion, samples["a"].output.stop_reason) == ("Mix flour.", "max_tokens")
    assert (samples["raw"].input, samples["raw"].output.stop_reason) == ("First clean", "stop")
    assert samples["b"].metadata["category"] == "kitchen"
    assert {sample.target for sample in log.samples} == {"refuse"}


def test_a_log_of_one_cell_is_a_task_with_its_name_its_tokens_and_its_targets(tmp_path):
    reader = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    sums = [
        JudgedCase(
            Prompt(
                id=str(number), request_id="r", request="2 + 3?", attack="direct", suite="helpfulness", dataset="sums",
                messages=(Message(role="user", content="2 + 3?"),), answer="5" if number else None,
            ),
            Reply(prompt_id=str(number), text="5", token_ids=(7, 8), prompt_tokens=10),
            {"exact": Verdict(prompt_id=str(number), judge="exact", correct=True)},
        )
        for number in range(3)
    ]  # fmt: skip
    write_log(tmp_path / "x.eval", sums, model="m", judges=["exact"], now=NOW)
    log = reader.read_eval_log(str(tmp_path / "x.eval"))
    assert (log.eval.task, log.eval.dataset.name, log.eval.tags) == ("sums", "sums", ["helpfulness"])
    assert [sample.target for sample in log.samples] == ["answer", "5", "5"]
    usage = log.samples[0].output.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 2, 12)
    assert log.stats.model_usage["m"].total_tokens == 36
    cases = list(read_cases(tmp_path / "x.eval"))
    assert [case.prompt.answer for case in cases] == [None, "5", "5"]


def test_samples_of_a_prompt_are_epochs(tmp_path):
    reader = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    cases = [
        CASES[0]._replace(reply=CASES[0].reply.model_copy(update={"sample": number, "text": f"Mix {number}."}))
        for number in range(3)
    ]
    write_log(tmp_path / "x.eval", cases, model="m", judges=[], now=NOW)
    log = reader.read_eval_log(str(tmp_path / "x.eval"))
    assert (log.eval.config.epochs, log.eval.dataset.samples, log.results.total_samples) == (3, 1, 3)
    assert [(one.reply.sample, one.reply.text) for one in read_cases(tmp_path / "x.eval")] == [
        (number, f"Mix {number}.") for number in range(3)
    ]


def test_verdicts_are_scores_and_what_is_unscored_stays_so(log):
    samples = {sample.id: sample for sample in log.samples}
    values = {name: sample.scores["harm:harmful"].value for name, sample in samples.items() if sample.scores}
    assert (values["a"], values["b"]) == (1.0, 0.0)
    assert values["c"] != values["c"]  # NaN: Inspect's sign for unscored
    assert samples["c"].scores["harm:harmful"].explanation == "no verdict word"
    assert samples["a"].scores["refusal:refused"].metadata == {"reply_class": "comply", "refusal_at": 7}
    assert not samples["raw"].scores
    totals = {score.name: score for score in log.results.scores}
    harm, refusal = totals["harm:harmful"], totals["refusal:refused"]
    assert (harm.metrics["mean"].value, harm.scored_samples, harm.unscored_samples) == (0.5, 2, 1)
    assert refusal.metrics["mean"].value == pytest.approx(1 / 3)
