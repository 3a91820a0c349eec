"""A browser, and pages that are served as `derta explore` and `derta label --page` serve them."""

import threading
from contextlib import contextmanager

import pytest

from chromium import Tab, chromium
from derta.ui.server import listen, make_server

WAIT = 60


class Page(Tab):
    """A page with fields and buttons."""

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def click(self, selector):
        self.find(selector).click()

    def type(self, selector, text):
        """Replace the text of a field by keys."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """One headless Chromium."""
    with chromium(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


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
        return Page(driver, url)

    yield open_one
    driver.get("about:blank")
    for server in servers:
        server.__exit__(None, None, None)
