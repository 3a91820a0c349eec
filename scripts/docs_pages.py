"""Write the reference pages of the documentation from the code: `make docs` runs this before it builds the site.

Usage: python scripts/docs_pages.py [FOLDER]

The pages are in docs/reference/, which git ignores, so they cannot get stale: attacks, judges, methods and formats from
the dict literals and their docstrings, the recipe from its schema, commands from the command line, Python names from
`derta.__all__`, and the two notebooks.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from docs_recipe import recipe_page

import derta
from derta.cli.main import app
from derta.judges import JUDGES, uses_model
from derta.pipeline.listing import Listed, list_names
from derta.pipeline.recipe_schema import recipe_schema

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "examples"
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*)$")


def sections_of(docstring: str) -> tuple[str, dict[str, str]]:
    r"""Split a docstring into its text with examples, and the descriptions of its arguments.

    >>> sections_of("Bake it.\n\nArgs:\n    heat: In degrees,\n        from 0.\n\nSource: a book.")
    ('Bake it.\n\nSource: a book.', {'heat': 'In degrees, from 0.'})
    """
    text: list[str] = []
    arguments: dict[str, str] = {}
    for block in docstring.split("\n\n"):
        if not block.startswith(("Args:", "Attributes:")):
            text.append(block)
            continue
        name = ""
        for line in block.splitlines()[1:]:
            if match := _ARGUMENT.match(line):
                name, arguments[match[1]] = match[1], match[2]
            elif name:
                arguments[name] += f" {line.strip()}"
    return "\n\n".join(text), arguments


def format_text(text: str) -> str:
    """Return the text of a docstring as Markdown: examples are code, errors a list."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith(">>>"):
            blocks.append(f"```pycon\n{block}\n```")
        elif block.startswith("Raises:"):
            errors = [re.sub(r"\n\s+", " ", one) for one in re.split(r"\n {4}(?=\w)", block)[1:]]
            blocks.append("Raises:\n\n" + "\n".join(f"- `{one.replace(':', '`:', 1)}" for one in errors))
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def cell(value: object) -> str:
    r"""Return a value as the text of a cell of a Markdown table.

    >>> cell("a | b")
    'a \\| b'
    """
    return " ".join(str(value).split()).replace("|", "\\|")


def option_table(function: Callable[..., Any], descriptions: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a table of a factory's options with their defaults."""
    options = [one for one in inspect.signature(function).parameters.values() if one.name != "engine"]
    if not options:
        yield "No options."
        return
    yield "| option | default | meaning |"
    yield "|---|---|---|"
    for option in options:
        default = "required" if option.default is inspect.Parameter.empty else f"`{_value(option.default)}`"
        yield f"| `{option.name}` | {cell(default)} | {cell(descriptions.get(option.name, ''))} |"


def _value(value: object) -> str:
    """Return a default as a recipe has it.

    >>> _value(("0%", "50%")), _value(None), _value(5)
    ('["0%", "50%"]', 'null', '5')
    """
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | str | int | float | None) else str(value)


def attacks_page() -> str:
    """Return the page of all attacks with their options."""
    lines = [
        "# All attacks",
        "",
        "`derta attack NAME --option KEY=VALUE`, or `attack: NAME` with `options:` in a recipe. How they work is in",
        "[Attacks](../attacks.md). A list as an option gives one prompt for each value.",
    ]
    for name, factory in derta.ATTACKS.items():
        text, arguments = sections_of(inspect.getdoc(factory) or "")
        lines += ["", f"## {name}", "", format_text(text), "", *option_table(factory, arguments)]
    return "\n".join(lines)


def judges_page() -> str:
    """Return the page of all judges: what each measures, and its options."""
    lines = [
        "# All judges",
        "",
        "`derta judge FILE --judge NAME`, or `judges: [NAME]` in a recipe; one that asks a model needs `model:`.",
        "How far each can be trusted is in [Judges and their errors](../judges.md).",
    ]
    for one in list_names("judges"):
        kind = "Asks a model." if uses_model(one.name) else f"Measures: {one.options['measures']}."
        _, arguments = sections_of(inspect.getdoc(JUDGES[one.name]) or "")
        lines += ["", f"## {one.name}", "", one.description, "", kind, "", *option_table(JUDGES[one.name], arguments)]
    return "\n".join(lines)


