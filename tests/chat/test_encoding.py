from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from derta.chat import (
    ChatFormat,
    answer_head,
    chat_format,
    encode_after,
    encode_continuation,
    encode_prompt,
    encode_turn,
    read_template,
)
from derta.errors import ModelError
from derta.records import Message, Prompt

ASKED = (Message(role="user", content="How do I bake bread?"),)
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
# the fixtures only read what they give, so one of each serves all examples of a property
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<" not in text)


def chat_prompt(prefill: str | None = None) -> Prompt:
    return Prompt(id="p", request_id="r", request="?", attack="direct", messages=ASKED, prefill=prefill)


def raw_prompt(text: str) -> Prompt:
    return Prompt(id="p", request_id="r", request="?", attack="completing", mode="raw", text=text)


def decoded(chat: ChatFormat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def test_auto_is_the_tokenizers_own_template(tiny_chat):
    assert answer_head(tiny_chat, ASKED).text == "<s><|user|>\nHow do I bake bread?<|end|>\n<|assistant|>\n"


def test_paper_and_paper_eval_are_the_released_formats(tiny_tokenizer):
    paper = chat_format(tiny_tokenizer, template="paper")
    paper_eval = chat_format(tiny_tokenizer, template="paper_eval")
    assert answer_head(paper, ASKED).text == "<s>[INST] How do I bake bread? [\\INST] "
    assert answer_head(paper_eval, ASKED).text == "<s>[INST] \nHow do I bake bread?\n\n [\\INST] "


def test_a_jinja_file_is_a_template(tiny_tokenizer, tmp_path):
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN_TEMPLATE)
    assert read_template(str(path), tiny_tokenizer) == PLAIN_TEMPLATE


def test_a_missing_template_file_is_reported(tiny_tokenizer):
    with pytest.raises(ModelError, match=r"readable Jinja file, got 'nowhere\.jinja'"):
        chat_format(tiny_tokenizer, template="nowhere.jinja")


def test_a_turn_ends_with_the_templates_own_token_and_eos_stops_too(tiny_chat, tiny_tokenizer):
    end = tiny_tokenizer.convert_tokens_to_ids("<|end|>")
    assert tiny_chat.closing_ids == (end,)
    assert tiny_chat.stop_ids == {end, tiny_tokenizer.eos_token_id}


def test_a_template_that_closes_nothing_is_closed_with_eos(tiny_tokenizer, tmp_path):
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN_TEMPLATE.replace("assistant: ", ""))
    assert chat_format(tiny_tokenizer, template=str(path)).closing_ids == (tiny_tokenizer.eos_token_id,)


@pytest.mark.parametrize("prefill", [None, "Sure, here"])
@pytest.mark.parametrize("template", ["auto", "paper", "plain"])
def test_every_path_gives_exactly_one_bos(make_tokenizer, tmp_path, template, prefill):
    plain = tmp_path / "plain"
    plain.write_text(PLAIN_TEMPLATE)
    tokenizer = make_tokenizer()
    chat = chat_format(tokenizer, template=str(plain) if template == "plain" else template)
    turn = encode_turn(chat, ASKED, "Sorry, no.")
    for ids in (encode_prompt(chat, chat_prompt(prefill)), encode_prompt(chat, raw_prompt("Step 1:")), turn.prompt_ids):
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_without_bos_gets_none(make_tokenizer):
    chat = chat_format(make_tokenizer(bos=False))
    assert decoded(chat, encode_prompt(chat, raw_prompt("Step 1:"))) == "Step 1:"
    assert decoded(chat, encode_prompt(chat, chat_prompt())).startswith("<|user|>")


def test_a_prefill_continues_and_is_not_closed(tiny_chat):
    ids = encode_prompt(tiny_chat, chat_prompt("Sure, here are"))
    assert decoded(tiny_chat, ids) == answer_head(tiny_chat, ASKED).text + "Sure, here are"


def test_a_blank_that_ends_the_template_is_left_to_the_answers_first_token(tiny_tokenizer):
    chat = chat_format(tiny_tokenizer, template="paper")
    [spaced_sorry] = encode_continuation(chat, "Sorry", spaced=True)
    turn = encode_turn(chat, ASKED, "Sorry")
    assert turn.response_ids == [spaced_sorry]
    assert turn.prompt_ids == encode_prompt(chat, chat_prompt())
    assert decoded(chat, turn.prompt_ids) == answer_head(chat, ASKED).text.rstrip(" ")


