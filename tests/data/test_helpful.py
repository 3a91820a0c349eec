import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_files import every_kind
from derta.data.helpful import HELPFUL_FORMATS, load_examples, read_examples
from derta.errors import DataError
from derta.files import write_records

ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "bread?"}, {"role": "assistant", "content": "flour"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "bread?"}, {"from": "gpt", "value": "flour"}]},
    "alpaca": {"instruction": "bread?", "input": "", "output": "flour"},
    "dolly": {"instruction": "bread?", "context": "", "response": "flour", "category": "open_qa"},
    "prompt_completion": {"prompt": "bread?", "completion": "flour"},
    "preference": {"prompt": "bread?", "chosen": "flour", "rejected": "stones"},
    "implicit_preference": {
        "chosen": [{"role": "user", "content": "bread?"}, {"role": "assistant", "content": "flour"}],
        "rejected": [{"role": "user", "content": "bread?"}, {"role": "assistant", "content": "stones"}],
    },
    "hh": {
        "chosen": "\n\nHuman: bread?\n\nAssistant: flour",
        "rejected": "\n\nHuman: bread?\n\nAssistant: stones",
    },
    "wildjailbreak": {"vanilla": "bread?", "adversarial": "", "completion": "flour", "data_type": "vanilla_benign"},
    "wildguard": {
        "prompt": "bread?",
        "response": "flour",
        "prompt_harm_label": "unharmful",
        "response_harm_label": "unharmful",
        "response_refusal_label": "compliance",
    },
    "aisafetylab": {"input": "bread?", "output": "flour", "label": 0},
    "text": {"text": " Bread needs flour.\n"},
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", HELPFUL_FORMATS)
def test_every_format_is_detected_by_its_fields_and_parsed_as_the_example(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "kitchen.json", [ROWS[name]])
    read = read_examples(path)
    turns = [(m.role, m.content) for m in read.examples[0].messages]
    raw = name == "text"
    assert turns == ([] if raw else [("user", "bread?"), ("assistant", "flour")])
    assert read.examples[0].text == ("Bread needs flour." if raw else None)
    assert read.examples[0].source == "kitchen"
    assert read == read_examples(path, format=name)
    assert not read.dropped


@pytest.mark.parametrize("name", HELPFUL_FORMATS)
def test_files_of_every_kind_have_the_same_examples(tmp_path: Path, name: str) -> None:
    rows = [json.loads(json.dumps(ROWS[name]).replace("lour", f"lour {i}")) for i in range(5)]
    for path in every_kind(tmp_path, rows):
        read = read_examples(path)
        answers = [example.text or example.messages[-1].content for example in read.examples]
        assert answers == [f"Bread needs flour {i}." if name == "text" else f"flour {i}" for i in range(5)], path
        assert not read.dropped


def test_an_input_is_below_its_instruction_and_optional(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": "b, a", "output": "a, b"}, {"instruction": "Hello", "output": "Hi"}]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert [example.messages[0].content for example in read.examples] == ["Sort.\n\nb, a", "Hello"]


def test_a_text_beside_an_instruction_is_its_other_form_and_an_empty_one_is_dropped(tmp_path: Path) -> None:
    [example] = read_examples(write(tmp_path / "a.json", [{**ROWS["alpaca"], "text": "bread? flour"}])).examples
    assert example.text is None
    read = read_examples(write(tmp_path / "b.json", [ROWS["text"], {"text": " "}]))
    assert (len(read.examples), read.dropped) == (1, Counter(empty_text=1))


def test_every_role_of_sharegpt_is_known(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "bread?"), ("assistant", "flour"), ("human", "salt?"), ("gpt", "yes")]
    rows = [{"conversations": [{"from": role, "value": text} for role, text in turns]}]
    [example] = read_examples(write(tmp_path / "a.json", rows)).examples
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_an_input_without_an_instruction_adds_no_blank_lines(tmp_path: Path) -> None:
    rows = [{"instruction": "", "input": "b, a", "output": "a, b"}, ROWS["alpaca"]]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert [example.messages[0].content for example in read.examples] == ["bread?"]
    assert read.dropped == Counter(empty_turn=1)


def test_loading_logs_what_was_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [ROWS["alpaca"], {"instruction": "Tea?", "output": ""}]
    assert len(load_examples(write(tmp_path / "a.json", rows))) == 1
    assert caplog.messages == [f"{tmp_path}/a.json: 1 helpful examples; dropped: 1 empty_turn"]


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    for name in ("messages", "text"):
        examples = read_examples(write(tmp_path / "a.json", [ROWS[name]])).examples
        write_records(tmp_path / "a.jsonl", examples)
        assert read_examples(tmp_path / "a.jsonl").examples == examples


