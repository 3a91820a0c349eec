"""The command line as a whole: help, exit codes, imports and log filters."""

import logging
import subprocess
import sys

import pytest

from derta.cli.main import app

VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "datasets", "pyarrow", "numpy", "jinja2", "yaml", "openai")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, derta):
    called = derta(verb, "--help")
    assert called.code == 0
    assert f"Example: derta {verb}" in called.out


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
