"""The GPU pack's runner, parts and wheels; the whole pack at toy size on a CPU."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("generate_speed", "demo", "train_speed", "tests", "tests_flex", "train_speed_trl")


@pytest.fixture(scope="module")
def scripts():
    """Import the scripts as they import one another when they are run."""
    folders = [str(ROOT / name) for name in ("scripts", "benchmarks")]
    sys.path[:0] = folders
    yield importlib.import_module
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture
def check(scripts):
    return scripts("gpu_check")


@pytest.fixture
def parts(scripts):
    return scripts("gpu_parts")


def part_of(parts, program, *, limit_s=30, **settings):
    """Return a part that runs a program's text, with its folder as the argument."""
    return parts.Part(limit_s, lambda size, out: [sys.executable, "-c", program, str(out)], parts.read_json, **settings)


WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'figures.json').write_text('{\"speed_ratio\": 2}')"


# --- the runner ------------------------------------------------------------------------------------------------------


def test_a_part_that_ends_well_passes_with_its_figures(check, parts, tmp_path):
    result = check.run_part("one", part_of(parts, WRITES), size="toy", out=tmp_path)
    assert (result["status"], result["figures"]) == ("passed", {"speed_ratio": 2})
    assert result["seconds"] < result["limit_s"] == 30


def test_a_part_that_fails_is_reported_with_its_last_line_and_no_figures_of_an_earlier_run(check, parts, tmp_path):
    check.run_part("one", part_of(parts, WRITES), size="toy", out=tmp_path)
    result = check.run_part("one", part_of(parts, "raise SystemExit('out of luck')"), size="toy", out=tmp_path)
    assert (result["status"], result["reason"], result["figures"]) == ("failed", "out of luck", {})


@pytest.mark.extra
def test_a_part_beyond_its_time_is_killed_with_its_children_and_keeps_its_figures(check, parts, tmp_path):
    child = "import time, pathlib, sys; time.sleep(2); pathlib.Path(sys.argv[1], 'late').touch()"
    program = f"{WRITES}; import subprocess, time; subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[1]]); "
    part = part_of(parts, program + "time.sleep(60)", limit_s=1)
    start = time.monotonic()
    result = check.run_part("one", part, size="toy", out=tmp_path)
    assert (result["status"], result["figures"]) == ("timed out", {"speed_ratio": 2})
    assert time.monotonic() - start < 30
    time.sleep(max(0, start + 3 - time.monotonic()))
    assert not (tmp_path / "one" / "late").exists()


def test_a_part_without_its_package_is_skipped_with_the_reason(check, parts, tmp_path):
    part = part_of(parts, "raise SystemExit('started')", package="no_such_package")
    result = check.run_part("one", part, size="toy", out=tmp_path)
    assert result == {"status": "skipped", "reason": "no_such_package is not installed"}


@pytest.mark.parametrize(("size", "status"), [("toy", "passed"), ("full", "goal missed")])
def test_goals_are_judged_at_full_size_alone(check, parts, tmp_path, size, status):
    goals = (parts.Goal("speed_ratio", ">=", 2.5), parts.Goal("speed_ratio", "<=", 2.0), parts.Goal("other", "<=", 1))
    result = check.run_part("one", part_of(parts, WRITES, goals=goals), size=size, out=tmp_path)
    assert result["status"] == status
    if size == "full":
        assert result["goals"] == {
            "speed_ratio >= 2.5": "missed", "speed_ratio <= 2": "met", "other <= 1": "not measured"
        }  # fmt: skip


@pytest.mark.parametrize(("written", "verdict"), [("", "not measured"), (WRITES, "missed")])
def test_a_part_beyond_its_time_has_measured_what_it_wrote_and_says_where_it_was(  # noqa: PLR0917
    check, parts, tmp_path, monkeypatch, written, verdict
):
    class Late(subprocess.Popen):
        """A process whose time is over when it has printed something, however slow the machine is."""

        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not (tmp_path / "one" / "output.txt").read_text():
                time.sleep(0.02)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(check.subprocess, "Popen", Late)
    program = f"{written or 'pass'}; print('step 3', flush=True); import time; time.sleep(60)"
    part = part_of(parts, program, goals=(parts.Goal("speed_ratio", ">=", 2.5),))
    result = check.run_part("one", part, size="full", out=tmp_path)
    assert (result["status"], result["reason"]) == ("timed out", "step 3")
    assert result["goals"] == {"speed_ratio >= 2.5": verdict}
    report = {"card": None, "cores": 2, "versions": {}, "size": "full", "seconds": 3, "parts": {"one": result}}
    table = check.table(report)
    assert f"- one, goal {verdict}: speed_ratio >= 2.5" in table
    assert "- one, timed out, its last line: step 3" in table


