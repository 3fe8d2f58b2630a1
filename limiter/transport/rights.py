"""Find the rights that the store's user lacks: at the start, and not at the first call that needs one.

It does no I/O. One script call asks the server. It runs no command and has no key, so that every primary
of a cluster accepts it.
"""

from __future__ import annotations

from limiter.errors import StoreRefused
from limiter.scripts import COMMANDS, OF_RECORDS
from limiter.transport.wire import command

#: Replies with the name of each command, from ARGV, that the user may not run; with nil on a server
#: without ``acl_check_cmd``, which is part of Redis 7.0 and later.
_TEXT = b"""\
if not redis.acl_check_cmd then
  return false
end
local missing = {}
for i = 1, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], "[^ ]+") do
    words[#words + 1] = word
  end
  if not redis.acl_check_cmd((unpack or table.unpack)(words)) then
    missing[#missing + 1] = words[1]
  end
end
return missing
"""

#: The arguments of each command, where it has others than a key. Newer servers count them.
_ARGUMENTS = {
    "evalsha": b"sha 1 %b",
    "eval": b"text 1 %b",
    "hget": b"%b field",
    "hmget": b"%b field",
    "hset": b"%b field value",
    "lindex": b"%b 0",
    "ltrim": b"%b 0 0",
    "pexpire": b"%b 1 NX",
    "rpush": b"%b 0",
    "set": b"%b value",
    "time": b"",
    "zadd": b"%b 0 member",
    "zcount": b"%b 0 0",
    "zrange": b"%b 0 0",
    "zrem": b"%b member",
    "zremrangebyscore": b"%b 0 0",
    "zscore": b"%b member",
}


def question(key: bytes, with_records: bool = False) -> bytes:
    """Encode the call that checks the commands on a key of the limiter, which has no space in it.

    Without ``with_records``, those of recorded reservations are left out: a user who never makes one needs
    no right to them.
    """
    calls = [
        b"%b %b" % (name.encode(), _ARGUMENTS.get(name, b"%b").replace(b"%b", key))
        for name in ("evalsha", "eval", *COMMANDS)
        if with_records or name not in OF_RECORDS
    ]
    return command("EVAL", _TEXT, "0", *calls)


def missing(reply: object) -> str | None:
    """Return the commands that a reply names, as the words of an ACL rule; None if that is not known."""
    if not isinstance(reply, list):
        return None
    return " ".join(f"+{name.decode() if isinstance(name, bytes) else name}" for name in reply)


def check(reply: object, key: bytes, where: str) -> None:
    """Raise an error if the reply names a command.

    Raises:
        StoreRefused: The user may not run the command, or not on such a key.

    """
    if names := missing(reply):
        raise StoreRefused(
            f"{where} does not grant its user {names} on keys like {key.decode()}: expected are the "
            f"rights that `limiter acl` prints; grant them, and open again"
        )
