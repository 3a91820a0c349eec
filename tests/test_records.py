import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from derta.records import Example, Message, Prompt, Reply, Request, Triple, Verdict, short_hash

ASKED = (Message(role="user", content="How do I bake bread?"),)


def prompt(**fields) -> Prompt:
    return Prompt(**({"id": "p", "request_id": "r", "request": "?", "attack": "direct"} | fields))


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize("field", ["query", "safe", "harmful"])
def test_a_triple_has_no_empty_text(field, text):
    with pytest.raises(ValidationError):
        Triple(**({"query": "q", "safe": "s", "harmful": "h"} | {field: text}))


def test_white_space_around_a_text_is_retained():
    assert Triple(query=" q\n", safe="s", harmful="h").query == " q\n"


def test_records_are_frozen_and_know_their_fields():
    request = Request(id="r", text="?")
    with pytest.raises(ValidationError):
        request.text = "!"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError):
        Request(id="r", text="?", behaviour="x")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "messages",
    [
        (),
        ASKED,
        (Message(role="assistant", content="Hello."),),
        (*ASKED, Message(role="assistant", content=" ")),
        (Message(role="user", content=""), Message(role="assistant", content="Hello.")),
    ],
)
def test_an_example_ends_with_an_answer_to_somebody(messages):
    with pytest.raises(ValidationError):
        Example(messages=messages)


def test_an_example_has_one_form():
    messages = (*ASKED, Message(role="assistant", content="Hello."))
    with pytest.raises(ValidationError, match="not both"):
        Example(messages=messages, text="Hello.")
    with pytest.raises(ValidationError):
        Example(text=" ")
    assert Example(text="Hello.").id != Example(messages=messages).id


def test_an_id_follows_the_content_and_not_the_source():
    triple = Triple(query="q", safe="s", harmful="h")
    assert triple.id == triple.model_copy(update={"source": "elsewhere"}).id
    assert triple.id != Triple(query="q", safe="h", harmful="s").id
    example = Example(messages=(*ASKED, Message(role="assistant", content="Mix flour.")))
    assert example.id == example.model_copy(update={"source": "elsewhere"}).id


@given(parts=st.lists(st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])), min_size=2))
def test_a_hash_tells_where_the_parts_meet(parts):
    assert short_hash(*parts) != short_hash("".join(parts))
    assert len(short_hash(*parts)) == 16


def test_a_hash_is_the_same_on_every_machine():
    # printf 'a\037b' | b2sum -l 64
    assert short_hash("a", "b") == "f84c4d669fe0d410"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": ()},
        {"messages": ASKED, "text": "x"},
        {"mode": "raw"},
        {"mode": "raw", "text": ""},
        {"mode": "raw", "text": "x", "messages": ASKED},
        {"mode": "raw", "text": "x", "prefill": "y"},
    ],
)
def test_a_prompt_has_exactly_one_form(fields):
    with pytest.raises(ValidationError):
        prompt(**fields)


@pytest.mark.parametrize(
    ("fields", "cell"),
    [
        ({}, "direct"),
        ({"attack": "prefill", "variant": "50%"}, "prefill@50%"),
        ({"suite": "over_refusal", "dataset": "xstest"}, "xstest"),
        ({"suite": "helpfulness"}, "direct"),
        ({"dataset": "harmbench"}, "direct (harmbench)"),
    ],
)
def test_a_prompt_counts_in_the_cell_of_its_attack_or_data_set(fields, cell):
    assert prompt(messages=ASKED, **fields).cell == cell


@pytest.mark.parametrize("depth", [{"amount": -1, "unit": "%"}, {"amount": 5, "unit": "words"}, {"amount": 5}])
def test_a_prefill_depth_is_an_amount_in_a_known_unit(depth):
    with pytest.raises(ValidationError):
        prompt(messages=ASKED, depth=depth)


def test_only_a_foreign_chat_prompt_may_lack_its_messages():
    assert prompt(foreign=True).request == "?"
    assert prompt(foreign=True, request=None).messages is None
    with pytest.raises(ValidationError):
        prompt(foreign=True, mode="raw")


def test_samples_of_one_prompt_have_keys_that_differ():
    keys = [Reply(prompt_id="p", text="", sample=sample).key for sample in (0, 1)]
    assert keys == [Verdict(prompt_id="p", judge="j", sample=sample).key for sample in (0, 1)] == [("p", 0), ("p", 1)]
    with pytest.raises(ValidationError):
        Reply(prompt_id="p", text="", sample=-1)


