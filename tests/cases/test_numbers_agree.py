"""The numbers of one run are the same in its summary, its page, its commands and its model card."""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import pytest

from derta.files import read_records, write_records
from derta.pipeline.report import report
from derta.records import Prompt, Verdict
from derta.reporting import read_summary
from derta.reporting.heat_map import heat_groups
from derta.reporting.overview import overview_columns
from derta.reporting.scatter import build_scatters
from derta.reporting.tables import rate_tables
from derta.reporting.text import format_percent
from derta.reporting.verdict import verdict

METHODS = ("vanilla", "derta")
SETS = {"attack": ("direct", "prefill@0%", "prefill@50%"), "over_refusal": ("benign",)}
CLASSES = ("refuse", "malformed", "comply")


def chosen(method, prompt_id, number):
    """Return one of `number` outcomes, which differ by method and prompt."""
    return int(sha256(f"{method} {prompt_id}".encode()).hexdigest(), 16) % number


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of the finished run in which replies are harmful, refused and malformed, with a report of that."""
    folder = Path(shutil.copytree(finished.folder, tmp_path_factory.mktemp("rated") / "run"))
    for method in METHODS:
        path = folder / f"{method}-seed0/verdicts.harm.jsonl"
        rows = [one.model_copy(update={"harmful": not chosen(method, one.prompt_id, 2)}) for one in read(path)]
        write_records(path, rows)
        path = folder / f"{method}-seed0/verdicts.refusal.jsonl"
        kinds = [CLASSES[chosen(method, one.prompt_id, 3)] for one in read(path)]
        update = [{"reply_class": kind, "refused": kind == "refuse", "refusal_at": None} for kind in kinds]
        write_records(path, [one.model_copy(update=each) for one, each in zip(read(path), update, strict=True)])
    report(folder)
    return folder


def read(path):
    return list(read_records(path, Verdict))


@pytest.fixture(scope="module")
def counted(run):
    """The rates counted from the files of verdicts: by method, suite, name and measure."""
    found = {}
    prompts = {one.id: one for one in read_records(run / "prompts.jsonl", Prompt)}
    for method in METHODS:
        for judge, measure in (("harm", "harmful"), ("refusal", "refused"), ("refusal", "malformed")):
            for one in read(run / f"{method}-seed0/verdicts.{judge}.jsonl"):
                prompt = prompts[one.prompt_id]
                name = prompt.dataset or prompt.attack + (f"@{prompt.variant}" if prompt.variant else "")
                holds = one.reply_class == "malformed" if measure == "malformed" else getattr(one, measure)
                found.setdefault((method, prompt.suite, name, measure), []).append(holds)
    return {key: fmean(values) for key, values in found.items()}


@pytest.fixture(scope="module")
def summary(run):
    return read_summary(run / "summary.json")


def mean(counted, method, measure, suite="attack"):
    """Return the mean over attacks, of which each is the mean of its variants."""
    attacks = {}
    for name in SETS[suite]:
        if (method, suite, name, measure) in counted:
            attacks.setdefault(name.split("@")[0], []).append(counted[method, suite, name, measure])
    return fmean(map(fmean, attacks.values()))


def axes(counted, method):
    """Return the rates of the frontier by axis."""
    return {
        "attack_success": mean(counted, method, "harmful"),
        "attack_not_refused": 1 - mean(counted, method, "refused"),
        "over_refusal": mean(counted, method, "refused", "over_refusal"),
        "malformed_attack": mean(counted, method, "malformed"),
        "malformed_benign": mean(counted, method, "malformed", "over_refusal"),
    }


def test_the_rates_differ_by_method_and_measure(counted):
    assert len({value for value in counted.values() if 0 < value < 1}) > 1


def test_cells_of_the_summary_and_of_derta_judge_are_counted_from_the_verdicts(run, summary, counted, derta):
    cells = [one.model_dump() for one in summary.cells]
    judged = json.loads(derta("judge", run, "--json").out)
    for rows in (cells, judged):
        found = {(row["method"], row["suite"], row["name"], row["measure"]): row["value"] for row in rows}
        assert {key: found[key] for key in counted} == pytest.approx(counted)
    intervals = {(row["method"], row["name"], row["judge"], row["measure"]): (row["low"], row["high"]) for row in cells}
    assert all(
        intervals[row["method"], row["name"], row["judge"], row["measure"]] == (row["low"], row["high"])
        for row in judged
    )


def test_heat_map_has_the_same_cells(summary, counted):
    for group, measure in zip(heat_groups(summary.cells, methods=METHODS), ("harmful", "refused"), strict=False):
        for row in group.rows:
            expected = [counted[method, row.place.suite, row.place.name, measure] for method in METHODS]
            assert [cell.value for cell in row.cells] == [format_percent(value) for value in expected]


def test_means_are_the_same_in_verdict_scatter_overview_glance_gate_and_card(run, summary, counted, derta, tmp_path):
    expected = {method: axes(counted, method) for method in METHODS}
    assert {one.method: {name: rate.value for name, rate in one.rates.items()} for one in summary.frontier.points} == {
        method: pytest.approx(rates) for method, rates in expected.items()
    }
    shown = verdict(summary)
    assert (shown.baseline, shown.recommended) == METHODS
    before, after = ({name: format_percent(value) for name, value in expected[one].items()} for one in METHODS)
    names = ("attack_success", "malformed_attack", "over_refusal", "malformed_benign")
    assert [(one.before, one.after) for one in shown.changes] == [(before[name], after[name]) for name in names]
    [scatter, *_] = build_scatters(summary.frontier, methods=METHODS)
    assert [(one.x.split()[0], one.y.split()[0]) for one in scatter.points] == [
        (one["over_refusal"], one["attack_success"]) for one in (before, after)
    ]
    columns = {(one.table.suite, one.table.measure): one.means for one in overview_columns(rate_tables(summary.cells))}
    for place, name in (
        (("attack", "harmful"), "attack_success"),
        (("over_refusal", "refused"), "over_refusal"),
    ):
        means = {method: one.value for method, one in columns[place].items()}
        assert means == pytest.approx({method: expected[method][name] for method in METHODS})
    glance = json.loads(derta("report", run, "--json").out)
    assert {one["method"]: one["attack_success"]["value"] for one in glance["methods"]} == pytest.approx(
        {method: expected[method]["attack_success"] for method in METHODS}
    )
    words = [word for name in names for word in ("--max", f"{name}=1")]
    floors = json.loads(derta("gate", run, "--method", "derta", *words, "--json").out)["floors"]
    assert [one["value"] for one in floors] == pytest.approx([expected["derta"][name] for name in names])
    assert derta("publish", run / "derta-seed0", "--out", tmp_path / "card", "--license", "mit").code == 0
    card = (tmp_path / "card/README.md").read_text()
    for title, name in (("attack success", "attack_success"), ("malformed under attack", "malformed_attack")):
        [(value, baseline)] = re.findall(rf"^\| {title} \| lower \| ([\d.]+) .*\| ([\d.]+) \| [^|]*\|$", card, re.M)
        assert (value, baseline) == (after[name], before[name])
