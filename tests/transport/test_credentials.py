"""Credentials beside the store's address, and credentials that change."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter import InvalidSetting, Limiter, StoreRefused, acl
from service.demo.servers import HOST, Server
from tests.transport.conftest import Maker

USER = "api"


def set_password(server: Server, password: str) -> None:
    """Let the user have this password alone, and close its connections."""
    with server.client() as admin:
        admin.execute_command(*acl.rule(USER).split())
        admin.execute_command("ACL", "SETUSER", USER, f">{password}")
        admin.execute_command("CLIENT", "KILL", "USER", USER)


def test_a_password_file_is_read_for_each_connection(
    make_any: Maker, own: Server, tmp_path: Path
) -> None:
    """A password that was changed needs no restart; the line's end is no part of it."""
    file = tmp_path / "password"
    for url in (
        f"redis://{HOST}:{own.port}?username={USER}&password_file={file}",
        f"redis://{USER}@{HOST}:{own.port}?password_file={file}",
        f"unix://{own.unix_socket}?username={USER}&password_file={file}",
    ):
        file.write_text("first: @1\n")
        set_password(own, "first: @1")
        limiter = make_any(url)
        assert limiter.hit("u")
        file.write_text("second")
        set_password(own, "second")
        assert limiter.hit("u")


def test_a_password_file_without_a_name_is_of_the_default_user(
    make_any: Maker, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    with Server(password="hush") as server:  # noqa: S106
        assert make_any(f"redis://{HOST}:{server.port}?password_file={file}").hit("u")


@pytest.mark.parametrize("on_error", ["raise", "allow", "local"])
def test_a_file_that_is_gone_is_no_failure_of_the_store(
    make_any: Maker, own: Server, tmp_path: Path, on_error: str
) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    url = f"redis://{HOST}:{own.port}?username={USER}&password_file={file}"
    limiter = make_any(url, on_error=on_error)
    file.unlink()
    for text in ("cannot be read: No such file or directory", "is empty"):
        with pytest.raises(StoreRefused, match=text) as raised:
            limiter.hit("u")
        assert str(file) in str(raised.value)
        file.write_text("\n")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h:1?password_file=/no/such/file", "cannot be read: No such file or directory"),
        ("redis+cluster://h:1?password_file=/no/such/file", "cannot be read"),
        (f"redis://:hush@h:1?password_file={__file__}", "it has a password and a password_file"),
    ],
)
def test_a_wrong_file_is_an_error_at_once(url: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=text) as raised:
        Limiter("5/minute", store=url)
    assert "hush" not in str(raised.value)


def test_by_variables(own: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    set_password(own, "hush")
    environ = {
        "LIMITER_LIMITS": "5/minute",
        "LIMITER_STORE_USERNAME": USER,
        "LIMITER_STORE_PASSWORD_FILE": str(file),
    }
    for store in (own.url, f"{own.url}?protocol=2"):
        with Limiter.from_env({**environ, "LIMITER_STORE": store}) as limiter:
            assert limiter.hit("u")
    with pytest.raises(InvalidSetting, match=r"LIMITER_STORE_USERNAME is set: LIMITER_STORE is no"):
        Limiter.from_env({**environ, "LIMITER_STORE": "memory://"})
    file.unlink()
    with pytest.raises(
        InvalidSetting, match=r"^LIMITER_STORE: store is 'redis://.* cannot be read"
    ):
        Limiter.from_env({**environ, "LIMITER_STORE": own.url})


def test_the_name_of_a_client_stands_in_the_servers_list(make_any: Maker, own: Server) -> None:
    limiter = make_any(f"{own.url}?client_name=checkout")
    assert limiter.hit("u")
    with own.client() as admin:
        assert "checkout" in [client["name"] for client in admin.client_list()]