def test_what_is_not_said_is_none_and_never_false():
    verdict = Verdict(prompt_id="p", judge="j")
    assert (verdict.harmful, verdict.refused, verdict.correct) == (None, None, None)
    assert Reply(prompt_id="p", text="").stop_reason == "unknown"


CONTEXT = (Message(role="system", content="Be brief."), *ASKED, Message(role="assistant", content="Mix flour."))
CALL = Message(role="assistant", content="", tool_calls=({"function": {"name": "f", "arguments": {"b": 1, "a": 2}}},))
TOOL = Message(role="tool", content="", tool_call_id="1", name="f")


def test_the_id_of_a_triple_without_context_is_that_of_its_three_texts():
    assert Triple(query="q", safe="s", harmful="h").id == short_hash("q", "s", "h")
    assert Example(messages=(*ASKED, CONTEXT[2])).id == short_hash(
        "user\x1eHow do I bake bread?", "assistant\x1eMix flour."
    )


def test_the_id_of_a_triple_depends_on_its_context():
    plain = Triple(query="q", safe="s", harmful="h")
    others = [
        {"messages": CONTEXT},
        {"messages": CONTEXT[:2]},
        {"messages": (CALL, TOOL)},
        {"messages": (CALL,)},
        {"tools": ({"name": "f"},)},
        {"messages": CONTEXT, "tools": ({"name": "f"},)},
        {"messages": CONTEXT, "harmful_turns": (2,)},
    ]
    ids = [Triple(**plain.model_dump() | fields).id for fields in others]
    assert len({plain.id, *ids}) == len(others) + 1


def test_a_record_without_context_has_the_fields_that_it_had():
    assert set(Triple(query="q", safe="s", harmful="h").model_dump()) == {
        "query",
        "safe",
        "harmful",
        "category",
        "source",
    }
    assert ASKED[0].model_dump() == {"role": "user", "content": "How do I bake bread?"}
    assert not {"messages", "tools"} & set(Request(id="r", text="?").model_dump())
    assert "tools" not in prompt(messages=ASKED).model_dump()


def test_context_and_tools_survive_a_file():
    triple = Triple(
        query="q",
        safe="s",
        harmful="h",
        messages=(*CONTEXT, CALL, TOOL),
        harmful_turns=(2,),
        tools=({"function": {"name": "f", "parameters": {"z": [1, None, True], "a": {}}}},),
    )
    again = Triple.model_validate_json(triple.model_dump_json(exclude_defaults=True))
    assert again == triple
    assert again.id == triple.id
    assert list(again.tools[0]["function"]["parameters"]) == ["z", "a"], "the template sees the order of the file"
    assert list(again.messages[3].tool_calls[0]["function"]["arguments"]) == ["b", "a"]


def test_only_an_assistant_calls_tools_and_its_text_may_then_be_absent():
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    assert Message.model_validate({"role": "assistant", "content": None, "tool_calls": calls}).content == ""
    assert Message.model_validate({"role": "assistant", "tool_calls": calls}).content == ""
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "assistant", "content": None})
    with pytest.raises(ValidationError, match="belong to an assistant message"):
        Message.model_validate({"role": "user", "content": "q", "tool_calls": calls})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": (Message(role="user", content=" "),)}, "must not be empty"),
        ({"messages": CONTEXT, "harmful_turns": (1,)}, "indices of assistant messages, 1 is not"),
        ({"messages": CONTEXT, "harmful_turns": (3,)}, "indices of assistant messages, 3 is not"),
        ({"messages": CONTEXT, "harmful_turns": (-1,)}, "indices of assistant messages, -1 is not"),
        ({"messages": (CALL,), "harmful_turns": (0,)}, "messages with text, 0 has none"),
    ],
)
def test_a_context_has_no_empty_message_and_its_harmful_turns_are_answers(fields, reason):
    with pytest.raises(ValidationError, match=reason):
        Triple(query="q", safe="s", harmful="h", **fields)


def test_an_example_may_call_tools_before_its_answer_but_not_instead_of_it():
    answer = Message(role="assistant", content="Mix flour.")
    assert Example(messages=(*ASKED, CALL, TOOL, answer)).messages[1].content == ""
    with pytest.raises(ValidationError, match="must not be empty"):
        Example(messages=(*ASKED, CALL))
