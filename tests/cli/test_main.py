"""The command line as a whole: help, exit codes, imports and log filters."""

import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from derta import __version__
from derta.cli.main import app

VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]
DOCS = Path(__file__).parents[2] / "docs/cli.md"
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "datasets", "pyarrow", "numpy", "jinja2", "yaml", "openai")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, derta):
    called = derta(verb, "--help")
    assert called.code == 0
    assert f"Example: derta {verb}" in called.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_json_and_is_in_the_docs(verb, derta):
    command = next(one for one in app.registered_commands if verb in (one.name, one.callback.__name__))
    assert "as_json" in inspect.signature(command.callback).parameters
    assert "--json" in derta(verb, "--help").out
    assert f"`derta {verb}" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["--version"], f"derta {__version__}\n"),
        (["-q", "check", "r.yaml", "--json"], "{"),
        (["--show-completion"], "_derta_completion()"),
    ],
)
def test_global_options_print_to_standard_output(words, start, derta, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # of the process that runs the tests
    called = derta(*words)
    assert called.err == ""
    assert called.out.startswith(start)


def test_quiet_leaves_results_and_errors_and_verbose_adds_debug_messages(finished, derta):
    replies = finished.folder / "derta-seed0/replies.jsonl"
    words = ["judge", replies, "--judge", "refusal"]
    loud, quiet = derta(*words), derta("-q", *words)
    assert quiet.out == loud.out
    assert quiet.err == ""
    assert "unknown judge" in derta("-q", "judge", replies, "--judge", "refusl").err
    derta("-v", *words)
    assert logging.getLogger("derta").level == logging.DEBUG
    assert "got both" in derta("-q", "-v", *words).err


def test_python_m_derta_is_the_command():
    words = [sys.executable, "-m", "derta", "rum"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - the words above
    assert result.returncode == 2
    assert result.stderr == "derta: No such command 'rum'. Did you mean 'run'?; see `derta --help`\n"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run"], ["derta run: Missing argument 'recipe'", "for example: derta run recipes/", "`derta run --help`"]),
        (["train", "r.yaml"], ["derta train: Missing option '--method'", "for example: derta train"]),
        (["run", "r.yaml", "-q"], ["global options are before the verb: `derta -q run ...`"]),
        (["lsit"], ["derta: No such command 'lsit'", "id you mean 'list'"]),
        (["list", "atacks"], ["derta: list: expected one of attacks", "did you mean 'attacks'?"]),
    ],
)
def test_wrong_usage_is_one_line_with_an_example(words, parts, derta):
    called = derta(*words)
    assert called.code == 2
    assert called.err.count("\n") == 1
    assert all(part in called.err for part in parts), called.err


def test_every_stage_has_a_command(derta):
    assert {"demo", "run", "data", "train", "attack", "generate", "judge", "report", "compare", "replay"} <= set(VERBS)
    called = derta("--help")
    assert called.code == 0
    assert all(verb in called.out for verb in VERBS)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["judge", "--help"], ["judge", "replies.jsonl", "--judge", "refusal", "--out", "verdicts.jsonl"]],
)
def test_help_and_a_light_judge_import_nothing_heavy(words, tmp_path):
    (tmp_path / "replies.jsonl").write_text('{"question": "Ask?", "response": "Sorry, I cannot help with that."}\n')
    script = (
        "import sys\nfrom derta.cli.main import main\ntry:\n    main()\nexcept SystemExit as exit_request:\n"
        f"    heavy = set({HEAVY}) & set(sys.modules)\n"
        "    sys.exit(f'code {exit_request.code}, {sorted(heavy)}')"
    )
    result = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.stderr.strip() == "code 0, []"


def test_the_warning_about_an_unused_bitsandbytes_kernel_is_hidden(derta, caplog):
    derta("--help")
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please", "No module named 'kernels'")
    log.warning("Something else")
    assert caplog.messages == ["Something else"]
