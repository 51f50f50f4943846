"""Commands to type next, as they have to be typed here: after ``scripts/seqmem``, ``seqmem`` or ``python -m seqmem``.

Every command that an error, a hint or a help text suggests is made here.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from .odd_values import escaped

COMMAND = "SEQMEM_COMMAND"
"""The environment variable in which ``scripts/seqmem`` passes on by which name it was started."""

RUN = "outputs/pronoun/lstm/len50-seed0-1a2b3c4d"
"""A run's directory, for examples."""


def command(*words: str | Path) -> str:
    """``scripts/seqmem WORDS`` or what else starts this program, quoted for a shell."""
    return quoted(*_program(), *words)


def quoted(*words: str | Path) -> str:
    """A command line that can be pasted into a shell."""
    parts = [str(word) for word in words]
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline(parts)
    return " ".join(map(_quoted, parts))


def _quoted(word: str) -> str:
    r"""``word`` for a shell, on one line: control characters as in bash's and zsh's ``$'a\nb'``."""
    if escaped(word) == word:
        return shlex.quote(word)
    return "$'" + escaped(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def examples(*lines: tuple[str, str]) -> str:
    """Indented lines of a help text. Each is (what follows the program, what it does); these stand in a column."""
    start = quoted(*_program())
    room = max((len(words) for words, what in lines if what), default=0)
    return "\n".join(f"  {start} {words:<{room}}    {what}".rstrip() for words, what in lines)


def install(extra: str) -> str:
    """The command that installs the packages of one of seqmem's extras beside it. seqmem itself is in no registry."""
    from importlib.metadata import PackageNotFoundError, requires  # late: slow, and only a mistake needs it

    try:
        lines = requires("seqmem") or []
    except PackageNotFoundError:
        lines = []
    conditions = f"extra == '{extra}'", f'extra == "{extra}"'
    packages = [line.partition(";")[0].strip() for line in lines if line.endswith(conditions)]
    return quoted(_here(sys.executable), "-m", "pip", "install", *(packages or [f"seqmem[{extra}]"]))


def completes() -> str:
    """The word that a shell completes: the last part of the program's path. ``python -m seqmem`` is no word."""
    words = _program()
    return Path(words[0]).name if len(words) == 1 else "seqmem"


def completion(shell: str) -> str | None:
    """A script for bash that completes this program, and leaves ``python`` alone but for ``python -m seqmem``.

    A space follows verbs and files, not settings. None: Hydra's script completes it, in another shell.
    """
    words = _program()
    if len(words) == 1:
        if shell != "bash":
            return None
        function, name, only, line, program = "seqmem_completion", completes(), "", "$COMP_LINE", '"${words[0]}"'
    else:
        program, function, name = quoted(*words), "seqmem_module_completion", quoted(words[0])
        only = f'[[ $COMP_LINE == {shlex.quote(program)}" "* ]] || return\n    '
        line = f'"seqmem${{COMP_LINE#{shlex.quote(program)}}}"'
    return f"""\
{function}()
{{
    {only}words=($COMP_LINE)
    choices=$(COMP_LINE={line} {program} -sc query=bash 2>/dev/null)
    if [[ $choices ]] && ((COMP_CWORD > {len(words)})); then compopt -o nospace; fi
    COMPREPLY=($(compgen -W "$choices" -- "${{words[$COMP_CWORD]}}"))
}}

COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o bashdefault -o default -F {function} {name}"""


def _program() -> list[str]:
    if given := os.environ.get(COMMAND):
        return [_name(given)]
    words = sys.orig_argv
    if _is_module(words):
        return words[: words.index("-m") + 2]
    script = _script(words)
    return ["seqmem"] if script is None else [_name(script)]


def was_typed() -> bool:
    """Whether this process was started for one command: by ``seqmem`` or ``python -m seqmem``, not by a profiler."""
    return _is_module(sys.orig_argv) or _script(sys.orig_argv) is not None


def _is_module(words: list[str]) -> bool:
    return "-m" in words[1:] and words[words.index("-m") :][1:2] == ["seqmem"]


def _script(words: list[str]) -> str | None:
    """The installed command."""
    return next((word for word in words[1:2] if Path(word).stem == "seqmem"), None)


def _name(path: str) -> str:
    """A program's path as it is typed: the shell passes on a whole one also where a name was enough."""
    short = Path(path).name
    known = shutil.which(short)
    return short if known is not None and _same(known, path) else path


def _same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def _here(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return path
