from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import chat_format, encode_prompt, encode_turn, saved_template
from derta.chat.saved import set_defaults
from derta.chat.templates import ChatFormat
from derta.errors import ModelError
from derta.messages import Message
from derta.records import Prompt

TURNS = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
OPENING = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
MESSAGES = [{"role": "user", "content": "Hello."}]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["thinking", "größe", "bos_token", "class", "range", "x1"])


def rendered(tokenizer: Any, template: str, **options: Any) -> str:
    text = tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True, **options
    )
    return str(text)


def forms_of(names: Iterable[str]) -> list[str]:
    """Templates that read these variables: at the start, in a macro, in a loop, with a default, before a line break."""
    shown = "".join(f"{{{{ {name} | tojson }}}}{{{{ {name} is none }}}}" for name in names)
    defaults = "".join(f"{{% set {name} = {name} | default('unset') %}}" for name in names)
    return [
        shown + TURNS + OPENING,
        "\n" + shown + TURNS,
        "  {% if true %}\n" + shown + "{% endif %}" + TURNS,
        "{#- a comment -#}\n\n" + shown + "\n",
        f"{{% macro show() %}}{shown}{{% endmacro %}}{TURNS}{{{{ show() }}}}{OPENING}",
        f"{{% for message in messages %}}{shown}{{{{ message.content }}}}{{% endfor %}}",
        defaults + shown + TURNS,
        f"{{% if {next(iter(names), 'x')} is not defined %}}undefined{{% else %}}defined{{% endif %}}" + TURNS,
    ]


@given(kwargs=st.dictionaries(NAMES, JSON, min_size=1, max_size=3), form=st.integers(0, 7))
def test_the_saved_template_renders_without_arguments_as_training_did_with_them(kwargs, form):
    tokenizer = TOKENIZER
    template = forms_of(kwargs)[form]
    saved = set_defaults(ChatFormat(tokenizer, template, kwargs)) + "\n" + template
    assert rendered(tokenizer, saved) == rendered(tokenizer, template, **kwargs)


@pytest.mark.parametrize("name", ["tools", "documents"])
@pytest.mark.parametrize("value", [[], [{"type": "function", "function": {"name": "add", "text": 'a "b" %} ü\n'}}]])
def test_tools_and_documents_of_the_training_are_in_the_saved_template(tiny_tokenizer, name, value):
    for template in forms_of([name]):
        saved = set_defaults(ChatFormat(tiny_tokenizer, template, {name: value})) + "\n" + template
        assert rendered(tiny_tokenizer, saved) == rendered(tiny_tokenizer, template, **{name: value})


@pytest.fixture(autouse=True, scope="module")
def _tokenizer(make_tokenizer):
    global TOKENIZER  # noqa: PLW0603 - a property test takes no fixture of a function
    TOKENIZER = make_tokenizer()


TOKENIZER: Any = None


