"""The pages that are generated from the code, and the links of the pages that are not in the site."""

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import derta

ROOT = Path(__file__).parents[2]
TEXTS = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


@pytest.fixture(scope="module")
def docs_pages():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("docs_pages")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("name", [*derta.ATTACKS])
def test_every_option_of_an_attack_has_a_description(docs_pages, name):
    _, descriptions = docs_pages.sections_of(inspect.getdoc(derta.ATTACKS[name]))
    assert set(inspect.signature(derta.ATTACKS[name]).parameters) <= set(descriptions)


def test_the_pages_name_all_attacks_methods_and_public_names(docs_pages):
    pages = docs_pages.pages()
    assert re.findall(r"^## (\w+)$", pages["attacks.md"], re.MULTILINE) == [*derta.ATTACKS]
    assert re.findall(r"^\| `(\w+)` \|", pages["methods.md"], re.MULTILINE) == [*derta.METHODS]
    tables = {"attacks", "engines", "judges", "methods", "ATTACKS", "JUDGES", "METHODS"}
    assert set(re.findall(r"^::: derta\.(\w+)$", pages["python.md"], re.MULTILINE)) == {*derta.__all__} - tables


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
