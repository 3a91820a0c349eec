"""A headless Chromium, and what tests read of a page that it shows."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
)
WAIT = 60


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """Yield a browser that saves files in the folder `downloads`; skip the test without one."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.downloads = downloads
    try:
        yield driver
    finally:
        driver.quit()


class Tab:
    """The page that the browser shows."""

    def __init__(self, driver: Any, url: str, *, fragment: str = "") -> None:
        """Empty the logs and open an address."""
        self.driver, self.url = driver, url
        self.requested(), self.errors()
        driver.get(url + fragment)

    def js(self, code: str, *arguments: object) -> Any:
        """Return the value of a JavaScript expression."""
        return self.driver.execute_script(f"return {code}", *arguments)

    def wait(self, code: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + WAIT
        while not (value := self.js(code)):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Press a key, or a sequence of them, where the focus is."""
        self.driver.switch_to.active_element.send_keys(key)

    def requested(self) -> list[str]:
        """Return the addresses that the browser requested since the last call."""
        entries = (json.loads(one["message"])["message"] for one in self.driver.get_log("performance"))
        return [one["params"]["request"]["url"] for one in entries if one["method"] == "Network.requestWillBeSent"]

    def errors(self) -> list[str]:
        """Return the errors in the console since the last call."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]
