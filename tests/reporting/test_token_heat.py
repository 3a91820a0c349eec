import re
from importlib.resources import files

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derta.errors import escape_hidden
from derta.reporting import render_report
from derta.reporting.token_heat import LEVELS, legend, level_of, token_heat
from derta.results import ScoredAnswer

LIMIT = 150_000
HOSTILE = {
    "script": "<script>document.title='ran'</script>",
    "closes the element": "</i></p></details></main><h1>out</h1>",
    "breaks attributes": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }}{% raw %}",
    "right to left": "a\u202egnp.exe\u2066b",
    "controls": "a\x00b\x07\x1b[31mc\x85",
    "surrogate": "a\ud800b",
}


@pytest.fixture
def scored(make_transcript):
    """Return a function that makes a transcript whose tokens are the given texts, with a probability for each."""

    def make(tokens, probabilities, *, seed=0, **named):
        starts = tuple(len("".join(tokens[:i])) for i in range(len(tokens)))
        row = make_transcript("".join(tokens), token_starts=starts, **named)
        return row.model_copy(update={"refusal_probability": tuple(probabilities), "seed": seed})

    return make


def answer(tokens, probabilities, *, method="derta", seed=0, request_id="a1"):
    starts = tuple(len("".join(tokens[:i])) for i in range(len(tokens)))
    return ScoredAnswer(
        method=method,
        seed=seed,
        request_id=request_id,
        request="How is tea brewed?",
        text="".join(tokens),
        token_starts=starts,
        refusal_probability=tuple(probabilities),
    )


def tokens_of(page):
    """The displayed tokens: class, title and text of each."""
    marks = page.all("i")[len(LEVELS) + 1 :]  # the legend's come first
    texts = [data for path, data in page.texts if path[-1:] == ("i",)]
    return [(one.get("class"), one.get("title"), text) for one, text in zip(marks, texts, strict=True)]


def section(html):
    return html[html.index('<section id="tokens">') : html.index('<section id="transcripts">')]


def test_each_token_has_the_colour_and_the_number_of_its_position(scored, make_summary, parse):
    row = scored(["Sure", ", tea", "\n", " now"], [0.0004, 0.001, 0.5, 0.9999])
    page = parse(section(render_report(make_summary(), [row])))
    assert tokens_of(page) == [
        (None, None, "Sure"),
        ("h1", "0.1 %", ", tea"),
        ("h5", "50.0 %", "↵\n"),
        ("h7", "100.0 %", " now"),
    ]
    assert "highest 100.0\u00a0% at token 4" in "".join(data for _, data in page.texts)
    cells = ["".join(data for p, data in page.texts if p[-1:] == ("q",))]
    assert cells == [", tea↵\n now"]  # the table: positions 2 to 4
    assert [data for path, data in page.texts if path[-2:] == ("p", "span") and "harm" in data] == ["not harmful"]
    numbers = [data.strip() for path, data in page.texts if path[-1:] == ("td",) and data.strip()]
    assert numbers == ["0.1", "50.0", "100.0"]


def test_methods_are_above_each_other_on_the_same_prompt_with_their_first_seed(scored, make_summary):
    rows = [
        scored(["a"], [value], method=method, seed=seed)
        for method in ("vanilla", "derta")
        for seed, value in ((0, 0.25), (1, 0.75))
    ]
    heat = token_heat(rows)
    [group] = heat.groups
    [prompt] = group.prompts
    assert [(row.method, row.seed, row.tokens[0].percent) for row in prompt.rows] == [
        ("vanilla", 0, "25.0"),
        ("derta", 0, "25.0"),
    ]
    assert render_report(make_summary(), rows) == render_report(make_summary(), rows)


def test_harmful_answers_come_first_and_all_methods_have_the_same_one(scored):
    tokens = ["boil", " water"]
    answers = [answer(tokens, [0.1, p], method=m) for m, p in (("vanilla", 0.0), ("derta", 0.9))]
    heat = token_heat([scored(["x"], [0.5])], answers)
    assert [group.label is None for group in heat.groups] == [True, False]
    [prompt] = heat.groups[0].prompts
    assert [[token.text for token in row.tokens] for row in prompt.rows] == [tokens, tokens]
    assert prompt.positions == (1, 2)


def test_model_text_is_folded_with_a_warning(scored, make_summary, parse):
    page = parse(render_report(make_summary(), [scored(["secret"], [0.5])], answers=[answer(["hidden"], [0.5])]))
    assert "secret" not in page.unfolded_text
    assert "hidden" not in page.unfolded_text
    assert "Possibly harmful text. Harmful answers, requests and replies" in page.unfolded_text
    assert not [one for one in page.all("details") if "open" in one]


def test_a_report_without_probabilities_has_no_section(make_transcript, make_summary):
    html = render_report(make_summary(), [make_transcript("tea")])
    assert 'id="tokens"' not in html
    assert '"#tokens"' not in html
    assert token_heat([make_transcript("tea")]) is None


