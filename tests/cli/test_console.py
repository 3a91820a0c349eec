"""Console output: log lines and progress bars on standard error, results on standard output."""

import ast
from pathlib import Path

import pytest

import derta
from derta.cli.console import LOGGER, _LineTask, console_display, print_json, print_output, print_result
from derta.results import TextTable
from small_run import forget_console

SOURCE = Path(derta.__file__).parent


@pytest.fixture
def display():
    yield console_display()
    forget_console()


def test_log_lines_are_plain_and_go_to_standard_error(display, capfd):
    console_display()  # a second call adds no second handler
    hostile = "[bold]not markup[/bold] [/] :warning: " + "x" * 200
    display.logger.info(hostile)
    display.logger.getChild("steps").info("step %d of %d", 1, 2)
    assert capfd.readouterr() == ("", f"{hostile}\nstep 1 of 2\n")
    display.logger.info("a\x1b[2Jb")
    print_result("c\x1b[31md")
    assert capfd.readouterr() == ("c⟨U+001B⟩[31md\n", "a⟨U+001B⟩[2Jb\n")


def test_a_bar_shows_its_description_as_it_is(display, capfd):
    with display.progress.task("[red]replies[/red]", total=2) as task:
        task.update(1)
        task.set_total(4)
    out, err = capfd.readouterr()
    assert out == ""
    assert "[red]replies[/red]" in err
    assert "1/4" in err


def test_results_go_to_standard_output_as_they_are(capfd):
    print_result("[bold]a line[/bold] " + "y" * 200)
    print_json({"text": "é"})
    out, err = capfd.readouterr()
    assert out == "[bold]a line[/bold] " + "y" * 200 + '\n{\n  "text": "é"\n}\n'
    assert err == ""


def test_an_output_is_json_or_its_lines(capfd):
    print_output({"value": 1}, "one line", "another", as_json=True)
    print_output({"value": 1}, "one line", "another", as_json=False)
    assert capfd.readouterr() == ('{\n  "value": 1\n}\none line\nanother\n', "")


def _prints(path: Path) -> bool:
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    return "print" in names or any((name or "").startswith(("derta.cli", "rich", "typer")) for name in imported)


def test_nothing_outside_the_command_line_prints_or_imports_it():
    entry = SOURCE / "__main__.py"
    outside = [path for path in SOURCE.rglob("*.py") if SOURCE / "cli" not in path.parents and path != entry]
    assert len(outside) > 50
    assert [str(path) for path in outside if _prints(path)] == []
    assert _prints(SOURCE / "cli/console.py")


def test_a_table_has_its_title_caption_and_all_of_its_text_and_no_control_sequence(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "a" * 100
    print_result(TextTable("rates", ("group", "%"), [(long, "7.5"), ("[b]\x1b[2J", "–")], "two groups"))
    printed = capsys.readouterr().out
    assert printed.count("a" * 20) >= 1
    assert sum(line.count("a") for line in printed.splitlines() if "│" in line) == 100
    for text in ("rates", "group", "7.5", "two groups", "[b]⟨U+001B⟩[2J"):
        assert text in printed
    print_result(TextTable("", ("group", "%"), []))
    assert "group" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_with_many_columns_fits_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    words = "a long name of many words"
    print_result(TextTable("", ("name", *(f"column {i}" for i in range(4))), [(words, words, words, words, "the end")]))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    assert {line[-1] for line in lines if line.strip()} <= {*"┓┃┩│┘"}
    assert "end" in "".join(lines)


def test_a_table_in_a_pipe_is_as_wide_as_its_text(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    row = ("a_method_with_a_long_name", *["a cell of several words"] * 5, "no: dominated by a, b")
    print_result(TextTable("title", ("method", *"abcde", "front"), [row]))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if all(cell in line for cell in row)]
    assert len([line for line in lines if "│" in line]) == 1
    assert len({len(line) for line in lines}) == 1


def test_a_terminal_folds_no_word_for_which_it_has_room(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("derta_completion", "deep_alignment", "balanced_margin")
    cells = ("54.1 51.7–56.5", "over-refusal 12", "tasks done of all", "no: dominated by derta")
    header = ("method", "attack success", "over-refusal", "done", "front")
    print_result(TextTable("", header, [(name, *cells) for name in names]))
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    for word in (*names, "success", "over-refusal", "51.7–56.5", "dominated"):
        assert word in printed


def test_progress_off_a_terminal_is_a_line_every_half_minute_with_labelled_times(capfd):
    seconds = iter([0.0, 0.0, 10.0, 40.0, 40.0])
    task = _LineTask("replies", 120, clock=lambda: next(seconds))
    LOGGER.setLevel("INFO")
    task.update(30)
    task.update(80)
    assert capfd.readouterr().err == "replies 80/120, elapsed 0:40, remaining 0:20\n"


def test_progress_off_a_terminal_ends_with_one_line_that_is_not_wrapped(capfd):
    display = console_display()
    with display.progress.task("a name " * 30, total=3) as task:
        task.update(3)
    [line] = capfd.readouterr().err.splitlines()
    assert line.endswith("3/3, elapsed 0:00")


def test_quiet_progress_prints_nothing(capfd):
    display = console_display()
    LOGGER.setLevel("ERROR")
    with display.progress.task("replies", total=3) as task:
        task.update(3)
    assert capfd.readouterr().err == ""
    forget_console()
