"""The blocks of the quickstart, and of the pages on extending derta, are run as they are printed."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ROOT = DOCS.parent
BLOCK = re.compile(r"^( *)```(\w+)(?: title=\"(.+?)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page):
    """Yield the language, the title and the text of each block of a page."""
    for indent, language, title, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        yield language, title, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def apply(difference, path):
    """Change a file as a difference says; its lines without a plus must be in the file, once and in this order."""
    lines = difference.splitlines(keepends=True)
    before, after = ("".join(line[1:] or "\n" for line in lines if line[0] in f" \n{sign}") for sign in "-+")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path}: expected once, got {text.count(before)}: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def follow(page, derta, capfd):
    """Write the files of a page, run its commands, and return what the last script printed."""
    said = ""
    for language, title, text in blocks(page):
        if title:
            Path(title).write_text(text.replace("num_train_epochs: 10", "num_train_epochs: 6"), encoding="utf-8")
        for line in text.splitlines() if language == "bash" else ():
            program, *words = shlex.split(line)
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
                said = capfd.readouterr().out
                continue
            called = derta(*words)
            assert called.code == 0, called.err
    return said


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # trl on transformers 5.23
def test_the_quickstart_and_then_the_page_on_other_tools_run_as_they_are_printed(tmp_path, monkeypatch, derta, capfd):
    monkeypatch.chdir(tmp_path)
    assert follow("quickstart.md", derta, capfd).startswith("It costs ")
    assert '"balanced"' in Path("runs/bakery/summary.json").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(program.replace("org/base", "toy"), "README.md", "exec"), {})  # noqa: S102 - our own README
    follow("interop.md", derta, capfd)
    assert list(Path("tokenized/train").glob("*.arrow"))
    assert json.loads(Path("axolotl.jsonl").read_text().splitlines()[0]).keys() == {
        "input_ids",
        "attention_mask",
        "labels",
    }


@pytest.mark.extra
@pytest.mark.parametrize("script", ["my_attack.py", "my_judge.py", "my_method.py", "my_data_source.py"])
def test_the_scripts_on_extending_run_as_they_are_printed(script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    [text] = [text for _, title, text in blocks("extending.md") if title == script]
    Path(script).write_text(text, encoding="utf-8")
    runpy.run_path(script, run_name="__main__")
    said = {
        "my_attack.py": "'hurried', 'refused'",
        "my_judge.py": "'names_a_step', 'harmful'",
        "my_method.py": "{'gentle'}",
    }
    assert said.get(script, "") in capfd.readouterr().out


@pytest.mark.extra
def test_the_steps_on_extending_give_code_that_passes_the_tests_of_the_page(tmp_path):
    """In a copy of the repository: the files are created, the lines added, and the tests of each part run."""
    for name in ("src", "tests", "pyproject.toml", "examples", "docs", "recipes", "README.md", "scripts"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    new = []
    for language, title, text in blocks("extending.md"):
        if language == "diff":
            apply(text, tmp_path / title)
        elif "/" in title:
            (tmp_path / title).write_text(text, encoding="utf-8")
            new.append(title)
    tests = ["attacks/test_attacks.py", "judges/test_judges.py", "methods/test_rows_methods.py", "data/test_helpful.py"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *new, *(f"tests/{name}" for name in tests)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout[-2000:]
