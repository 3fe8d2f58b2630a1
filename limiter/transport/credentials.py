"""Credentials that change while a program runs."""

from __future__ import annotations

from redis.credentials import CredentialProvider

from limiter.errors import StoreRefused


class PasswordFile(CredentialProvider):
    """A password in a file, read again for each connection: a new one needs no restart."""

    def __init__(self, path: str, username: str | None) -> None:
        self._path = path
        self._username = username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, with the user's name if there is one.

        Raises:
            StoreRefused: The file cannot be read, or is empty. That is no failure of the store.

        """
        try:
            with open(self._path, encoding="utf-8") as file:
                password = file.read().rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise StoreRefused(
                f"the store's password file {self._path} cannot be read: {reason}; accepted is a file with "
                f"the password and nothing else"
            ) from None
        if not password:
            raise StoreRefused(
                f"the store's password file {self._path} is empty: accepted is a file with the password "
                f"and nothing else"
            )
        return (self._username, password) if self._username else (password,)
