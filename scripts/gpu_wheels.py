"""The wheels that a machine without network needs for the GPU pack: list them, or fetch them into a folder.

    python scripts/gpu_wheels.py --python-version 3.12 --platform manylinux_2_39_x86_64 --have image.txt
    python scripts/gpu_wheels.py --python-version 3.12 --platform manylinux_2_39_x86_64 --have image.txt --fetch wheels

`image.txt` is what `python -m pip list --format=freeze` prints on that machine; without it nothing is taken to be there
but torch. The packages follow from pyproject.toml (its dependencies, the extras `--extras`, and what the tests import),
their requirements from the metadata of this interpreter's installed packages, and their versions from constraints.txt
(else: as installed here). Run it in the project's virtual environment.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TESTS_IMPORT = ("beartype", "hypothesis", "pytest")
"""Packages of the extra `dev` that the tests marked `gpu` import."""
ASSUMED = ("torch",)
"""Packages that the machine has, with what they need: a torch without its GPU's libraries would be no use."""
USE = """
Carry the folder there, then either of

  python -m pip install --no-index --no-deps --target SITE {folder}/*.whl && export PYTHONPATH=SITE
  for wheel in {folder}/*.whl; do unzip -qo "$wheel" -d SITE; done; export PYTHONPATH=SITE

and `python scripts/gpu_check.py`. Neither needs a network; the second needs no pip."""


def pins(path: Path) -> dict[str, str]:
    """Return the versions of a file of lines `name==version`."""
    lines = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): number for name, number in lines}


def roots(project: Mapping[str, object], extras: Sequence[str]) -> list[Requirement]:
    """Return the project's requirements, those of some extras, and the packages that the tests import.

    Raises:
        SystemExit: no such extra.
    """
    optional: Mapping[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    if unknown := sorted(set(extras) - set(optional)):
        raise SystemExit(f"--extras: expected some of {', '.join(optional)}, got {', '.join(unknown)}")
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]  # type: ignore[misc]
    tests = [line for line in optional["dev"] if Requirement(line).name in TESTS_IMPORT]
    return [Requirement(line) for line in [*lines, *tests]]


def target_environment(*, python_version: str, platform: str) -> dict[str, str]:
    """Return what requirements' markers are evaluated with on the target."""
    system = "Linux" if "linux" in platform else "Darwin" if "macosx" in platform else "Windows"
    return {
        "python_version": ".".join(python_version.split(".")[:2]),
        "python_full_version": python_version if python_version.count(".") > 1 else f"{python_version}.0",
        "sys_platform": "win32" if system == "Windows" else system.lower(),
        "platform_system": system,
        "platform_machine": next(name for name in ("x86_64", "aarch64", "arm64", platform) if name in platform),
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "nt" if system == "Windows" else "posix",
    }


def requirements_of(name: str, *, extras: Sequence[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
    """Yield what an installed package requires in an environment, with some of its extras.

    Raises:
        SystemExit: it is not installed here, so that its requirements are unknown.
    """
    try:
        lines = requires(name) or []
    except PackageNotFoundError as error:
        raise SystemExit(f"{name}: expected it to be installed here, to read its requirements; install it") from error
    for line in lines:
        requirement = Requirement(line)
        contexts = [dict(environment, extra=extra) for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(context) for context in contexts):
            yield requirement


def closure(start: Sequence[Requirement], environment: Mapping[str, str]) -> dict[str, list[Requirement]]:
    """Return every package that the target needs, and what is required of it; those of `ASSUMED` left out."""
    needed: dict[str, list[Requirement]] = {}
    queue = [one for one in start if one.marker is None or one.marker.evaluate(dict(environment))]
    visited: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in ASSUMED:
            continue
        needed.setdefault(name, []).append(requirement)
        if (name, frozenset(requirement.extras)) not in visited:
            visited.add((name, frozenset(requirement.extras)))
            queue += requirements_of(name, extras=sorted(requirement.extras), environment=environment)
    return needed


def missing(needed: Mapping[str, Sequence[Requirement]], present: Mapping[str, str]) -> list[str]:
    """Return the packages that are not present, or in a version that something here does not accept."""
    return sorted(
        name
        for name, requirements in needed.items()
        if name not in present
        or not all(one.specifier.contains(Version(present[name]), prereleases=True) for one in requirements)
    )


def platforms(newest: str) -> list[str]:
    """Return a platform's tag and those of older glibc versions: pip matches each tag exactly.

    >>> platforms("manylinux_2_18_x86_64")[:2], len(platforms("manylinux_2_18_x86_64"))
    (['manylinux_2_18_x86_64', 'manylinux_2_17_x86_64'], 17)
    """
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", newest)
    if match is None:
        return [newest]
    glibc, machine = int(match[1]), match[2]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)]
    return [*tags, *(f"manylinux{year}_{machine}" for year in (2014, 2010, 1))]


def fetch(requirements: Sequence[str], folder: Path, *, python_version: str, platform: str) -> None:
    """Download wheels for the target with pip."""
    words = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python_version]
    for tag in platforms(platform):
        words += ["--platform", tag]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *words, "--dest", str(folder), *requirements]
    subprocess.run(command, check=True)  # noqa: S603


def main(words: Sequence[str] | None = None) -> None:
    """List the wheels that the target lacks, and fetch them if there is a folder for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-version", default=".".join(map(str, sys.version_info[:2])), help="of the target")
    parser.add_argument("--platform", default="manylinux_2_39_x86_64", help="of the target, with its glibc's version")
    parser.add_argument("--have", type=Path, help="what is installed there, as `pip list --format=freeze` prints it")
    parser.add_argument(
        "--extras", nargs="*", default=["dpo", "quant"], help="extras of this project (TRL, bitsandbytes)"
    )
    parser.add_argument("--without", nargs="*", default=[], help="packages to leave out")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER", help="download the wheels into this folder")
    args = parser.parse_args(words)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = target_environment(python_version=args.python_version, platform=args.platform)
    needed = closure(roots(project, args.extras), environment)
    present = pins(args.have) if args.have else {}
    pinned = pins(ROOT / "constraints.txt")
    left_out = {canonicalize_name(name) for name in args.without}
    lines = [
        f"{name}=={pinned.get(name) or version(name)}" for name in missing(needed, present) if name not in left_out
    ]
    print("\n".join(lines))
    if args.fetch and lines:
        args.fetch.mkdir(parents=True, exist_ok=True)
        fetch(lines, args.fetch, python_version=args.python_version, platform=args.platform)
        sizes = [path.stat().st_size for path in args.fetch.glob("*.whl")]
        print(f"\n{len(sizes)} wheels, {sum(sizes) / 2**20:.0f} MiB, in {args.fetch}.{USE.format(folder=args.fetch)}")


if __name__ == "__main__":
    main()
