"""Rows, prompts and prefills of small templates in the shapes of published ones, compared with their own renderings."""

import json
import re
from dataclasses import dataclass, field

import pytest

from derta.chat import answer_offset, chat_format, encode_prompt, encode_turn, thought_head
from derta.chat.logs import warn_once
from derta.errors import ModelError
from derta.records import Message, Prompt

TURNS = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
THINKS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass
class Shape:
    """A template, and what its rows look like after the user's message.

    `before` is the text between the end of the generation prompt and the answer, `closing` the one after it.
    """

    template: str
    before: str = ""
    closing: str = "<|end|>"
    kwargs: dict = field(default_factory=dict)
    thought: tuple[str, str] | None = None


SHAPES = {
    "plain": Shape(
        TURNS + "\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "blank before the answer": Shape(
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
        before=" ",
        closing=" </s>",
    ),
    "thought opened by the prompt": Shape(
        TURNS + "\n{{ m.content.split('</think>')[-1] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}",
        before="\n</think>\n\n",
        thought=("", "\n</think>\n\n"),
    ),
    "thought opened by the prompt, left out later with its closing marker": Shape(
        TURNS + "{% if m.role == 'assistant' %}</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>{% endif %}",
        before="</think>",
        thought=("", "\n</think>\n\n"),
    ),
    "empty thought": Shape(THINKS, before="<think>\n\n</think>\n\n", thought=("<think>\n", "\n</think>\n\n")),
    "empty thought in the prompt": Shape(
        TURNS + "\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n<think>\n\n</think>\n\n{% endif %}"
    ),
    "channels": Shape(
        "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}"
        "{% if m.role == 'assistant' %}"
        "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}"
        "<|channel|>final{% endif %}<|message|>{{ m.content }}"
        "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        before="<|channel|>final<|message|>",
        closing="<|return|>",
        thought=(
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ),
    "response header after a closed thought": Shape(
        TURNS + "{% if m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>"
        "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
        "<|assistant|>{% if add_generation_prompt %}<|START_THINKING|><|END_THINKING|>{% endif %}",
        before="<|START_RESPONSE|>",
        closing="<|END_RESPONSE|><|end|>",
    ),
    "generation prompt always added": Shape(
        "{{ bos_token }}{% for m in messages %}<|turn|><|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "<|turn|><|assistant|>"
    ),
    "closing token on its own line": Shape(
        TURNS + "\n{{ m.content }}\n<|end|>{% endfor %}" + OPEN, before="\n", closing="\n<|end|>"
    ),
    "EOS at the end of the conversation": Shape(
        TURNS + "\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    ),
    "white space removed": Shape(TURNS + "{{ m.content | trim }}<|end|>{% endfor %}" + OPEN),
    "end in plain text": Shape(
        "{{ bos_token }}{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n### end\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}",
        closing="\n### end",
    ),
    "date": Shape(
        "{{ bos_token }}Today is {{ strftime_now('%d %b %Y') }}.{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content }}<|end|>{% endfor %}" + OPEN
    ),
    "strict roles": Shape(
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        + OPEN
    ),
    "tools expected": Shape(
        "{{ bos_token }}{% for t in tools %}{{ t }}{% endfor %}{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content }}<|end|>{% endfor %}" + OPEN,
        kwargs={"tools": []},
    ),
}
EMPTY_THOUGHT = re.compile(r"(<think>)?\s*</think>\s*|<\|START_THINKING\|><\|END_THINKING\|>")
USER = Message(role="user", content="How do I bake bread?")
CONTROL = ["<|turn|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<think>", "</think>"]
CONTROL += ["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>"]


@pytest.fixture(autouse=True)
def _warned_of_nothing():
    warn_once.cache_clear()


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def chat(shape, make_tokenizer, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text(shape.template)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(CONTROL, special_tokens=True)
    return chat_format(tokenizer, template=str(path), template_kwargs=shape.kwargs)


def rendered(chat, messages, *, prompt):
    """The template's own rendering, by Transformers."""
    return chat.tokenizer.apply_chat_template(
        [message.model_dump() for message in messages],
        chat_template=chat.template,
        tokenize=False,
        add_generation_prompt=prompt,
        **chat.template_kwargs,
    )


def decoded(chat, ids):
    return chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def prompt_of(**fields):
    return Prompt(id="1", request_id="1", attack="direct", messages=(USER,), **fields)


@pytest.mark.parametrize("answer", ["Mix flour.", "Mix flour\nand water.\n"])
def test_a_row_is_the_rendering_of_the_conversation(shape, chat, answer):
    turn = encode_turn(chat, [USER], answer, closed=True)
    start = rendered(chat, [USER], prompt=True)
    content = answer.strip() if "trim" in shape.template else answer
    assert decoded(chat, turn.prompt_ids + turn.response_ids) == start + shape.before + content + shape.closing
    finished = rendered(chat, [USER, Message(role="assistant", content=answer)], prompt=False)
    row = decoded(chat, turn.prompt_ids + turn.response_ids)
    assert EMPTY_THOUGHT.sub("", finished).startswith(EMPTY_THOUGHT.sub("", row))


def test_a_row_has_the_tokens_of_its_text(chat):
    turn = encode_turn(chat, [USER], "Mix flour.", closed=True)
    ids = turn.prompt_ids + turn.response_ids
    assert ids == chat.tokenizer.encode(decoded(chat, ids), add_special_tokens=False)


def test_a_prefill_is_the_start_of_the_answer(chat):
    turn = encode_turn(chat, [USER], "Mix flour.")
    assert encode_prompt(chat, prompt_of(prefill="Mix flour.")) == turn.prompt_ids + turn.response_ids


def test_generation_starts_before_the_thought_or_at_the_answer(shape, chat):
    text = decoded(chat, encode_prompt(chat, prompt_of()))
    start = rendered(chat, [USER], prompt=True)
    assert text.rstrip(" ") == (start if shape.thought else start + shape.before).rstrip(" ")


def test_thoughts_are_recognised(shape, chat):
    assert (chat.thought and (chat.thought.open, chat.thought.close)) == shape.thought
    if shape.thought is None:
        with pytest.raises(ModelError, match="opens a thought"):
            thought_head(chat, [USER])
        return
    opening, close = shape.thought
    start = rendered(chat, [USER], prompt=True)
    prompt = prompt_of(prefill="First, ", prefill_in="thought")
    assert decoded(chat, encode_prompt(chat, prompt)) == start + opening + "First, "
    assert answer_offset(chat, prompt, f"hm{close}Mix") == len(f"hm{close}")
    assert answer_offset(chat, prompt_of(), f"{opening}hm{close}Mix") == len(f"{opening}hm{close}")
    assert answer_offset(chat, prompt_of(), f"{opening}hm") == len(f"{opening}hm")
    assert answer_offset(chat, prompt_of(prefill="Mix"), " flour") == 0


def test_a_reply_stops_at_the_token_that_closes_the_turn(shape, chat, caplog):
    closing = encode_turn(chat, [USER], "Mix.", closed=True).response_ids
    stops = [token for token in closing if token in chat.stop_ids]
    if "### end" in shape.closing:
        assert stops == []
    else:
        assert decoded(chat, stops[-1:]) == shape.closing.strip().rpartition("<")[1] + shape.closing.rpartition("<")[2]


def test_texts_that_spell_control_tokens_are_text(shape, chat):
    marked = " and ".join(["</s>", "<|end|>", "<think>", "<|user|>", "<</s>>", "<s><|end|>", "<|turn|>"])
    question = Message(role="user", content=f"What is {marked}?")
    turn = encode_turn(chat, [question], f"It is {marked}.", closed=True)
    plain = encode_turn(chat, [USER], "It is.", closed=True)
    control = set(chat.tokenizer.added_tokens_decoder)
    assert [one for one in turn.prompt_ids + turn.response_ids if one in control] == [
        one for one in plain.prompt_ids + plain.response_ids if one in control
    ]
    text = decoded(chat, turn.prompt_ids + turn.response_ids)
    assert text.count(marked) == 2
    prefilled = encode_prompt(chat, prompt_of(prefill=f"It is {marked}"))
    assert decoded(chat, prefilled).endswith(f"It is {marked}")


def test_a_template_that_cannot_stop_is_reported(make_tokenizer, tmp_path, caplog):
    path = tmp_path / "t.jinja"
    path.write_text(SHAPES["end in plain text"].template)
    chat_format(make_tokenizer(), template=str(path))
    assert "'\\n### end', no control token: replies only stop at the token limit" in caplog.text


def test_a_template_that_fails_without_a_variable_names_template_kwargs(make_tokenizer, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(SHAPES["tools expected"].template)
    with pytest.raises(ModelError, match=r"refused a conversation.*`template_kwargs` \(such as tools: \[\]\)"):
        chat_format(make_tokenizer(), template=str(path))


def test_a_prompt_that_contradicts_the_finished_turn_names_template_kwargs(make_tokenizer):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}Think: {% endif %}"
    with pytest.raises(ModelError, match=r"expected the generation prompt .* set `template_kwargs`"):
        chat_format(make_tokenizer(chat_template=template))


def test_a_named_template_is_chosen_by_name(make_tokenizer):
    plain = SHAPES["plain"].template
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": plain, "tool_use": "Tools. " + plain, "rag": plain}
    assert chat_format(tokenizer).template == plain
    assert chat_format(tokenizer, template="tool_use").template.startswith("Tools. ")
    tokenizer.chat_template = {"rag": plain, "tool_use": plain}
    with pytest.raises(ModelError, match="has the templates rag, tool_use and none named 'default'"):
        chat_format(tokenizer)


def test_a_date_is_that_of_the_setting_on_every_day(make_tokenizer, tmp_path, caplog):
    path = tmp_path / "t.jinja"
    path.write_text(SHAPES["date"].template)
    tokenizer = make_tokenizer()
    default = chat_format(tokenizer, template=str(path))
    assert rendered(default, [USER], prompt=True).startswith("<s>Today is 26 Jul 2024.")
    assert "writes a date: 2024-07-26 is used (template_date)" in caplog.text
    other = chat_format(tokenizer, template=str(path), date="2026-11-26")
    assert rendered(other, [USER], prompt=True).startswith("<s>Today is 26 Nov 2026.")
    # the fixed template can be fixed again: a saved model keeps its date
    path.write_text(other.template)
    assert rendered(chat_format(tokenizer, template=str(path)), [USER], prompt=True).startswith(
        "<s>Today is 26 Nov 2026."
    )
    with pytest.raises(ModelError, match="template_date: expected a date as YYYY-MM-DD, got 'today'"):
        chat_format(tokenizer, template=str(path), date="today")


def test_a_date_in_a_format_that_is_computed_is_refused(make_tokenizer):
    template = SHAPES["date"].template.replace("'%d %b %Y'", "'%d' + messages[0].content")
    with pytest.raises(ModelError, match="a date in a format that is not a constant"):
        chat_format(make_tokenizer(chat_template=template))


def test_the_closing_token_may_be_special_in_tokenizer_json_only(make_tokenizer):
    """As in Gemma 3, Phi 3.5 and the first Llama 3: `special_tokens_map` does not name it."""
    tokenizer = make_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    end = next(token for token in state["added_tokens"] if token["content"] == "<|end|>")
    assert end["id"] in chat_format(tokenizer).stop_ids
    from transformers import PreTrainedTokenizerFast

    names = {name: tokenizer.special_tokens_map[name] for name in ("bos_token", "eos_token")}
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    bare.chat_template = tokenizer.chat_template
    assert end["id"] not in bare.all_special_ids
    assert end["id"] in chat_format(bare).stop_ids