def test_a_part_has_its_own_environment(check, parts, tmp_path):
    program = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1] + '/figures.json', 'w'))"
    result = check.run_part("one", part_of(parts, program, environment={"OF_IT": "1"}), size="toy", out=tmp_path)
    assert (result["figures"]["OF_IT"], result["figures"]["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")


def test_an_interrupted_pack_leaves_no_part_running(check, parts, tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            started.append(self)

        def wait(self, timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            return super().wait()

    monkeypatch.setattr(check.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        check.run_part("one", part_of(parts, "import time; time.sleep(60)"), size="toy", out=tmp_path)
    assert started[0].returncode == -9


def test_what_fails_fails_alone_and_the_rest_goes_on(check, parts, tmp_path, monkeypatch, capsys):
    fakes = {
        "first": part_of(parts, "raise SystemExit('out of luck')"),
        "second": part_of(parts, "import time; time.sleep(60)", limit_s=1),
        "third": part_of(parts, WRITES),
    }
    monkeypatch.setattr(check, "PARTS", fakes)
    monkeypatch.setattr(check, "describe", lambda: {"card": None, "cores": 2, "versions": {"torch": "2.11.0"}})
    assert check.main(["--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [one["status"] for one in report["parts"].values()] == ["failed", "timed out", "passed"]
    assert report["size"] == "toy"
    table = capsys.readouterr().out.strip()
    assert table == (tmp_path / "gpu_check.md").read_text().strip()
    assert "| first | failed |" in table
    assert "- first, failed: out of luck" in table
    assert "| third | passed |" in table
    assert "speed ratio 2 |" in table
    assert check.main(["--out", str(tmp_path), "--only", "third"]) == 0


def test_an_older_torch_is_refused(check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "describe", lambda: {"card": None, "cores": 2, "versions": {"torch": "2.10.1"}})
    assert check.main(["--out", str(tmp_path)]) == 2
    assert "expected torch 2.11 or newer, got 2.10.1" in capsys.readouterr().err


# --- the parts -------------------------------------------------------------------------------------------------------


def test_the_parts_fit_into_five_minutes_with_time_to_describe_the_machine(parts):
    assert tuple(parts.PARTS) == PARTS
    assert sum(part.limit_s for part in parts.PARTS.values()) <= 295


@pytest.mark.parametrize("size", ["toy", "full"])
@pytest.mark.parametrize("name", ["train_speed", "train_speed_trl", "generate_speed"])
def test_the_benchmarks_take_the_options_of_the_parts(  # noqa: PLR0917
    scripts, parts, monkeypatch, tmp_path, name, size
):
    words = parts.PARTS[name].command(size, tmp_path)
    monkeypatch.setattr(sys, "argv", words[1:])
    args = scripts(Path(words[1]).stem).parse()
    assert args.random == {"toy": "toy", "full": "1b"}[size]
    if size == "full" and name.startswith("train_speed"):
        assert (args.rows, args.max_length) == (64 if name.endswith("trl") else 128, 1024)


def test_the_random_1b_model_has_the_shape_of_llama_3_2_1b(scripts, monkeypatch):
    import torch

    synthetic = scripts("synthetic")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "device", lambda _, real=torch.device: real("meta"))
    model = synthetic.random_model("1b", synthetic.random_tokenizer())
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == 1.24


def test_every_file_with_tests_for_a_gpu_is_among_those_that_run(parts):
    files = parts.gpu_test_files()
    assert {"tests/devices/test_training.py", "tests/devices/test_generation.py"} < set(files)
    assert "tests/train/test_tree_attention.py" in files


def test_every_test_for_a_gpu_is_in_one_of_the_two_parts(parts, tmp_path):
    words = [parts.PARTS[name].command("full", tmp_path) for name in ("tests", "tests_flex")]
    assert [one[one.index("-k") + 1] for one in words] == ["not flex_attention", "flex_attention"]
    assert words[0][-len(parts.gpu_test_files()) :] == words[1][-len(parts.gpu_test_files()) :]


TESTED = """
import warnings
import pytest
def test_good(): warnings.warn("of another version")
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="needs a CUDA device")
def test_skipped(): ...
"""


@pytest.mark.extra
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_log_of_tests_holds_each_outcome_once_with_its_reason(parts, tmp_path, workers):
    (tmp_path / "test_some.py").write_text(TESTED)
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "GPU_TESTS_LOG": str(tmp_path / "tests.jsonl")}
    words = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "gpu_tests_log", "-p", "no:cacheprovider"]
    words += ["--continue-on-collection-errors", *workers, str(tmp_path)]
    subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, check=False)  # noqa: S603
    figures = parts.read_tests(tmp_path)
    assert (figures["passed"], figures["failed"], figures["skipped"]) == (1, 2, 1)
    assert figures["skips"] == {"needs a CUDA device": 1}
    assert figures["not_run"] == 0
    assert sorted("no_such_module" in one or "assert 1 == 2" in one for one in figures["failures"]) == [True, True]


def test_tests_that_were_collected_and_have_no_outcome_did_not_run(parts, tmp_path):
    outcome = {"test": "a.py::test_a", "outcome": "passed", "seconds": 1.0, "reason": ""}
    records = [{"collected": ["a.py::test_a", "a.py::test_b"]}, outcome]
    (tmp_path / "tests.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    figures = parts.read_tests(tmp_path)
    assert (figures["passed"], figures["not_run"], figures["tests_not_run"]) == (1, 1, ["a.py::test_b"])


@pytest.mark.extra
def test_one_part_runs_at_toy_size_on_a_cpu(check, parts, tmp_path):
    result = check.run_part("generate_speed", parts.PARTS["generate_speed"], size="toy", out=tmp_path, time_scale=10)
    assert result["status"] == "passed", (tmp_path / "generate_speed" / "output.txt").read_text()
    assert result["figures"]["same_tokens"] == result["figures"]["checked"] == 4


def test_a_part_does_not_know_of_a_test_run_around_it(check, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")  # else its tests would be taken for those of a worker
    assert not [name for name in check.environment(tmp_path) if name.startswith("PYTEST_")]


@pytest.mark.extra
def test_the_whole_pack_runs_at_toy_size_on_a_cpu(tmp_path):
    words = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--size", "toy", "--time-scale", "10"]
    words += ["--out", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert tuple(report["parts"]) == PARTS
    assert report["parts"]["tests"]["figures"]["passed"] > 10
    assert {"train_speed", "train_speed_trl"} <= {
        name for name, part in report["parts"].items() if "speed_ratio" in part.get("figures", {"speed_ratio": None})
    }


# --- the wheels ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wheels(scripts):
    return scripts("gpu_wheels")


def listed(wheels, capsys, *words):
    wheels.main(["--python-version", "3.12", "--platform", "manylinux_2_39_x86_64", *words])
    return dict(line.split("==") for line in capsys.readouterr().out.split())


def test_the_list_holds_all_that_the_project_needs_but_torch_in_the_tested_versions(wheels, capsys):
    names = listed(wheels, capsys)
    assert {"pydantic-core", "transformers", "beartype", "typing-inspection", "tokenizers", "trl", "dill"} <= set(names)
    assert "torch" not in names
    assert "ruff" not in names
    pins = wheels.pins(ROOT / "constraints.txt")
    assert all(names[name] == pins[name] for name in ("transformers", "pydantic-core"))


def test_what_is_there_in_a_version_that_will_do_is_not_listed(wheels, capsys, tmp_path):
    have = tmp_path / "image.txt"
    have.write_text("transformers==5.17.0\npeft==0.19.0\nwadler_lindig==0.1.7\ntorch==2.11.0+cu130\n")
    names = listed(wheels, capsys, "--have", str(have), "--extras", "--without", "numpy")
    assert "transformers" in names
    assert not {"peft", "wadler-lindig", "numpy", "trl"} & set(names)


def test_an_unknown_extra_is_refused(wheels):
    with pytest.raises(SystemExit, match=r"--extras: expected some of .*dpo.*, got dop"):
        wheels.main(["--extras", "dop"])


def test_wheels_are_fetched_for_the_target_and_every_older_glibc(wheels, capsys, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(wheels.subprocess, "run", lambda words, check: calls.append(words))
    wheels.main(["--python-version", "3.12", "--platform", "manylinux_2_28_aarch64", "--fetch", str(tmp_path / "w")])
    [words] = calls
    assert words[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "manylinux_2_28_aarch64", "manylinux2014_aarch64"} <= set(words)
    assert "manylinux_2_29_aarch64" not in words
    assert "--no-index" in capsys.readouterr().out