def methods_page() -> str:
    """Return the page of all methods with the settings that differ from the general ones."""
    lines = [
        "# All methods",
        "",
        "`methods:` of a recipe, or `derta train RECIPE --method NAME`. Formulas and advice: [Methods](../methods.md).",
        "",
        "| method | | triples for each of DeRTa's | starts from | own settings | extra |",
        "|---|---|---|---|---|---|",
    ]
    described = {one.name: one.description for one in list_names("methods")}
    for name, method in derta.METHODS.items():
        own = ", ".join(f"`{key}: {value}`" for key, value in method.defaults.items())
        start, extra = method.init_from or "the base model", method.package[1] if method.package else ""
        lines.append(f"| `{name}` | {cell(described[name])} | {method.triples_per_unit} | {start} | {own} | {extra} |")
    return "\n".join(lines)


def formats_page() -> str:
    """Return the page of all formats of data with their columns, and the published sets that are read as they are."""
    lines = [
        "# All formats and their columns",
        "",
        "Of `a|b` one column is needed, the first that a row has; upper and lower case are the same. `columns:` of a",
        "source renames columns: [Data formats](../data.md).",
    ]
    groups: dict[str, list[Listed]] = {}
    for one in list_names("formats"):
        groups.setdefault(one.description, []).append(one)
    for title, formats in groups.items():
        lines += [
            "",
            f"## {title.removeprefix('A format of ').rstrip('.')}",
            "",
            "| format | required | optional |",
            "|---|---|---|",
        ]
        for one in formats:
            required = ", ".join(f"`{cell(name)}`" for name in one.options if not name.startswith("["))
            optional = ", ".join(f"`{cell(name.strip('[]'))}`" for name in one.options if name.startswith("["))
            lines.append(f"| `{one.name}` | {required} | {optional} |")
    lines += ["", "## Published data sets", "", "| set | what | properties |", "|---|---|---|"]
    for one in list_names("datasets"):
        properties = ", ".join(f"{name}: {value}" for name, value in one.options.items())
        lines.append(f"| `{one.name}` | {cell(one.description)} | {cell(properties)} |")
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of all commands with their options."""
    group: Any = typer.main.get_command(app)
    lines = ["# All commands", "", "`derta COMMAND --help` prints the same."]
    for name, command in sorted(group.commands.items()):
        lines += ["", f"## derta {name}", "", _help(command), "", *_command_table(command)]
    return "\n".join(lines)


def _help(command: Any) -> str:
    """Return the help of a command, with its examples as code."""
    blocks = inspect.cleandoc(command.help or "").replace("\b", "").strip("\n").split("\n\n")
    return "\n\n".join(f"```\n{one}\n```" if one.lstrip().startswith(("Example", "derta ")) else one for one in blocks)


def _command_table(command: Any) -> Iterator[str]:
    yield "| argument | default | meaning |"
    yield "|---|---|---|"
    for one in command.params:
        names = one.name.upper() if one.param_type_name == "argument" else ", ".join(one.opts)
        shown = one.default is not None and one.default is not False and one.default != [] and not callable(one.default)
        default = f"`{one.default}`" if shown else ""
        default = default or ("required" if one.required else "")
        yield f"| `{cell(names)}` | {cell(default)} | {cell(getattr(one, 'help', None) or '')} |"


def python_page() -> str:
    """Return the page of the public names; mkdocstrings fills in the signatures and docstrings."""
    lines = ["# Python API", "", "Names of `derta.__all__`; `import derta` loads neither torch nor transformers."]
    for name in sorted(derta.__all__, key=str.lower):
        if name in ("attacks", "engines", "judges", "methods", *("ATTACKS", "JUDGES", "METHODS")):
            continue
        lines += ["", f"## derta.{name}", "", f"::: derta.{name}"]
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """Return a notebook as a page: its texts, and its cells as code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    blocks = [f"*This is the notebook `examples/{path.name}`.*"]
    for one in cells:
        source = "".join(one["source"])
        blocks.append(source if one["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([blocks[1], blocks[0], *blocks[2:]])


def pages() -> dict[str, str]:
    """Return the generated pages by file name."""
    return {
        "attacks.md": attacks_page(),
        "judges.md": judges_page(),
        "methods.md": methods_page(),
        "formats.md": formats_page(),
        "recipe.md": recipe_page(recipe_schema()),
        "commands.md": commands_page(),
        "python.md": python_page(),
        **{f"{path.stem}.md": notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))},
    }


def main(folder: Path = ROOT / "docs" / "reference") -> None:
    """Write the pages; a page that the code no longer has is deleted."""
    folder.mkdir(exist_ok=True)
    written = pages()
    for path in folder.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    print(f"{len(written)} pages in {folder}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
