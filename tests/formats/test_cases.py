import json

import pytest

from derta.errors import DataError
from derta.formats.cases import JudgedCase, format_prompt, read_judged_cases
from derta.records import Message, Prompt, Reply, Verdict


def prompt(name: str = "p", **fields) -> Prompt:
    return Prompt(**({"id": name, "request_id": "r", "attack": "direct", "mode": "raw", "text": "Ask?"} | fields))


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts))


@pytest.fixture
def folder(tmp_path):
    """Two replies with verdicts of two judges; `harm` has none on the second."""
    files = {
        "prompts": [prompt("p"), prompt("q", attack="prefill", variant="50%")],
        "replies": [Reply(prompt_id="p", text="Yes."), Reply(prompt_id="q", text="No.")],
        "verdicts.harm": [Verdict(prompt_id="p", judge="harm", harmful=True)],
        "verdicts.refusal": [Verdict(prompt_id=name, judge="refusal", refused=name == "q") for name in "pq"],
    }
    for name, records in files.items():
        text = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (prompt(), "Ask?"),
        (prompt(mode="chat", text=None, messages=turns("Tea?")), "Tea?"),
        (prompt(mode="chat", text=None, messages=turns("Tea?"), prefill="First,"), "Tea?"),
        (
            prompt(mode="chat", text=None, messages=turns("Tea?", "Yes.", "How?")),
            "user: Tea?\n\nassistant: Yes.\n\nuser: How?",
        ),
        (
            prompt(
                mode="chat",
                text=None,
                messages=(
                    *turns("Tea?"),
                    Message(role="assistant", content="", tool_calls=({"name": "look"},)),
                    Message(role="tool", content="Green.", name="look"),
                ),
            ),
            'user: Tea?\n\nassistant: {"name": "look"}\n\ntool: Green.',
        ),
    ],
)
def test_a_prompt_is_one_text_without_template_and_prefill(source, expected):
    assert format_prompt(source) == expected


def test_an_outcome_is_none_without_a_verdict_and_without_a_score():
    verdicts = {"harm": Verdict(prompt_id="p", judge="harm", harmful=False)}
    case = JudgedCase(prompt(), Reply(prompt_id="p", text=""), verdicts)
    assert case.outcome("harm", "harmful") is False
    assert case.outcome("harm", "refused") is None
    assert case.outcome("refusal", "refused") is None


def test_replies_have_the_verdicts_of_all_judges_by_default(folder):
    cases = read_judged_cases(folder / "replies.jsonl")
    assert [(case.prompt.id, case.reply.text, sorted(case.verdicts)) for case in cases] == [
        ("p", "Yes.", ["harm", "refusal"]),
        ("q", "No.", ["refusal"]),
    ]
    assert [case.outcome("refusal", "refused") for case in cases] == [False, True]


def test_only_the_named_judges_and_the_named_cell_are_loaded(folder):
    [case] = read_judged_cases(folder / "replies.jsonl", judges=["refusal"], cell="prefill@50%")
    assert (case.prompt.id, [*case.verdicts]) == ("q", ["refusal"])


def test_prompts_may_be_in_another_folder(folder):
    (folder / "elsewhere").mkdir()
    prompts = (folder / "prompts.jsonl").rename(folder / "elsewhere" / "mine.jsonl")
    with pytest.raises(DataError, match=r"expected prompts\.jsonl"):
        read_judged_cases(folder / "replies.jsonl")
    assert len(read_judged_cases(folder / "replies.jsonl", prompts=prompts)) == 2


def test_a_missing_judge_is_answered_with_the_command_that_writes_its_verdicts(folder):
    with pytest.raises(DataError, match=r"expected verdicts\.gsm8k\.jsonl .*`derta judge \S+ --judge gsm8k --out \S+`"):
        read_judged_cases(folder / "replies.jsonl", judges=["refusal", "gsm8k"])


def test_an_unknown_cell_is_answered_with_the_cells_of_the_file(folder):
    with pytest.raises(DataError, match="--cell: no attack or data set 'prefil'; did you mean 'prefill@50%'"):
        read_judged_cases(folder / "replies.jsonl", cell="prefil")


def test_two_verdicts_on_one_reply_are_refused_and_on_two_samples_are_not(folder):
    path = folder / "verdicts.harm.jsonl"
    verdict = {"prompt_id": "p", "judge": "harm", "harmful": False}
    path.write_text(path.read_text() + json.dumps(verdict | {"sample": 1}) + "\n")
    assert read_judged_cases(folder / "replies.jsonl")[0].outcome("harm", "harmful") is True
    path.write_text(path.read_text() + json.dumps(verdict) + "\n")
    with pytest.raises(DataError, match=r"verdicts\.harm\.jsonl: expected one verdict per reply, got two on 'p'"):
        read_judged_cases(folder / "replies.jsonl")
