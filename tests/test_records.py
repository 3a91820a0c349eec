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
