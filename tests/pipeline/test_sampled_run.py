"""A run with several samples of each prompt: generated, judged, resumed, and summarised by prompt."""

from collections import Counter

import pytest
import yaml

from derta.config import load_recipe
from derta.errors import RecipeError
from derta.files import read_records, write_records
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.pipeline.run_cells import judge_run
from derta.records import Reply, Verdict
from small_run import small_recipe

COUNTS = {"direct": 4, "best_of_n": 1, "benign": 1}


def sampled_recipe(folder, model, **generate):
    path = small_recipe(folder, model, methods=["vanilla"], profile_answers=0)
    values = yaml.safe_load(path.read_text())
    values["generate"] |= {"temperature": 1.5, "top_p": 0.9, "num_samples": 4, **generate}
    asked = {"path": str(folder / "asked.jsonl")}
    values["evaluate"] = [
        {"attack": "direct", "requests": asked, "judges": ["refusal", "harm"]},
        {"attack": "best_of_n", "requests": asked, "judges": ["harm"], "num_samples": 1, "options": {"n": 3}},
        {**values["evaluate"][2], "temperature": 0},
    ]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("sampled")
    path = sampled_recipe(folder, tiny_model_dir)
    summary = run(path, out=folder / "run")
    return path, folder / "run", summary


def replies_of(folder):
    return list(read_records(folder / "vanilla-seed0" / "replies.jsonl", Reply))


def test_each_prompt_has_its_samples_with_their_seeds_and_settings(sampled):
    _, folder, _ = sampled
    replies = replies_of(folder)
    counts = Counter(reply.prompt_id.split(":")[0] for reply in replies)
    assert counts == {"direct": 12, "best_of_n": 9, "benign/direct": 2}
    assert len({reply.key for reply in replies}) == len(replies)
    for reply in replies:
        is_greedy = reply.prompt_id.startswith("benign")
        assert (reply.seed is None) is is_greedy
        assert reply.producer.get("temperature") == (None if is_greedy else "1.5")
    assert len({reply.text for reply in replies if reply.prompt_id == "direct:q0"}) > 1


def test_every_sample_is_judged(sampled):
    _, folder, _ = sampled
    keys = {reply.key for reply in replies_of(folder) if not reply.prompt_id.startswith("benign")}
    verdicts = read_records(folder / "vanilla-seed0" / "verdicts.harm.jsonl", Verdict)
    assert {verdict.key for verdict in verdicts} == keys


def test_rates_are_over_samples_and_success_in_any_attempt_is_by_prompt_or_request(sampled):
    _, folder, summary = sampled
    cells = {(cell.name, cell.measure): cell for cell in summary.cells if cell.judge == "harm"}
    assert {name for name, measure in cells if measure == "harmful_any"} == {"direct", "best_of_n"}
    for name, cases in (("direct", 12), ("best_of_n", 9)):
        whole, any_of_n = cells[name, "harmful"], cells[name, "harmful_any"]
        assert (whole.scored, any_of_n.scored) == (cases, 3)
        assert any_of_n.value >= whole.value
    curves = {curve.name: curve for curve in summary.curves if curve.kind == "any_of_n"}
    assert (curves["direct"].x, curves["best_of_n"].x) == ((1, 2, 3, 4), (1, 2, 3))
    assert curves["direct"].y[0] == pytest.approx(cells["direct", "harmful"].value)
    assert curves["direct"].y[-1] == pytest.approx(cells["direct", "harmful_any"].value)
    assert any("4 for each prompt, at temperature 1.5 and top_p 0.9, with seed 0" in note for note in summary.notes)
    assert ("harmful_any", "direct") in {(cell.measure, cell.name) for cell in judge_run(folder)}
    page = (folder / "report.html").read_text()
    assert "Attack success in any attempt" in page
    assert "Attack success in any of several attempts" in page


def test_a_run_resumes_with_the_missing_samples_and_reads_as_before(sampled, tmp_path):
    path, folder, summary = sampled
    home = folder / "vanilla-seed0"
    before = replies_of(folder)
    kept = [reply for number, reply in enumerate(before) if number % 3]
    write_records(home / "replies.jsonl", kept)
    assert run(path, out=folder).cells == summary.cells
    after = replies_of(folder)
    assert after[: len(kept)] == kept
    assert {reply.key: reply for reply in after} == {reply.key: reply for reply in before}
    assert report(folder, out=tmp_path) == summary


def test_more_samples_keep_the_others_and_another_seed_replaces_all(sampled, tiny_model_dir, tmp_path):
    _, folder, _ = sampled
    before = {reply.key: reply for reply in replies_of(folder)}
    data = folder.parent
    more = sampled_recipe(data, tiny_model_dir, num_samples=5)
    run(more, out=folder)
    after = {reply.key: reply for reply in replies_of(folder)}
    assert before.items() <= after.items()
    assert set(after.keys() - before.keys()) == {(f"direct:q{i}", 4) for i in range(3)}
    run(sampled_recipe(data, tiny_model_dir, seed=9), out=folder)
    other = {reply.key: reply for reply in replies_of(folder)}
    assert other.keys() == before.keys()
    assert [key for key, one in other.items() if one == before[key]] == [
        key for key in other if key[0].startswith("benign")
    ]


@pytest.mark.parametrize(
    ("generate", "section", "message"),
    [
        ({"num_samples": 2}, {}, "expected a temperature above 0 for 2 samples, which are all the same at 0"),
        ({"top_p": 0.5}, {}, "expected a temperature above 0 with top_p 0.5, which changes nothing at 0"),
        ({"temperature": float("inf")}, {}, "expected a finite temperature, got inf"),
        ({"temperature": -1}, {}, "temperature"),
        ({"temperature": 1}, {"temperature": 0, "num_samples": 3}, "evaluate: direct: .* for 3 samples"),
        ({}, {"num_samples": 3}, "evaluate: direct: .* for 3 samples"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(generate, section, message, tmp_path, tiny_model_dir):
    path = small_recipe(tmp_path, tiny_model_dir)
    values = yaml.safe_load(path.read_text())
    values["generate"] |= generate
    values["evaluate"][0] |= section
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
