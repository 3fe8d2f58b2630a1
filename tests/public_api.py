"""The public names of the library, with signatures: ``python -m tests.public_api`` prints them.

They are the names in ``__all__`` of the modules below, what those classes have without an underscore, and
the commands. The names are read from the source, so the list is the same on every version of Python.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import griffe

from limiter.command import cli

ROOT = Path(__file__).parent.parent
#: The list that a release keeps.
LISTED = ROOT / "docs/public-api.txt"
#: Every module that users import; all others may change in any release.
MODULES = (
    "limiter",
    "limiter.asgi",
    "limiter.compat.flask_limiter",
    "limiter.compat.flask_limiter.util",
    "limiter.fastapi",
    "limiter.flask",
    "limiter.policyfile",
    "limiter.server.app",
    "limiter.testing",
    "limiter.web",
    "limiter.wsgi",
)
_POLICIES = "close from_env guard guard_for open path refusals refused reload"
#: What a class promises, if it has more without an underscore, which only the package itself uses.
PROMISED = {
    "limiter.aio.AsyncLease": "decision degraded lost release released",
    "limiter.aio.AsyncReservation": "decision decisions settle settled",
    "limiter.client.Lease": "decision degraded lost release released",
    "limiter.client.Reservation": "decision decisions settle settled",
    "limiter.decision.Decision": "allowed cached decided_at degraded delay each granted limit policy "
    "remaining reset_after retry_after to_dict",
    "limiter.errors.Invalid": "expected setting value",
    "limiter.policies.base.Policy": "algorithm capacity limit name per to_dict",
    "limiter.policies.concurrency.Concurrency": "lease max_hold",
    "limiter.policies.fixed_window.FixedWindow": "align",
    "limiter.policies.sliding_log.SlidingLog": "",
    "limiter.policies.sliding_window.SlidingWindow": "",
    "limiter.policies.token_bucket.GCRA": "burst",
    "limiter.policies.token_bucket.LeakyBucket": "burst",
    "limiter.policies.token_bucket.TokenBucket": "burst",
    "limiter.policyfile.faults.Fault": "file key line message to_dict",
    "limiter.policyfile.faults.InvalidPolicyFile": "faults",
    "limiter.policyfile.watch.AsyncPolicies": _POLICIES,
    "limiter.policyfile.watch.Policies": _POLICIES,
    "limiter.web.match.Match": "hosts ignore_case methods paths",
    "limiter.web.new_subjects.NewSubjects": "",
    "limiter.web.plans.Classes": "named_by shares",
    "limiter.web.plans.Plans": "by_name by_prefix by_subject named_by written",
    "limiter.web.request.Request": "cookie environ headers host method path peer scope size state",
    "limiter.web.rules.Rule": "by_response classes cost exempt_keys exempt_networks exempt_paths form "
    "identity is_default limiter match name new_subjects percent plans preflights shadow unidentified unit",
    "limiter.web.trusted_field.TrustedField": "name",
    "limiter.web.verdict.Result": "decision denies rule",
    "limiter.web.verdict.Verdict": "allowed body error fields results status",
}
#: Classes whose objects only the package makes.
NOT_MADE = {
    *("limiter.aio.AsyncLease", "limiter.aio.AsyncReservation"),
    *("limiter.client.Lease", "limiter.client.Reservation"),
    *("limiter.decision.Decision", "limiter.policies.base.Policy", "limiter.web.request.Request"),
    *("limiter.web.verdict.Result", "limiter.web.verdict.Verdict"),
}


def lines() -> Iterator[str]:
    """Yield the lines of the list."""
    package = griffe.load(
        "limiter", search_paths=[ROOT], extensions=griffe.load_extensions("unpack_typeddict")
    )
    for path in MODULES:
        module = package if path == "limiter" else package[path.removeprefix("limiter.")]
        yield path
        for name in sorted(map(str, module.exports), key=str.lower):
            yield from _described(name, _of(module[name]), "    ")
    yield "commands"
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield f"    limiter {name} {' '.join(map(_word, command.params))}"


def _word(parameter: click.Parameter) -> str:
    """A parameter of a command as its usage shows it; an option with all of its spellings."""
    if isinstance(parameter, click.Option):
        value = "" if parameter.is_flag else f" {parameter.type.name.split()[0].upper()}"
        return f"[{'|'.join(parameter.opts)}{value}]"
    name = (parameter.name or "").upper() + ("..." if parameter.nargs < 0 else "")
    return name if parameter.required else f"[{name}]"


def _of(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def text() -> str:
    """The whole list, in lines of bounded length."""
    wrapped: list[str] = []
    for line in lines():
        indent = " " * (len(line) - len(line.lstrip()) + 8)
        wrapped += textwrap.wrap(line, 108, subsequent_indent=indent, break_long_words=False)
    return "\n".join(wrapped) + "\n"


def _described(name: str, found: griffe.Object, indent: str) -> Iterator[str]:
    if isinstance(found, griffe.Class):
        yield f"{indent}class {name}{_of_class(found)}"
        members = found.all_members
        for member in _promised(found):
            yield from _described(member, _of(members[member]), indent + "    ")
    elif isinstance(found, griffe.Function):
        coroutine = "async " if "async" in found.labels else ""
        returns = "" if found.returns is None else f" -> {found.returns}"
        yield f"{indent}{coroutine}{name}{_parameters(found)}{returns}"
    elif isinstance(found, griffe.Attribute):
        kind = "" if found.annotation is None else f": {found.annotation}"
        yield f"{indent}{name}{kind}"


def _promised(found: griffe.Class) -> list[str]:
    """The members that a class promises, without those that a listed base class promises."""
    inherited = {name for base in found.mro() for name in PROMISED.get(base.path, "").split()}
    if (names := PROMISED.get(found.path)) is not None:
        return sorted(set(names.split()))
    public = {name for name in found.all_members if not name.startswith("_")}
    if inherited:  # else a subclass would promise what its base class keeps to itself
        public &= set(found.members)
    return sorted(public - inherited)


def _of_class(found: griffe.Class) -> str:
    bases = ", ".join(str(base) for base in found.bases)
    made = "" if found.path in NOT_MADE else _made_by(found)
    return made + (f" is a {bases}" if bases else "")


def _made_by(found: griffe.Class) -> str:
    """The parameters of a class; a dataclass without fields of its own has those of its base."""
    for one in [found, *found.mro()]:
        init = one.members.get("__init__")
        if isinstance(init, griffe.Function) and (
            len(init.parameters) > 1 or one.path not in PROMISED
        ):
            return _parameters(init)
    return ""


def _parameters(function: griffe.Function) -> str:
    kinds = griffe.ParameterKind
    shown: list[str] = []
    is_keyword_only = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind
        if kind is kinds.var_positional:
            is_keyword_only = True
        if kind is kinds.keyword_only and not is_keyword_only:
            shown.append("*")
            is_keyword_only = True
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(kind, "")
        text = stars + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not stars:
            text += f" = {parameter.default}"
        shown.append(text)
        if kind is kinds.positional_only:
            shown.append("/")
    return f"({', '.join(shown)})"


if __name__ == "__main__":
    print(text(), end="")
