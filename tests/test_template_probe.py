import pytest
from jinja2 import TemplateError

from derta import template_probe
from derta.chat import chat_format
from derta.errors import ModelError
from derta.template_probe import TEMPLATE_ERRORS, check_template, environment, render_conversations


def test_a_template_is_probed_once_and_shipped_ones_never(tiny_tokenizer, monkeypatch):
    tokenizer = tiny_tokenizer
    tokenizer.chat_template = "{# probed once #}" + tokenizer.chat_template
    calls = []
    run = template_probe.subprocess.run
    monkeypatch.setattr(
        template_probe.subprocess, "run", lambda *args, **kwargs: calls.append(1) or run(*args, **kwargs)
    )
    for _ in range(3):
        chat_format(tokenizer)
    assert len(calls) == 1
    chat_format(tokenizer, template_kwargs={"think": True})
    assert len(calls) == 2
    chat_format(tokenizer, template="paper")
    assert len(calls) == 2


def test_a_probe_that_cannot_run_is_an_error_and_not_a_pass(monkeypatch):
    monkeypatch.setattr(template_probe, "_BOOTSTRAP", "raise SystemExit('no interpreter')")
    with pytest.raises(ModelError, match=r"cannot be tried in a child process \(no interpreter\)"):
        check_template("never seen before", variables={}, where="here")


def test_the_child_has_what_transformers_offers_to_templates():
    from transformers.utils.chat_template_utils import _compile_jinja_template

    ours, theirs = environment(), _compile_jinja_template("{{ 1 }}").environment
    assert ours.globals.keys() | {"dict", "namespace"} == theirs.globals.keys()
    assert ours.filters.keys() == theirs.filters.keys()
    assert ours.tests.keys() == theirs.tests.keys()
    tags = [{tag for one in env.extensions.values() for tag in one.tags} for env in (ours, theirs)]
    assert tags[0] == tags[1] == {"generation", "break", "continue"}
    for name in ("trim_blocks", "lstrip_blocks", "sandboxed", "keep_trailing_newline", "intercepted_binops", "loader"):
        assert getattr(ours, name) == getattr(theirs, name)
    message = {"role": "user", "content": "é <b>"}
    for template in (
        "{% generation %}\n  {{ messages|tojson(indent=1) }}{% endgeneration %}",
        "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}{{ dict(a=1) }}{{ dict.fromkeys('ab') }}",
        "{{ strftime_now('%Y') }}",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__ }}",
        "{% include 'x' %}",
    ):
        results = []
        for env in (ours, theirs):
            try:
                results.append(env.from_string(template).render(messages=[message]))
            except (TemplateError, *TEMPLATE_ERRORS) as error:
                results.append(type(error))
        assert results[0] == results[1]


def test_a_child_renders_with_and_without_a_system_message_and_a_generation_prompt(monkeypatch):
    """The entry point of the child, in this process: without its limits."""
    import resource

    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda limit, values: limits.append((limit, values)))
    seen = "{{ raise_exception(messages|map(attribute='role')|join(' ') ~ ' ' ~ add_generation_prompt ~ tools ~ x) }}"
    reasons = []
    monkeypatch.setattr(TemplateError, "__init__", lambda self, message=None: reasons.append(message))
    assert render_conversations({"template": seen, "variables": {"x": "!"}, "cpu_seconds": 7}) == 0
    assert reasons == [
        "user assistant FalseNone!",
        "user TrueNone!",
        "system user assistant user TrueNone!",
        "user assistant user assistant user assistant FalseNone!",
    ]
    assert (resource.RLIMIT_AS, (2**31, 2**31)) in limits
    assert (resource.RLIMIT_CPU, (7, 8)) in limits