def test_methods_without_probabilities_are_named(scored, make_transcript, make_summary, parse):
    rows = [scored(["tea"], [0.5], method="derta"), make_transcript("tea", method="served")]
    assert token_heat(rows).missing == ("served",)
    assert "Not measured: served." in parse(section(render_report(make_summary(), rows))).text


def test_removed_text_leaves_colours_and_numbers(scored):
    row = scored(["secret", " plan"], [0.3, 0.0])
    removed = row.model_copy(update={"reply": row.reply.model_copy(update={"text": "", "token_starts": None})})
    [prompt] = token_heat([removed]).groups[0].prompts
    assert [(token.text, token.level) for token in prompt.rows[0].tokens] == [("·", 4), ("·", 0)]


def test_a_redacted_page_has_no_token_of_attacks_and_answers(scored, make_summary, parse):
    rows = [scored(["secret", " plan"], [0.3, 0.0], request="masked?", prefill="begun")]
    html = render_report(make_summary(), rows, answers=[answer(["boiled", " water"], [0.5, 0.1])], redact=True)
    for word in ("secret", "plan", "masked", "begun", "boiled", "water"):
        assert word not in section(html)
    page = parse(section(html))
    assert [(title, text) for _, title, text in tokens_of(page)] == [
        *[("50.0 %", "·"), ("10.0 %", "·")],
        *[("30.0 %", "·"), (None, "·")],
    ]
    assert "Redacted. Harmful answers, attacks and replies" in page.text
    assert "ossibly harmful" not in page.text


def test_the_section_is_small_whatever_the_run_has_and_every_attack_is_in_it(scored, make_summary, parse):
    tokens = [f" word{i}" for i in range(300)]
    rows = [
        scored(tokens, [0.5] * 300, method=f"method{m}", attack=f"attack{a}", request_id=f"r{r}")
        for r in range(5)
        for a in range(20)
        for m in range(2)
    ]
    html = section(render_report(make_summary(), rows))
    assert len(html.encode()) < LIMIT
    page = parse(html)
    assert "100 more tokens" in page.text
    short = [row.model_copy(update={"refusal_probability": row.refusal_probability}) for row in rows]
    heat = token_heat(short)
    assert heat.num_total == 100
    assert f"Showing {heat.num_displayed} of 100" in page.text
    few = [scored([" a"] * 20, [0.5] * 20, attack=f"attack{a}", request_id=f"r{r}") for r in range(9) for a in range(9)]
    assert {len(group.prompts) for group in token_heat(few, max_bytes=30_000).groups} <= {1, 2, 3}


def test_the_scale_has_no_gaps():
    assert [level_of(value) for value in LEVELS] == [1, 2, 3, 4, 5, 6, 7]
    assert [level for level, _ in legend()] == list(range(len(LEVELS) + 1))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tokens_add_no_tag_and_hide_nothing(scored, make_summary, parse, text):
    def page(word):
        named = {"request": word, "prefill": word, "method": "derta"}
        # lone surrogates are refused in requests
        named = {key: value.replace("\ud800", "?") for key, value in named.items()}
        rows = [scored([word, "b"], [0.5, 0.0], **named)]
        return parse(section(render_report(make_summary(), rows)))

    hostile, benign = page(text), page("tea")
    assert [(tag, list(attributes)) for tag, attributes in hostile.tags] == [
        (tag, list(attributes)) for tag, attributes in benign.tags
    ]
    assert tokens_of(hostile)[0] == ("h5", "50.0 %", escape_hidden(text))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=5), text=st.text(st.characters(codec="utf-8"), max_size=12))
def test_tokens_cut_anywhere_show_the_whole_text(scored, cuts, text):
    starts = [0, *sorted(min(cut, len(text)) for cut in cuts)]
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    [prompt] = token_heat([scored(pieces, [0.5] * len(pieces))]).groups[0].prompts
    shown = [token.text for token in prompt.rows[0].tokens]
    assert len(shown) == len(pieces)
    assert shown == [piece.replace("\n", "↵\n") or "·" for piece in pieces]


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    digits = colour.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mode(css, dark):
    """The first block of colours of a style sheet, or the second, the dark one's."""
    return re.findall(r":root \{.*?\}", css, re.DOTALL)[dark]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_colours_are_an_order_of_brightness_with_readable_text(dark):
    css = {name: (files("derta.reporting") / "templates" / f"{name}.css").read_text() for name in ("page", "tokens")}
    page, tokens = (dict(re.findall(r"--(paper|ink|h\d): (#[0-9a-f]+)", _mode(css[name], dark))) for name in css)
    levels = [luminance(page["paper"]), *(luminance(tokens[f"h{i}"]) for i in range(1, len(LEVELS) + 1))]
    # brightness alone orders them, so that no colour vision is needed
    assert levels == sorted(levels, reverse=not dark)
    text = [luminance(page["ink"])] * 5 + [luminance("#000")] + [luminance(page["paper"])] * 2  # as in tokens.css
    contrasts = [(max(a, b) + 0.05) / (min(a, b) + 0.05) for a, b in zip(levels, text, strict=True)]
    assert min(contrasts) >= 4.5
