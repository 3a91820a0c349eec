import pytest
from pydantic import ValidationError

from derta.judges import JUDGES
from derta.paper.figures import Figure, Halves, load_figures
from derta.paper.outputs import READERS


def test_every_shipped_figure_can_be_read_and_judged():
    figures = load_figures()
    assert len(figures.outputs) == 25
    assert {figure.kind for figure in figures.outputs} <= set(READERS)
    assert {figure.judge for figure in figures.outputs} <= set(figures.halves) <= set(JUDGES)


def test_every_shipped_curve_has_a_share_for_each_position_that_never_falls():
    figures = load_figures()
    files = {figure.file for figure in figures.outputs}
    for curve in figures.refusal_positions.curves:
        assert set(curve.files) <= files
        assert len(curve.paper) == len(figures.refusal_positions.x)
        assert list(curve.paper) == sorted(curve.paper)


def test_the_papers_figures_are_percentages():
    shares = [figure.paper for figure in load_figures().outputs if figure.paper is not None]
    assert all(0 <= share <= 100 for share in shares)
    assert max(shares) > 1


def test_curves_need_the_files_that_the_harm_judge_reads():
    figures = load_figures()
    harmful = {figure.file for figure in figures.outputs if figure.measure == "harmful"}
    for curve in figures.refusal_positions.curves:
        assert set(curve.files) <= harmful


@pytest.mark.parametrize(("field", "value"), [("kind", "poems"), ("measure", "beauty"), ("paper", "many"), ("page", 3)])
def test_a_malformed_figure_is_an_error(field, value):
    figure = {"file": "a.jsonl", "kind": "answers", "judge": "gsm8k", "measure": "correct", "paper": None}
    assert Figure.model_validate(figure).note == ""
    with pytest.raises(ValidationError, match=field):
        Figure.model_validate(figure | {field: value})


def test_halves_split_by_request_or_reply_only():
    with pytest.raises(ValidationError, match="'request' or 'reply'"):
        Halves(by="judge", note="")
