"""Notes on comparisons that found no significant difference."""

from judged import verdict

from derta.metrics.comparisons import compare
from derta.metrics.power import power_notes


def comparison(differing, *, prompts=30):
    """A comparison of two methods that differ on the first prompts."""
    first = [verdict(str(i), harmful=i < differing) for i in range(prompts)]
    return compare(first, [verdict(str(i), harmful=False) for i in range(prompts)])


def test_several_comparisons_without_a_difference_are_one_note():
    significant, unclear, equal = comparison(10), comparison(5), comparison(0)
    assert power_notes([significant, unclear, equal, equal]) == [
        "3 of 4 comparisons have no significant difference, which is no evidence that there is none: n = 30 is too "
        "small to detect any difference, at so few differing replies (in 3) with a power of 0.8."
    ]
    # all of the 6 differ: p = 0.03 alone, which a correction for other comparisons makes 0.06
    corrected = comparison(6, prompts=6).model_copy(update={"p_holm": 0.0625})
    (note,) = power_notes([corrected, comparison(0, prompts=40)])
    assert "n = 6 to 40 are too small to detect a difference below 0.93 (in 1) or any difference" in note


def test_one_comparison_has_its_own_note():
    (note,) = power_notes([comparison(3)])
    assert "no significant difference on 30 prompts; with 10% of them answered differently" in note
    assert "the test can detect no difference, however large" in note
    assert power_notes([comparison(10)]) == []