def test_refusals_and_harmful_answers_are_not_helpful_rows(tmp_path: Path) -> None:
    rows = [
        {"input": "q", "output": "no", "label": 1},
        {"input": "q", "output": "yes", "label": 2},
        ROWS["aisafetylab"],
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert (len(read.examples), read.dropped) == (1, Counter(refusal_or_harmful=2))


def test_of_wildjailbreak_and_wildguard_only_answered_harmless_requests_are_helpful(tmp_path: Path) -> None:
    benign = ROWS["wildjailbreak"]
    rows = [
        benign,
        {**benign, "data_type": "vanilla_harmful"},
        {**benign, "adversarial": "Pretend. bread?", "data_type": "adversarial_benign"},
        {**benign, "adversarial": "Pretend. bread?", "data_type": "adversarial_harmful"},
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert [example.messages[0].content for example in read.examples] == ["bread?", "Pretend. bread?"]
    assert read.dropped == Counter(harmful_request=2)
    with pytest.raises(DataError, match="data_type: expected such as vanilla_benign, got 'x_y'"):
        read_examples(write(tmp_path / "a.json", [{**benign, "data_type": "x_y"}]))
    labelled = ROWS["wildguard"]
    rows = [
        labelled,
        {**labelled, "prompt_harm_label": "harmful"},
        {**labelled, "response_harm_label": "harmful"},
        {**labelled, "response_refusal_label": "refusal"},
        {**labelled, "response": None, "response_harm_label": None, "response_refusal_label": None},
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert len(read.examples) == 1
    assert read.dropped == Counter(prompt_harm=1, response_harm=1, response_refusal=1, unlabelled=1)


def turns_of(path: Path, **options: Any) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in one.messages] for one in read_examples(path, **options).examples]


TURNS = [
    ("system", "Be brief."),
    ("user", "Bread?"),
    ("assistant", "Flour."),
    ("user", "And rye?"),
    ("assistant", "Rye flour."),
]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "And rye?", "output": "Rye flour.", "system": "Be brief.", "history": [["Bread?", "Flour."]]},
        {
            "Instruction": "And rye?",
            "Output": "Rye flour.",
            "system": "Be brief.",
            "history": '[["Bread?", "Flour."]]',
        },
        {"messages": [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TURNS]},
        {"messages": {"role": [role for role, _ in TURNS], "content": [text for _, text in TURNS]}},
        {"messages": str([{"role": role, "content": text} for role, text in TURNS])},
        {"messages": [{"role": role, "content": text} for role, text in TURNS[1:]], "system": "Be brief."},
        {"conversations": [{"from": role, "value": text} for role, text in TURNS]},
        {"conversations": [{"role": role, "content": text} for role, text in TURNS]},
        {
            "prompt": [{"role": role, "content": text} for role, text in TURNS[:4]],
            "completion": [{"role": "assistant", "content": "Rye flour."}],
        },
        {
            "system_prompt": "Be brief.",
            "question": "\n\nHuman: Bread?\n\nAssistant: Flour.\n\nHuman: And rye?\n\nAssistant:",
            "response": "Rye flour.",
        },
        {
            "prompt": "And rye?",
            "chosen": [{"role": role, "content": text} for role, text in TURNS],
            "rejected": [{"role": role, "content": text} for role, text in TURNS[:4]],
        },
    ],
)
def test_earlier_turns_and_the_system_prompt_are_read_in_every_form(tmp_path: Path, row: dict[str, Any]) -> None:
    assert turns_of(write(tmp_path / "a.json", [row])) == [TURNS]


