"""A browser, and pages that are served as `derta explore` and `derta label --page` serve them."""

import json
import shutil
import threading
import time
from contextlib import contextmanager

import pytest

from derta.ui.server import listen, make_server

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
)
WAIT = 60


class Page:
    """The page that the browser shows."""

    def __init__(self, driver):
        self.driver = driver

    def js(self, code, *arguments):
        """Return the value of a JavaScript expression."""
        return self.driver.execute_script(f"return {code}", *arguments)

    def wait(self, code):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + WAIT
        while not (value := self.js(code)):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.05)
        return value

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def click(self, selector):
        self.find(selector).click()

    def type(self, selector, text):
        """Replace the text of a field by keys."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def press(self, key):
        self.driver.switch_to.active_element.send_keys(key)

    def requested(self):
        """Return the addresses that the browser requested since the last call."""
        entries = (json.loads(one["message"])["message"] for one in self.driver.get_log("performance"))
        return [one["params"]["request"]["url"] for one in entries if one["method"] == "Network.requestWillBeSent"]

    def errors(self):
        """Return the errors in the console since the last call."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def driver():
    """One headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield chrome
    chrome.quit()


@contextmanager
def served(app):
    """Serve an application in a thread, and yield its address."""
    with listen() as address:
        server = make_server(app, address)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]})
        thread.start()
        try:
            yield address.url
        finally:
            server.should_exit = True
            thread.join(WAIT)


@pytest.fixture
def serve_app():
    """Return a context manager that serves an application and yields its address."""
    return served


@pytest.fixture
def open_page(driver):
    """Return a function that serves an application and opens its page."""
    servers = []

    def open_one(app):
        server = served(app)
        url = server.__enter__()
        servers.append(server)
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(url)
        page = Page(driver)
        page.url = url
        return page

    yield open_one
    driver.get("about:blank")
    for server in servers:
        server.__exit__(None, None, None)