QUESTION = (Message(role="user", content="How do I bake bread?"),)
PROMPT = Prompt(id="p", request_id="r", request="?", attack="direct", messages=QUESTION)
SHAPES = {
    "plain": "{{ bos_token }}" + TURNS + OPENING,
    "no BOS": TURNS + OPENING,
    "line break at the end": TURNS + OPENING + "\n",
    "blank at the end": "\n"
    + TURNS.replace("|>\n", "|> ")
    + "{% if add_generation_prompt %}<|assistant|> {% endif %}\n",
    "blank at the end, always": "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }} A: {% else %}"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}",
    "blank before the answer": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} "
    "{{ m.content }}<|end|>{% endif %}{% endfor %}",
    "channel before the answer": TURNS.replace("<|end|>", "<|end|>").replace(
        "{{ message.content }}", "{% if message.role == 'assistant' %}<|final|>{% endif %}{{ message.content }}"
    )
    + OPENING,
    "empty thought, then a header": TURNS.replace(
        "{{ message.content }}", "{% if message.role == 'assistant' %}<|final|>{% endif %}{{ message.content }}"
    )
    + OPENING.replace("{% endif %}", "<think></think>{% endif %}"),
    "date": "{{ strftime_now('%d %B %Y') }}\n" + TURNS + OPENING,
    "thought": TURNS.replace(
        "{{ message.content }}",
        "{% if message.role == 'assistant' %}{% if message.reasoning %}"
        "<think>\n{{ message.reasoning }}\n</think>\n\n{% endif %}{% endif %}{{ message.content }}",
    )
    + OPENING,
    "empty thought": TURNS
    + OPENING.replace(
        "{% endif %}", "{% if not thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
}


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["bpe", "spm", "word"])
@pytest.mark.parametrize("shape", [*SHAPES, "paper", "paper_eval"])
def test_a_tokenizer_with_the_saved_template_encodes_prompts_as_training_did(make_tokenizer, tmp_path, kind, shape):
    if (kind, shape) == ("spm", "empty thought"):
        pytest.skip("this tokenizer merges the line break after a thought into the answer, which no published one does")
    tokenizer = make_tokenizer(kind=kind)
    (tmp_path / "shape").write_text(SHAPES.get(shape, ""))
    template = str(tmp_path / "shape") if shape in SHAPES else shape
    kwargs = {"thinking": False} if shape == "empty thought" else {}
    trained = chat_format(tokenizer, template=template, template_kwargs=kwargs)
    tokenizer.chat_template = saved_template(trained)
    messages = [message.model_dump() for message in QUESTION]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == encode_prompt(trained, PROMPT)
    again = chat_format(tokenizer)
    assert encode_prompt(again, PROMPT) == encode_prompt(trained, PROMPT)
    assert encode_turn(again, QUESTION, "Mix flour.") == encode_turn(trained, QUESTION, "Mix flour.")
    assert (again.closing_ids, again.stop_ids) == (trained.closing_ids, trained.stop_ids)
    if kind == "bpe":  # training it again changes nothing
        assert saved_template(again) == tokenizer.chat_template


@pytest.mark.parametrize("thinking", [True, False])
def test_a_model_trained_without_thoughts_starts_after_an_empty_one(make_tokenizer, thinking):
    tokenizer = make_tokenizer(chat_template=SHAPES["thought"])
    chat = chat_format(tokenizer, thinking=thinking)
    saved = saved_template(chat)
    assert rendered(tokenizer, saved).endswith("<|assistant|>\n" + ("" if thinking else chat.lead))


def test_a_template_that_needs_no_change_is_saved_as_it_is(tiny_tokenizer):
    template = "\n{{- bos_token }}" + TURNS + OPENING + "\n"
    assert saved_template(ChatFormat(tiny_tokenizer, template)) == template


def test_a_caller_s_arguments_override_those_of_training(tiny_tokenizer):
    template = "{% if thinking %}<think>{% endif %}" + TURNS
    saved = saved_template(ChatFormat(tiny_tokenizer, template, {"thinking": True}))
    assert rendered(tiny_tokenizer, saved).startswith("<s><think>")
    assert rendered(tiny_tokenizer, saved, thinking=False).startswith("<s><|user|>")


def test_names_that_no_template_can_read_are_left_out(tiny_tokenizer):
    kwargs = {"not a name": 1, "if": 2, "none": 3, "a-b": 4, "x }}{{ y": 5}
    assert set_defaults(ChatFormat(tiny_tokenizer, TURNS, kwargs)) == ""


def test_training_again_adds_the_same_arguments_once(make_tokenizer):
    tokenizer = make_tokenizer(chat_template="{{ thinking }}" + TURNS)
    chat = chat_format(tokenizer, template_kwargs={"thinking": "no"})
    tokenizer.chat_template = saved_template(chat)
    assert saved_template(chat_format(tokenizer, template_kwargs={"thinking": "no"})) == tokenizer.chat_template


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1}}, object(), [b"x"]])
def test_a_value_that_is_not_json_is_refused_with_its_name(tiny_tokenizer, value):
    with pytest.raises(ModelError, match=r"template_kwargs\.thinking: expected a JSON value, got .*; change it"):
        saved_template(ChatFormat(tiny_tokenizer, TURNS, {"thinking": value}))
