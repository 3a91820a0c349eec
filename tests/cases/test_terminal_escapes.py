"""Control sequences in data, model output, file names and servers' messages: none reaches the terminal."""

import json
import subprocess
import sys

import pytest
from openai_server import Fault, serving

from derta.cli.console import console_display, print_json, print_output, print_result
from derta.errors import DataError, RecipeError
from derta.records import Message, Prompt, Reply
from derta.results import TextTable
from small_run import forget_console, write_jsonl

CLEAR = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066\r"
FORGED = "\nderta: finished without errors"
HOSTILE = f"{CLEAR}{FORGED}"


def is_clean(text):
    """Return whether no character hides, reorders or controls, and no line is forged."""
    hidden = [c for c in text if c not in "\n\t" and not c.isprintable()]
    return not hidden and not any(line.startswith("derta: finished") for line in text.splitlines())


@pytest.fixture
def display():
    yield console_display()
    forget_console()


# every way to print


def test_log_lines_bars_results_tables_and_json_are_clean(display, capfd):
    display.logger.info("rows of %s", HOSTILE)
    display.logger.info(HOSTILE)
    with display.progress.task(f"replies of {HOSTILE}", total=1) as task:
        task.update(1)
    print_result(TextTable(HOSTILE, ("file", HOSTILE), [(HOSTILE, "x")], HOSTILE))
    print_result(f"asr: 1 {HOSTILE}")
    print_output({HOSTILE: HOSTILE}, f"line {HOSTILE}", as_json=False)
    out, err = capfd.readouterr()
    assert is_clean(out)
    assert is_clean(err)
    assert "⟨U+001B⟩[2J" in out
    print_json({HOSTILE: [HOSTILE, "\U000e0041", "\ud800", "é"]})
    out = capfd.readouterr().out
    assert is_clean(out)
    assert json.loads(out) == {HOSTILE: [HOSTILE, "\U000e0041", "\ud800", "é"]}
    assert "é" in out


def test_errors_are_clean_in_python_too():
    assert is_clean(str(DataError(f"{CLEAR}.jsonl: expected text")))
    error = RecipeError(f"got {CLEAR}", key="title")
    assert is_clean(str(error))
    assert is_clean(str(error.within("train")))


# every source of text


def test_data_and_file_names(derta, tmp_path):
    for number, content in enumerate(
        [f'{{"a{HOSTILE!s}": 1}}', json.dumps({CLEAR: CLEAR}), '{"id": "x", "text": "\x1b"}']
    ):
        path = tmp_path / f"data{CLEAR.replace('/', '')}{number}.jsonl"
        path.write_text(content)
        for words in (
            ["judge", path, "--judge", "refusal"],
            ["attack", "direct", "--requests", path, "--out", tmp_path / "o"],
        ):
            called = derta(*words)
            assert called.code == 2, called
            assert is_clean(called.out + called.err)
    for words in (
        [f"no{CLEAR}"],
        ["judge", f"--{CLEAR}"],
        ["report"],
        ["judge", "a", f"b{HOSTILE}"],
        ["run", f"{CLEAR}.yaml"],
    ):
        called = derta(*words)
        assert called.code == 2, called
        assert is_clean(called.out + called.err)


def test_names_in_data_that_appear_in_results(derta, tmp_path):
    message = (Message(role="user", content="Tea?"),)
    prompts = [
        Prompt(
            id=f"p{i}{HOSTILE}", request_id="r", request="Tea?", attack=f"a{HOSTILE}", variant=CLEAR, messages=message
        )
        for i in range(4)
    ]
    for side, text in (("first", "Sorry, no."), ("second", f"Sure. {HOSTILE}")):
        (tmp_path / side).mkdir()
        write_jsonl(tmp_path / side / "prompts.jsonl", [one.model_dump() for one in prompts])
        replies = [Reply(prompt_id=one.id, text=text if i else HOSTILE).model_dump() for i, one in enumerate(prompts)]
        write_jsonl(tmp_path / side / "replies.jsonl", replies)
    first, second = (tmp_path / side / "replies.jsonl" for side in ("first", "second"))
    labels = tmp_path / f"labels{CLEAR}.jsonl"
    write_jsonl(labels, [{"question": "Tea?", "response": "No.", "label": i % 2, "attack": HOSTILE} for i in range(4)])
    for words in (
        ["compare", first, second, "--judge", "refusal"],
        ["judge", second, "--judge", "harm", "--against", "refusal"],
        ["calibrate", "--labels", labels, "--judge", "harm"],
    ):
        for more in ([], ["--json"]):
            called = derta(*words, *more)
            assert is_clean(called.out + called.err), called


def test_the_messages_of_a_server(derta, tmp_path):
    row = Prompt(id="p", request_id="r", request="?", attack="direct", messages=(Message(role="user", content="?"),))
    path = write_jsonl(tmp_path / "prompts.jsonl", [row.model_dump()])
    for kind, status in (("status", 400), ("text", 400), ("text", 401), ("text", 404), ("text", 429), ("text", 500)):
        fault = Fault(kind, status, (("Retry-After", "90000"),) if status == 429 else (), message=HOSTILE)
        with serving(fault=lambda *_, fault=fault: fault) as server:
            words = ["generate", path, "--model", "m", "--engine", "api", "--endpoint", server.url]
            called = derta(*words, "--out", tmp_path / "out.jsonl", "--option", "attempts=1")
        assert called.code == 2
        assert is_clean(called.err)
        assert "⟨U+001B⟩[2J" in called.err or kind == "status" or status in {401, 429}


def test_the_names_and_texts_of_a_run(recipe, tmp_path, derta):
    """Titles and notes are quoted in files, and unknown names in errors."""
    for key in ("title", "methods", "notes"):
        called = derta("run", recipe, "--set", f"{key}={json.dumps([HOSTILE])}", "--out", tmp_path / "run")
        assert called.code == 2 or key == "notes"
        assert is_clean(called.out + called.err)


def test_an_unexpected_error_is_a_clean_traceback(tmp_path):
    script = (
        "import sys, derta.cli.main as main\n"
        "class Loud(Exception):\n    pass\n"
        "def fail():\n    raise Loud(chr(27) + '[2J')\n"
        "main.exit_code_of = lambda app: fail()\n"
        "main.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603
    assert result.returncode == 1
    assert "Loud: ⟨U+001B⟩[2J" in result.stderr
    assert is_clean(result.stderr)