def test_tools_calls_and_results_are_read_from_messages(tmp_path: Path) -> None:
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"word": "rye"}}}]
    row = {
        "messages": [
            {"role": "user", "content": "rye?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "a grain", "name": "look", "tool_call_id": "1"},
            {"role": "assistant", "content": "A grain."},
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    [example] = read_examples(write(tmp_path / "a.json", [row])).examples
    assert example.messages[1].tool_calls == tuple(calls)
    assert (example.messages[2].role, example.messages[2].name, example.messages[2].tool_call_id) == (
        "tool",
        "look",
        "1",
    )
    assert example.tools == tuple(row["tools"])
    write_records(tmp_path / "a.jsonl", [example])
    assert read_examples(tmp_path / "a.jsonl").examples == [example]


def test_turns_of_unknown_roles_and_parts_that_are_no_text_are_dropped_and_counted(tmp_path: Path) -> None:
    answer = ROWS["messages"]["messages"][1]
    rows = [
        ROWS["messages"],
        {"messages": [{"role": "cook", "content": "x"}, answer]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, answer]},
        {"messages": [{"role": "system", "content": "Be kind."}, *ROWS["messages"]["messages"]], "system": "Be brief."},
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert (len(read.examples), read.dropped) == (1, Counter(unknown_role=1, part_is_no_text=1, two_system_prompts=1))


def test_keys_of_turns_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    question, answer = ROWS["messages"]["messages"]
    row = {"messages": [question, {**answer, "thinking": "grain", "weight": 1}], "id": 3}
    with caplog.at_level("INFO", logger="derta"):
        read_examples(write(tmp_path / "a.json", [row, row]))
    assert caplog.messages == [
        f"{tmp_path}/a.json: columns that are not read: id, messages[].thinking, messages[].weight"
    ]


@pytest.mark.parametrize("label", ["label", "is_safe", "final_label", "Label"])
@pytest.mark.parametrize("name", ["alpaca", "dolly", "prompt_completion"])
def test_labelled_replies_are_helpful_only_by_name(tmp_path: Path, name: str, label: str) -> None:
    path = write(tmp_path / "a.json", [{**ROWS[name], label: 1}])
    with pytest.raises(DataError, match=f"format {name}, but {label.lower()} may tell .*set `format: {name}`"):
        read_examples(path)
    assert len(read_examples(path, format=name).examples) == 1


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"Frage": "bread?", "Antwort": "flour"}])
    assert turns_of(path, columns={"prompt": "Frage", "completion": "Antwort"}) == [
        [("user", "bread?"), ("assistant", "flour")]
    ]
    with pytest.raises(DataError, match=r"columns: unknown name 'promt'; did you mean 'prompt'\?"):
        read_examples(path, columns={"promt": "Frage"})
    with pytest.raises(DataError, match="columns: unknown name 'query'"):
        read_examples(path, format="alpaca", columns={"query": "Frage"})


def test_rows_without_an_answer_or_with_an_empty_turn_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        ROWS["messages"],
        {"messages": ROWS["messages"]["messages"][:1]},
        {"messages": [*ROWS["messages"]["messages"], {"role": "user", "content": "thanks"}]},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "flour"}]},
        {"messages": []},
        {"messages": None},
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert len(read.examples) == 1
    assert read.dropped == Counter(no_answer=4, empty_turn=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}], r"a\.json\[0\]: no known format has the fields none; expected one of: messages"),
        ([{"title": "bread"}], r"a\.json\[0\]: no known format has the fields title; expected one of: messages"),
        ([ROWS["alpaca"], {"instruction": "bread?"}], r"a\.json\[1\]: expected a field 'output', got instruction"),
        ([{"messages": "bread?"}], r"a\.json\[0\]: messages: expected a list of turns, got a text"),
        ([{"messages": ["bread?"]}], r"a\.json\[0\]: messages: expected a list of turns, got a list of other values"),
        ([{"messages": [{"content": "x"}]}], r"a\.json\[0\]: messages\[0\]: expected a field 'role', got content"),
        ([{"messages": [{"role": "user", "content": [{"type": "text"}]}]}], r"expected a part \{type: text, text"),
        ([{"messages": [{"role": "user", "content": 5}]}], r"messages\[0\]: expected text or parts, got a number"),
        (
            [{**ROWS["alpaca"], "history": [["x"]]}],
            r"history\[0\]: expected a question and its answer, got \"\['x'\]\"",
        ),
        ([{**ROWS["alpaca"], "history": "x"}], r"history: expected a list of earlier turns, got 'x'"),
        ([{"messages": [{"role": "user"}]}], r"a\.json\[0\]: messages\[0\]: expected a field 'content', got role"),
        ([{"messages": [{"role": "cook", "content": "x"}]}], r"found none \(\{'unknown_role': 1\}\)"),
        ([{"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}], r"tool_calls belong to an assistant"),
        (
            [{"instruction": "bread?", "output": " "}],
            r"a\.json: expected helpful rows, found none \(\{'empty_turn': 1\}\)",
        ),
    ],
)
def test_an_invalid_row_is_reported_with_file_and_place(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path / "a.json", rows))
