"""Take the picture of the README: the first screen of a report, by headless Chromium.

Usage: python scripts/docs_picture.py RUN [--out docs/img/report.png] [--width 1400] [--height 1000]

RUN is the folder of a finished run with harmless texts, such as that of `make demo`. Needs chromium, and Pillow, which
matplotlib installs. The colours are reduced to 128, so that the file stays small.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

LARGEST = 200_000
"""Maximum size of the file in bytes."""


def take(report: Path, out: Path, *, width: int, height: int) -> int:
    """Write the picture of a page, and return its size in bytes."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("expected chromium, found none; on Debian: apt-get install chromium")
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
        size = f"--window-size={width},{height}"
        words = [
            browser,
            *flags,
            size,
            "--virtual-time-budget=5000",
            f"--screenshot={picture}",
            report.resolve().as_uri(),
        ]
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603
        colours = Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        colours.save(out, optimize=True)
    return out.stat().st_size


def main() -> None:
    """Parse the arguments, and refuse a picture that is too large for a repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/img/report.png"))
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=1000)
    options = parser.parse_args()
    size = take(options.run / "report.html", options.out, width=options.width, height=options.height)
    if size > LARGEST:
        options.out.unlink()
        raise SystemExit(f"expected at most {LARGEST} bytes, got {size}; lower --width or --height")
    print(f"{options.out}: {size} bytes")


if __name__ == "__main__":
    main()
