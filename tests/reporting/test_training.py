"""Training curves by term."""

from derta.reporting import render_report
from derta.reporting.training import build_term_plots
from derta.results import Summary
from derta.run_details import Disagreement, JudgeErrors, ModelCost, RunDetails, RunOrigin, TrainingLog
from derta.stats import rate

HOSTILE = "<script>x</script><b class=pwned>"


def log(method, seed, **terms):
    count = len(next(iter(terms.values())))
    return TrainingLog(method=method, seed=seed, steps=tuple(range(1, count + 1)), terms=terms)


def test_each_term_has_a_plot_and_seeds_are_averaged():
    logs = [log("derta", seed, loss=(2.0 + seed, 1.0), loss_rto=(None, 0.0)) for seed in (0, 2)]
    loss, rto = build_term_plots(logs, methods=["vanilla", "derta"])
    assert [plot.title for plot in (loss, rto)] == [
        "Training loss",
        "Training loss: refusal at harmful positions (RTO)",
    ]
    assert loss.lines[0].values == (3.0, 1.0)
    assert (rto.lines[0].steps, rto.lines[0].values) == ((2,), (0.0,))
    assert len({loss.title, rto.title}) == 2
    assert "mathdefault" not in loss.svg


def test_the_details_of_a_run_are_on_its_page_and_hostile_names_add_no_tag(make_summary, parse):
    details = RunDetails(
        training=(log("derta", 0, loss=(2.0, 1.0)),),
        costs=(ModelCost(method=HOSTILE, seed=0, steps=20, seconds=754.0, tokens=1000, replies=7),),
        judges=(
            JudgeErrors(
                judge=HOSTILE, measure="harmful", labels=HOSTILE, recall=rate([True]), specificity=rate([True, False]),
                kappa=0.5, is_current=True,
            ),
        ),
        disagreements=(
            Disagreement(first=HOSTILE, second="b", about="harmful_refusal", count=3, replies=60, kappa=None),
        ),
        origins=tuple(
            RunOrigin(name=name, recipe=HOSTILE, commit="a" * 40, inputs={HOSTILE: "b" * 64}) for name in (HOSTILE, "b")
        ),
    )  # fmt: skip
    summary: Summary = make_summary(baseline="derta", recommended="derta")
    page = parse(render_report(summary, [], details=details))
    plain = parse(render_report(summary, [], details=RunDetails()))
    assert not [attributes for _, attributes in page.tags if attributes.get("class") == "pwned"]
    assert len(page.all("script")) == len(plain.all("script"))
    assert "12 min 34 s" in page.text
    assert "3 (5.0 %)" in page.text.replace("\u00a0", " ")
    assert f"derta run recipe.yaml --out '{HOSTILE}'" in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
