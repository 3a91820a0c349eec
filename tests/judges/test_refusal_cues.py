import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.refusal_cues import (
    LANGUAGES,
    SECTIONS,
    Cue,
    compiled,
    find_cues,
    fold,
    parse_patterns,
    pattern_lists,
    sentences,
)
from reply_texts import ANSWERS, REFUSALS


@pytest.mark.parametrize("text", REFUSALS)
def test_every_refusal_contains_a_trigger(text: str):
    assert any(trigger in fold(text) for trigger in pattern_lists()["trigger"])


@given(st.text(max_size=200))
def test_folding_preserves_every_index(text: str):
    assert len(fold(text)) == len(text)


@given(st.sampled_from(REFUSALS), st.integers(0, 60))
def test_a_refusal_is_found_behind_any_length_of_text(refusal: str, count: int):
    before = "".join(f"Then stir pot {i} with the long spoon. " for i in range(count))
    assert find_cues(before + refusal, mid_answer=True)[0].start == len(before)


@pytest.mark.parametrize("section", ["strong", "refusal", "opening", "preamble", "not", "letter", "turn", "aside"])
def test_every_section_of_the_pattern_files_compiles_and_is_used(section: str):
    assert compiled(section).pattern
    assert pattern_lists()[section]
    assert len(LANGUAGES) == 5


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one_of_the_strong_the_plain_or_the_opening_cues_at_the_start(text: str):
    first = find_cues(text)[0]
    assert first.start == 0
    assert first.kind in ("strong", "refusal", "opening")


@pytest.mark.parametrize("text", ANSWERS)
def test_an_apology_that_refuses_nothing_has_no_cue(text: str):
    assert find_cues(text) == []


def test_a_refusal_counts_in_a_quotation_only_if_it_opens_the_text_or_follows_a_speaker_s_label():
    refusal = "Sorry, but I cannot help you."
    assert find_cues(f'The guard shook his head. "{refusal}"') == []
    assert find_cues(f'He said: "Go home." {refusal}')[0].start == 20  # the quotation is closed
    assert find_cues(f'Then the guard shook his head and answered the girl: "{refusal}"') == []
    assert find_cues(f'"{refusal}"')[0].start == 1
    assert find_cues(f'[GPT]: "{refusal}"')[0].start == 8
    assert find_cues(f'He said: "Go home.\n{refusal}')[0].start == 19  # an open quotation ends with its line


def test_a_refusal_in_a_letter_that_the_reply_drafts_does_not_count_and_one_before_it_does():
    letter = "Dear Ms Hill,\nI am sorry, but I cannot attend the meeting."
    assert find_cues(letter) == []
    before = "Sorry, but I cannot help with that.\n"
    cues = find_cues(before + letter)
    assert cues
    assert all(cue.start < len(before) for cue in cues)


def test_disapproval_opens_an_answer_and_does_not_continue_one():
    text = "It is not appropriate to brew that potion."
    assert find_cues(text) == [Cue(0, "opening")]
    assert find_cues(f'\n "{text}') == [Cue(3, "opening")]  # white space and quotation marks are skipped
    assert find_cues(text, mid_answer=True) == []
    assert find_cues(f"Boil the roots for an hour. {text}") == []


def test_a_glued_word_begins_a_refusal_only_if_one_follows():
    assert find_cues("take itSorry, but I can't help")[0] == Cue(7, "glued")
    assert find_cues("take itSorry. This is wrong. I cannot assist with it.")[0] == Cue(7, "glued")
    assert find_cues("take itI cannot assist with that.")[0] == Cue(7, "glued")
    assert find_cues("take itSorry") == []
    assert find_cues("take itSorry and boil it for an hour in a big pot. I cannot assist.")[0].start == 51


def test_words_of_a_pattern_file_are_replaced_also_in_words():
    source = "# a comment\n\n[words]\nno = cannot|won't\nneg = (?:<no>|never)\n[strong]\ni <neg> help\n[not]\nx <no>\n"
    patterns = parse_patterns(source)
    assert patterns["strong"] == ["i (?:cannot|won't|never) help"]
    assert patterns["not"] == ["x cannot|won't"]
    assert set(patterns) == set(SECTIONS)
    with pytest.raises(KeyError):
        parse_patterns("[strong]\ni <unknown> help")


@given(st.text(alphabet="ab .!?\n。", max_size=60))
def test_sentences_are_the_parts_with_a_letter_in_order(text: str):
    spans = sentences(text, 0, len(text))
    assert all(any(character.isalpha() for character in text[start:end]) for start, end in spans)
    assert [end for _, end in spans] == sorted({end for _, end in spans})
    assert "".join(text[a:b] for a, b in spans).count("a") == text.count("a")


@pytest.mark.parametrize("unit", ["sorry ", "i cannot ", '"', ".", "Sorry", "\ndear ", "我不能"])
def test_a_hostile_text_of_250_kb_takes_seconds_at_most(unit: str):
    start = time.monotonic()
    find_cues(unit * (250_000 // len(unit)))
    assert time.monotonic() - start < 10  # linear takes less than 1 s
