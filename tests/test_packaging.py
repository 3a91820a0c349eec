"""Packages: what the wheel has, that it runs outside of the repository, and that all extras are pinned and named."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from derta.errors import install_advice
from derta.methods import METHODS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN_VERSIONS = ("inspect", "vllm")  # they need other versions than the tested set; install_advice says so
GROUPS = {"(base)": PROJECT["dependencies"]} | {name: EXTRAS[name] for name in EXTRAS if name not in OWN_VERSIONS}


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.partition(";")[0].split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def needed(requirements, done=()):
    """Requirements of a group and those of the installed packages among them, all the way down."""
    found = dict.fromkeys(done)
    for text in requirements:
        one = Requirement(text)
        extras = [{"extra": extra} for extra in one.extras or [""]]
        if str(one) in found or (one.marker and not any(one.marker.evaluate(extra) for extra in extras)):
            continue
        found[str(one)] = None
        try:
            own = distribution(one.name).requires or []
        except PackageNotFoundError:
            continue  # an extra that is not installed here: its own requirements are unknown
        wanted = [r for r in own if (m := Requirement(r).marker) is None or any(m.evaluate(e) for e in extras)]
        found |= needed([str(Requirement(r.partition(";")[0])) for r in wanted], found)
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_all_packages_of_a_group_are_pinned_to_versions_that_it_allows(group):
    pinned, wrong = pins(), {}
    for text in needed(GROUPS[group]):
        one = Requirement(text)
        version = pinned.get(canonicalize_name(one.name))
        if version is None or not one.specifier.contains(version, prereleases=True):
            wrong[text] = version
    assert wrong == {}


def advised():
    """Extras that a message of the package names."""
    for path in (ROOT / "src").rglob("*.py"):
        found = re.finditer(r"""install_advice\(["'](\w+)["']\)""", path.read_text(encoding="utf-8"))
        yield from (match[1] for match in found)


def test_messages_name_extras_that_exist_and_install_them_as_they_can_be_installed():
    extras = {
        *advised(),
        *(method.package[1] for method in METHODS.values() if method.package),
    }
    assert extras >= {"api", "dpo", "inspect", "quant", "ui", "vllm"}
    assert extras <= EXTRAS.keys()
    for extra in extras:
        command = "pip install" if extra in OWN_VERSIONS else "pip install -c constraints.txt"
        assert install_advice(extra) == f"run `{command} -e '.[{extra}]'` in a clone of derta"


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_a_page_names_only_extras_that_exist(path):
    named = re.findall(r"pip install[^\n`]*?'\.\[([\w,]+)\]'", path.read_text(encoding="utf-8"))
    assert {extra for group in named for extra in group.split(",")} <= EXTRAS.keys()


def call(*words, cwd, **env):
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=plain | env, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built from a source distribution, as an installation from it does."""
    folder = tmp_path_factory.mktemp("packages")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "install", "--target", folder / "tools", "hatchling", cwd=ROOT)
    build = (sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder)
    call(*build, cwd=ROOT, PYTHONPATH=str(folder / "tools"))
    (sdist,) = folder.glob("*.tar.gz")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", folder, sdist, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.extra
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    listed = call("git", "ls-files", "src/derta", cwd=ROOT).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    info = [name for name in names if ".dist-info/" in name]
    assert sorted({*names} - {*info}) == sorted(path.removeprefix("src/") for path in listed)
    assert {Path(name).name for name in info} >= {"METADATA", "RECORD", "LICENSE", "entry_points.txt"}
    assert "derta = derta.cli.main:main" in entry
    assert {Path(name).suffix for name in names} >= {".py", ".jinja", ".css", ".js", ".json", ".jsonl", ".yaml", ".txt"}
    assert "derta/py.typed" in names


@pytest.mark.extra
def test_an_installed_wheel_runs_from_another_folder(wheel, tmp_path):
    """Other packages are those of this environment; what is installed is only derta."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    python = (sys.executable, "-P")
    env = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def derta(*words):
        return call(*python, "-m", "derta", *words, cwd=tmp_path, **env)

    origin = call(*python, "-c", "import derta; print(derta.__file__)", cwd=tmp_path, **env)
    assert origin.strip() == str(tmp_path / "site/derta/__init__.py")
    assert re.fullmatch(r"derta \d+\.\d+\.\d+\n", derta("--version"))
    assert "--seeds" in derta("demo", "--help")
    assert "prefill: " in derta("list", "attacks")
    write = "from pathlib import Path; from derta.demo.run import write_example; write_example(Path('example'))"
    call(*python, "-c", write, cwd=tmp_path, **env)
    assert "no fault found" in derta("check", "example/recipe.yaml")
    assert "report: run/report.html" in derta("run", "example/recipe.yaml", "--out", "run")
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
