"""The pages that are generated from the code, and the links of the pages that are not in the site."""

import doctest
import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

import derta
from derta.pipeline.listing import list_names

ROOT = Path(__file__).parents[2]
TEXTS = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


@pytest.fixture(scope="module")
def docs_pages():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("docs_pages")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("name", [*derta.ATTACKS, "refusal", "steps"])
def test_every_option_of_an_attack_or_judge_has_a_description(docs_pages, name):
    factory = derta.ATTACKS.get(name) or derta.JUDGES[name]
    _, descriptions = docs_pages.sections_of(inspect.getdoc(factory))
    assert set(inspect.signature(factory).parameters) <= set(descriptions)


def test_the_pages_name_all_attacks_methods_and_public_names(docs_pages):
    pages = docs_pages.pages()
    assert re.findall(r"^## (\w+)$", pages["attacks.md"], re.MULTILINE) == [*derta.ATTACKS]
    assert re.findall(r"^## (\w+)$", pages["judges.md"], re.MULTILINE) == [*derta.JUDGES]
    assert re.findall(r"^\| `(\w+)` \|", pages["methods.md"], re.MULTILINE) == [*derta.METHODS]
    tables = {"attacks", "engines", "judges", "methods", "ATTACKS", "JUDGES", "METHODS"}
    assert set(re.findall(r"^::: derta\.(\w+)$", pages["python.md"], re.MULTILINE)) == {*derta.__all__} - tables


def test_every_key_of_a_recipe_has_a_description(docs_pages):
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", docs_pages.pages()["recipe.md"], re.MULTILINE)
    assert len(rows) > 150
    assert [key for key, meaning in rows if not meaning] == []


def test_every_name_that_can_be_listed_has_a_description_on_its_page(docs_pages):
    pages = docs_pages.pages()
    for kind in ("judges", "methods", "formats"):
        for one in list_names(kind):
            assert one.name in pages[f"{kind}.md"]
            assert one.description, f"{kind}: {one.name}"


def test_pages_of_names_that_are_gone_are_deleted(docs_pages, tmp_path, capsys):
    (tmp_path / "gone.md").write_text("# Gone\n")
    docs_pages.main(tmp_path)
    assert not (tmp_path / "gone.md").exists()
    assert (tmp_path / "commands.md").read_text().startswith("# All commands")


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_relative_links_lead_to_files(text):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / text).read_text(encoding="utf-8"))
    missing = [link for link in links if not (ROOT / text).parent.joinpath(link).exists()]
    assert [link for link in missing if "reference/" not in link] == []


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_no_text_installs_from_an_index_that_does_not_have_derta(text):
    assert not re.search(r"pip install '?derta", (ROOT / text).read_text(encoding="utf-8"))


def test_the_examples_of_the_script_hold(docs_pages):
    assert doctest.testmod(docs_pages).failed == 0
    assert doctest.testmod(importlib.import_module("docs_recipe")).failed == 0


def test_the_navigation_has_every_page_and_no_other(docs_pages):
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = re.findall(r"'([\w/]+\.md)'", str(config["project"]["nav"]))
    written = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(listed) == sorted([*written, *(f"reference/{name}" for name in docs_pages.pages())])
