import pytest

from derta.judges.refusal_patterns import SECTIONS, compiled, parse_patterns, pattern_lists


@pytest.mark.parametrize("section", SECTIONS[2:])
def test_every_section_of_the_english_patterns_compiles_and_is_used(section: str):
    assert compiled(section).pattern
    assert pattern_lists("en")[section]


def test_words_of_a_pattern_file_are_replaced_also_in_words():
    source = "# a comment\n\n[words]\nno = cannot|won't\nneg = (?:<no>|never)\n[strong]\ni <neg> help\n[not]\nx <no>\n"
    patterns = parse_patterns(source)
    assert patterns["strong"] == ["i (?:cannot|won't|never) help"]
    assert patterns["not"] == ["x cannot|won't"]
    assert set(patterns) == set(SECTIONS)
    with pytest.raises(KeyError):
        parse_patterns("[strong]\ni <unknown> help")