def test_a_token_across_the_border_belongs_to_the_response(tiny_tokenizer):
    chat = chat_format(tiny_tokenizer, template="paper")
    turn = encode_turn(chat, ASKED, "Sorry, no.")
    assert decoded(chat, turn.response_ids) == " Sorry, no."
    assert turn.response_ends[0] == len("Sorry")


@shared_fixture
@given(response=plain_text)
def test_prompt_and_response_ids_decode_to_the_whole_text(tiny_chat, response):
    turn = encode_turn(tiny_chat, ASKED, response)
    assert decoded(tiny_chat, turn.prompt_ids + turn.response_ids) == answer_head(tiny_chat, ASKED).text + response


@shared_fixture
@given(prefill=plain_text, continuation=plain_text)
def test_a_continuation_is_split_off_behind_the_prefill(tiny_chat, prefill, continuation):
    turn = encode_after(tiny_chat, chat_prompt(prefill or None), continuation)
    whole = answer_head(tiny_chat, ASKED).text + prefill + continuation
    assert decoded(tiny_chat, turn.prompt_ids + turn.response_ids) == whole
    assert not turn.response_ids or turn.response_ends[-1] == len(continuation)


def test_a_continuation_of_raw_text_is_split_off_behind_the_text(tiny_chat):
    turn = encode_after(tiny_chat, raw_prompt("Step 1:"), " boil the water.")
    assert decoded(tiny_chat, turn.prompt_ids) == "<s>Step 1:"
    assert decoded(tiny_chat, turn.response_ids) == " boil the water."


def test_a_continuation_is_encoded_as_it_stands_in_text(tiny_chat):
    spaced = encode_continuation(tiny_chat, "Sorry, no", spaced=True)
    bare = encode_continuation(tiny_chat, "Sorry, no", spaced=False)
    assert decoded(tiny_chat, spaced) == " Sorry, no"
    assert decoded(tiny_chat, bare) == "Sorry, no"


def test_a_tokenizer_without_template_is_refused_with_the_way_out(make_tokenizer):
    with pytest.raises(ModelError, match="found none; set `template: paper`"):
        chat_format(make_tokenizer(chat_template=None))


def test_a_tokenizer_without_eos_is_refused(make_tokenizer):
    with pytest.raises(ModelError, match="expected an EOS token"):
        chat_format(make_tokenizer(eos=False), template="paper")


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ModelError, match="expected a fast tokenizer"):
        chat_format(ByT5Tokenizer(), template="paper")


def test_a_template_that_drops_the_answer_is_refused(make_tokenizer):
    with pytest.raises(ModelError, match="drops the assistant's text"):
        chat_format(make_tokenizer(chat_template="{{ messages[0].content }}"))


def test_a_template_that_knows_no_system_role_says_so(make_tokenizer):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    chat = chat_format(make_tokenizer(chat_template=template))
    with pytest.raises(ModelError, match=r"refused a conversation of \['system', 'user'\]: no system role"):
        answer_head(chat, (Message(role="system", content="Be kind."), *ASKED))


def test_settings_reach_the_template(make_tokenizer):
    template = "{% if brief %}Be brief. {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = chat_format(make_tokenizer(chat_template=template), template_kwargs={"brief": True})
    assert answer_head(chat, ASKED).text.startswith("Be brief. How")


def test_shipped_templates_have_no_line_break_at_their_end():
    folder = Path(chat_format.__code__.co_filename).parent / "chat_templates"
    assert all(not path.read_text().endswith("\n") for path in folder.glob("*.jinja"))


@pytest.mark.parametrize("word", ["Sorry", "Sure", "Step"])
def test_a_bare_continuation_contains_nothing_of_the_text_before_it(make_tokenizer, word):
    chat = chat_format(make_tokenizer(kind="spm"))  # has a token of a line break and "S"
    assert "\nS" in chat.tokenizer.get_vocab()
    assert decoded(chat, encode_continuation(chat, word, spaced=False)) == word
