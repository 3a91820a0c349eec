"""`derta view`: the page of a run's report, and the same without harmful texts."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from derta.errors import RunError
from derta.pipeline.report import report
from derta.protocols import Display

REDACTED_FOLDER = "redacted"


def find_page(run: Path | str, *, redact: bool = False, display: Display = Display()) -> Path:
    """Return the path of a run's `report.html`.

    With `redact` it is a copy without harmful texts, with its `summary.json` in the run's subfolder `redacted`, which
    is written anew.

    Args:
        run: Folder of a run or of runs with a report, or the page itself.
        redact: Whether to leave harmful texts out.
        display: Shows warnings.

    Raises:
        RunError: there is no report, or a page alone is to be redacted.
    """
    path = Path(run)
    if redact:
        if path.is_file():
            raise RunError(f"{path}: expected the folder of a run to redact, got a file; name its folder")
        report(path, out=path / REDACTED_FOLDER, redact=True, display=display)
        return path / REDACTED_FOLDER / "report.html"
    page = path / "report.html" if path.is_dir() else path
    if not page.is_file() or page.suffix != ".html":
        raise RunError(f"{path}: expected a run with a report.html, found none; `derta report {path}` writes it")
    return page


def open_page(page: Path) -> bool:
    """Open a page in the browser, and return whether there is one."""
    return webbrowser.open(page.resolve().as_uri())
