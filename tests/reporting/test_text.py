from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from derta.reporting.text import format_percent, label_slug, truncate, visible_value
from derta.results import Place


def test_markup_and_numbers_are_returned_unchanged():
    assert visible_value(Markup("<b>\u202e</b>")) == Markup("<b>\u202e</b>")
    assert visible_value(3) == 3


@given(st.text(), st.integers(0, 50))
def test_a_truncated_text_counts_every_omitted_character(text, limit):
    part = truncate(text, limit)
    assert len(part.text) + part.num_omitted == len(text)
    assert text.startswith(part.text)


def test_a_missing_value_is_a_dash_and_zero_is_zero():
    assert (format_percent(None), format_percent(0.0)) == ("–", "0.0")


def test_anchors_differ_where_names_differ_only_in_signs():
    names = ("a b", "a_b", "a@b", "A b", "\u3000", "", "a b" * 30)
    places = [Place(suite, name, attack=name) for suite in ("attack", "helpfulness") for name in names]
    slugs = {label_slug(place) for place in places}
    assert len(slugs) == len(places)
    assert all(slug.replace("-", "").isalnum() and slug.isascii() and len(slug) < 50 for slug in slugs)
