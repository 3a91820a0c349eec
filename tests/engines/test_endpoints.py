import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from derta.config import EngineConfig
from derta.engines import check_endpoints, load_engine, user_endpoints
from derta.engines.endpoints import DEFAULT_ENDPOINT, config_path, parse_host
from derta.errors import EngineError

URL = type(OpenAI(base_url="http://127.0.0.1/v1", api_key="none").base_url)
"""An address as the client reads it."""
MACHINE = ("http://127.0.0.1:8000/v1", "http://localhost/v1", "https://LOCALHOST:1/v1", "http://[::1]:8000/v1")
HOSTILE = (
    "http://127.0.0.1.evil.com/v1",
    "http://127.0.0.1@evil.com/v1",
    "http://user:key@127.0.0.1/v1",
    "http://evil.com\\@127.0.0.1/v1",
    "http://127.0.0.1\\@evil.com/v1",
    "http://127.0.0.1\\.evil.com/v1",
    "http://127.0.0.1\t.evil.com/v1",
    "http://127.0.0.1 .evil.com/v1",
    "http://127.0.0.1%2eevil.com/v1",
    "http://@evil.com/v1",
    "http://evil.com#127.0.0.1",
    "http://evil.com/127.0.0.1",
    "http://localhost.evil.com/v1",
    "http://evil.com:8000/v1?host=127.0.0.1",
    "http://127.0.0.1./v1",
    "http://127.0.0.2/v1",
    "http://0.0.0.0/v1",
    "http://2130706433/v1",
    "http://127.1/v1",
    "http://ⓛocalhost/v1",
    "http://127。0。0。1/v1",
    "http://[::ffff:127.0.0.1]/v1",
    "http://[::1/v1",
    "http://[::1]evil.com/v1",
    "http://127.0.0.1</v1",
    "http://127.0.0.1:/v1",
    "http://127.0.0.1:99999/v1",
    "//127.0.0.1/v1",
    "127.0.0.1:8000/v1",
    "file://127.0.0.1/etc/passwd",
    "http:///v1",
    "",
)


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """The user's configuration file, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "derta").mkdir()
    return tmp_path / "derta/config.yaml"


def check(endpoints, allowed=()):
    check_endpoints(EngineConfig(model="m", engine="api", settings={"endpoints": endpoints}), allowed)


def refused(endpoints, allowed=()):
    with pytest.raises(EngineError) as error:
        check(endpoints, allowed)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("address", MACHINE)
def test_this_machine_needs_no_permission(address):
    check(address)


@pytest.mark.parametrize("address", HOSTILE)
def test_other_spellings_of_this_machine_need_permission(address):
    refused(address)
    refused([*MACHINE, address], ["other.example"])


def test_the_error_names_the_host_and_the_option_that_allows_it():
    message = refused("https://api.example.com:8443/v1", ["example.com", "api.example.com.evil.org"])
    assert "a key to api.example.com, which is not on your list" in message
    assert "--allow-endpoint api.example.com" in message
    assert str(config_path()) in message
    assert "--allow-endpoint [2001:db8::1]" in refused("https://[2001:db8::1]/v1")


def test_the_default_server_is_a_host_like_any_other():
    assert "api.openai.com" in refused(DEFAULT_ENDPOINT)
    named_nothing = EngineConfig(model="m", engine="api")
    with pytest.raises(EngineError, match=r"a key to api\.openai\.com"):
        check_endpoints(named_nothing, ())
    check_endpoints(named_nothing, ["api.openai.com"])
    check_endpoints(EngineConfig(model="m", engine="hf"), ())


@pytest.mark.parametrize("endpoints", [None, 3, {"http://127.0.0.1/v1": 1}, [3], [None]])
def test_endpoints_that_are_not_strings_are_refused(endpoints):
    assert "expected an address or a list of them" in refused(endpoints)


@pytest.mark.parametrize(
    ("address", "entry", "fits"),
    [
        ("https://api.example.com/v1", "api.example.com", True),
        ("https://API.Example.COM/v1", "api.EXAMPLE.com", True),
        ("https://api.example.com/v1", "api.example.com:443", True),
        ("http://api.example.com/v1", "api.example.com:80", True),
        ("http://api.example.com/v1", "api.example.com:443", False),
        ("https://api.example.com:8443/v1", "api.example.com", True),
        ("https://api.example.com:8443/v1", "api.example.com:8443", True),
        ("https://api.example.com:8444/v1", "api.example.com:8443", False),
        ("https://api.example.com./v1", "api.example.com", False),
        ("https://www.api.example.com/v1", "api.example.com", False),
        ("https://api.example.com.evil.org/v1", "api.example.com", False),
        ("https://example.com/v1", "api.example.com", False),
        ("https://[2001:db8::1]:8000/v1", "[2001:db8::1]", True),
        ("https://[2001:DB8::1]:8000/v1", "[2001:db8::1]:8000", True),
        ("https://[2001:db8::2]/v1", "[2001:db8::1]", False),
    ],
)
def test_hosts_are_compared_exactly_except_for_case(address, entry, fits):
    if fits:
        check(address, [entry])
    else:
        refused(address, [entry])


@pytest.mark.parametrize(
    "entry",
    ["https://api.example.com", "api.example.com/v1", "a@b.com", "::1", "a:b", "a:", "", "a b", "a:99999", "*\\"],
)
def test_a_permission_that_is_not_a_host_is_an_error(entry):
    assert "expected HOST or HOST:PORT" in refused(MACHINE[0], [entry])


@given(
    address=st.one_of(
        st.from_regex(r"https?://[a-z0-9.@:\[\]\\%#?/_ \t-]{1,20}(/v1)?", fullmatch=True),
        st.text(max_size=30).map("http://127.0.0.1".__add__),
        st.text(max_size=30).map(lambda text: f"http://{text}127.0.0.1/v1"),
    )
)
def test_the_client_connects_to_the_host_that_was_parsed(address):
    try:
        host = parse_host(address)
    except EngineError:
        return
    try:
        url = URL(address)
    except Exception:  # noqa: BLE001 - InvalidURL, whose library is another one in other versions of the client
        return  # nothing is sent there
    assert url.host == host.name
    assert not url.userinfo
    assert (url.port or {"http": 80, "https": 443}[url.scheme]) == host.port


def test_the_users_configuration_file_allows_hosts(config):
    assert user_endpoints() == ()
    config.write_text("endpoints: [api.openai.com, 'gpu.example.com:8000']\n")
    assert user_endpoints() == ("api.openai.com", "gpu.example.com:8000")
    check(["https://api.openai.com/v1", "http://gpu.example.com:8000/v1"], user_endpoints())
    config.write_text("")
    assert user_endpoints() == ()


def test_a_relative_configuration_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for home in ("here", ""):
        monkeypatch.setenv("XDG_CONFIG_HOME", home)
        assert config_path() == tmp_path / ".config/derta/config.yaml"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"endpoint: [a.com]", "unknown key 'endpoint'; did you mean 'endpoints'?"),
        (b"- a.com", "expected `endpoints:` with a list of hosts, got list"),
        (b"endpoints: a.com", "endpoints: expected a list of hosts such as [api.openai.com], got 'a.com'"),
        (b"endpoints: [1]", "expected a list of hosts"),
        (b"endpoints: ['https://a.com/v1']", "expected HOST or HOST:PORT"),
        (b"endpoints: [\n", "cannot read it"),
        (b"\xff\xfe", "cannot read it"),
    ],
)
def test_an_invalid_configuration_file_is_a_one_line_error(text, part, config):
    config.write_bytes(text)
    with pytest.raises(EngineError) as error:
        user_endpoints()
    assert part in str(error.value)
    assert str(error.value).startswith(str(config))
    assert "\n" not in str(error.value)
    config.unlink()
    config.mkdir()
    with pytest.raises(EngineError, match="cannot read it"):
        user_endpoints()


@pytest.mark.parametrize("address", [address for address in HOSTILE if "@" in address or "\\" in address])
def test_an_address_that_may_contain_a_key_is_refused_and_not_printed(address):
    with pytest.raises(EngineError) as error:
        load_engine("m", engine="api", endpoints=address)
    assert "user:key" not in str(error.value)
    assert "@" not in str(error.value)
