"""Chat templates of untrusted model folders: the sandbox, endless loops, and templates that fill the memory."""

import shutil
import time

import pytest

from derta import template_probe
from derta.chat import answer_head, chat_format
from derta.errors import ModelError
from derta.records import Message
from derta.template_probe import check_template
from small_run import write_jsonl

PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}</s>"
SECRET = "the content of a file"  # noqa: S105

ESCAPES = [
    "{% include 'FILE' %}",
    "{% import 'FILE' as f %}{{ f }}",
    "{% extends 'FILE' %}",
    "{% from 'FILE' import x %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.open('FILE').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('cat FILE').read() }}",
    "{{ lipsum.__globals__['os'].popen('cat FILE').read() }}",
    "{{ joiner.__init__.__globals__.__builtins__.open('FILE').read() }}",
    "{{ namespace.__init__.__globals__.__builtins__.open('FILE').read() }}",
    "{{ raise_exception.__globals__.__builtins__.open('FILE').read() }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('FILE').read() }}",
    "{{ strftime_now.__code__ }}{{ strftime_now.__closure__ }}",
    "{{ (''|attr('__class__')|attr('__mro__'))[1]|attr('__subclasses__')() }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__init__.__globals__}'.format(cycler) }}",
    "{{ '%s'|format(cycler.__init__.__globals__) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__dict__ }}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "{{ open('FILE').read() }}",
    "{{ __import__('os') }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ caller.__self__ }}",
    "{{ bos_token.__class__.__base__ }}",
]


@pytest.fixture
def with_template(tiny_tokenizer, tmp_path):
    """Return a function that builds the chat format of a template; FILE in it is a file with a secret."""
    (tmp_path / "secret").write_text(SECRET)

    def build(template, **kwargs):
        tiny_tokenizer.chat_template = template.replace("FILE", str(tmp_path / "secret"))
        return chat_format(tiny_tokenizer, **kwargs)

    return build


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_reads_no_file_and_reaches_no_code(with_template, escape, monkeypatch):
    monkeypatch.setattr("derta.chat.formats.check_template", lambda *_, **__: None)  # the sandbox alone
    user = (Message(role="user", content="Hello."),)
    for template in (escape + PLAIN, PLAIN + "{% if messages|length == 1 %}" + escape + "{% endif %}"):
        try:
            text = answer_head(with_template(template), user).text
        except ModelError as error:
            text = str(error)
        assert not any(hint in text for hint in (SECRET, "<class", "<module", "<function", "<code", "\n"))


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "loop": LOOP,
    "power at compile time": "{{ 99999999 ** 99999999 }}",
    "with generation": f"{{% generation %}}{LOOP}{{% endgeneration %}}",
    "system only": f"{{% if messages[0].role == 'system' %}}{LOOP}{{% endif %}}",
    "prompt only": f"{{% if add_generation_prompt %}}{LOOP}{{% endif %}}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_is_one_line(with_template, name, monkeypatch):
    monkeypatch.setattr(template_probe, "CPU_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(
        ModelError, match=r"the chat template of tokenizer .* does not end within 1 s; do not use"
    ) as error:
        with_template(ENDLESS[name] + PLAIN)
    assert time.monotonic() - start < 30
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ 'x' * 9999999999 }}", "needs more than 2 GiB of memory"),
        ("{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "GiB"),
        ("{{ 'x' * 2000000 }}", "writes more than 1000000 characters for a short conversation"),
    ],
)
def test_a_template_that_fills_the_memory_is_one_line(with_template, template, fault):
    with pytest.raises(ModelError, match=fault):
        with_template(template + PLAIN)


def test_the_command_line_ends_with_one_line(derta, make_tokenizer, make_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(template_probe, "CPU_SECONDS", 1)
    folder = shutil.copytree(make_model_dir(), tmp_path / "model")
    tokenizer = make_tokenizer(chat_template=ENDLESS["loop"] + PLAIN)
    tokenizer.save_pretrained(folder)
    row = {
        "id": "p",
        "request_id": "r",
        "request": "?",
        "attack": "direct",
        "messages": [{"role": "user", "content": "?"}],
    }
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [row])
    called = derta("generate", prompts, "--model", folder, "--out", tmp_path / "out.jsonl")
    assert called.code == 2
    assert [line for line in called.err.splitlines() if line.startswith("derta: ")] == [called.err.splitlines()[-1]]
    assert "does not end within 1 s" in called.err


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no system role') }}",
        "{{ messages[9].content.x }}",
        "{% include 'x' %}",
    ],
)
def test_an_error_of_a_template_is_reported_by_its_use_and_not_by_the_probe(with_template, template):
    check_template(template, variables={}, where="here")
    with pytest.raises(ModelError, match="the chat template refused a conversation of"):
        with_template(template + PLAIN)
