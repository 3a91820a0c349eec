"""Hostile text at any place of the report leaves its tags and attributes unchanged and hides nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derta.errors import escape_hidden
from derta.reporting import render_report

HOSTILE = {
    "script": "<script>document.title='ran'</script>",
    "closes the fold": "</pre></details></main><h1>out</h1>",
    "closes the style": "</style><img src=x onerror=alert(1)>",
    "breaks attributes": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;script&gt;&#x202e;",
    "comment": "<!-- --><![CDATA[ ]]>",
    "right to left": "a\u202egnp.exe\u2066b",
    "controls": "a\x00b\x07\x1b[31mc\x85",
    "surrogate": "a\ud800b",
    "url": "javascript:alert(1)",
    "mathtext": "$\\frac{1}{0}$",
    "blank": " \u3000x",
}
# the page itself adds tags at "_" and "@" in names; records refuse surrogates and blanks at the start of names
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="_@")).map("x".__add__)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_adds_no_tag_and_no_attribute(whole_page, text):
    hostile, benign = whole_page(text), whole_page("tea")
    assert [(tag, list(attributes)) for tag, attributes in hostile.tags] == [
        (tag, list(attributes)) for tag, attributes in benign.tags
    ]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_shown_as_it_is_with_hidden_characters_named(whole_page, text):
    page = whole_page(text)
    assert " ".join(escape_hidden(text * 3).split()) in page.text.replace("refusal starts", "")
    page.text.encode("utf-8")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(text=NAMES)
def test_no_text_changes_the_structure_of_the_page(make_summary, make_cell, make_transcript, parse, text):
    def tags(word):
        summary = make_summary((make_cell([True], method=word, name=word, judge=word),), title=word, notes=(word,))
        rows = [make_transcript(f"a{word}", method=word, reason=word, judge=word, refusal_at=1)]
        return [tag for tag, _ in parse(render_report(summary, rows)).tags]

    assert tags(text) == tags("tea")
