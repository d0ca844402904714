"""Reads a Dockerfile and a .dockerignore: as much of both as run_steps.py can carry out, and an error for the rest."""

from __future__ import annotations

import json
import os
import re
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FLAGS = {
    **dict.fromkeys(["FROM", "LABEL", "ENV", "WORKDIR", "USER", "VOLUME", "ENTRYPOINT", "CMD"], frozenset()),
    "RUN": frozenset({"mount"}),
    "COPY": frozenset({"from"}),
}
"""Every instruction that is understood, with its flags."""


@dataclass(frozen=True)
class Instruction:
    name: str
    flags: tuple[tuple[str, str], ...]
    """The --key=value pairs in front."""
    text: str
    """The rest, on one line."""
    line: int

    def __str__(self) -> str:
        return " ".join([self.name, *(f"--{key}={value}" for key, value in self.flags), self.text])

    def words(self, env: Mapping[str, str]) -> list[str]:
        """The words of the text with variables replaced. Raises: ValueError if one is not set."""
        try:
            return [string.Template(word).substitute(env) for word in shlex.split(self.text)]
        except KeyError as name:
            raise ValueError(f"line {self.line}: {name} is not set") from None

    def pairs(self, env: Mapping[str, str]) -> dict[str, str]:
        """The NAME=value pairs of the text. Raises: ValueError for another form."""
        words = self.words(env)
        if not all("=" in word for word in words):
            raise ValueError(f"line {self.line}: expected NAME=value, got {self.text}")
        return dict(word.split("=", 1) for word in words)

    def array(self) -> tuple[str, ...]:
        """The strings of the form ["a", "b"]. Raises: ValueError for another form."""
        try:
            return tuple(map(str, json.loads(self.text)))
        except json.JSONDecodeError:
            raise ValueError(f'line {self.line}: expected {self.name} ["...", "..."], got {self.text}') from None

    def mounts(self) -> list[dict[str, str]]:
        """The --mount flags of RUN. Raises: ValueError for a kind other than cache, and bind from a stage."""
        mounts = [dict(pair.split("=", 1) for pair in value.split(",")) for _, value in self.flags]
        for mount in mounts:
            if mount.keys() not in ({"type", "target"}, {"type", "from", "source", "target"}) or mount["type"] != (
                "bind" if "from" in mount else "cache"
            ):
                raise ValueError(f"line {self.line}: this mount is not understood: {mount}")
        return mounts


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile. Raises: ValueError for what is not understood, with its line."""
    instructions = []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    for number, line in lines:
        if re.match(r"#\s*\w+\s*=", line):
            raise ValueError(f"line {number}: directives are not understood: {line}")
    whole, start = "", 0
    for number, line in lines:
        if not line or line.startswith("#"):  # also between the lines of one instruction
            continue
        start = start or number
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            instructions.append(_instruction(whole, start))
            whole, start = "", 0
    if start:
        raise ValueError(f"line {start}: the instruction does not end")
    return instructions


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.partition(" ")
    name, rest = name.upper(), rest.strip()
    if name not in FLAGS:
        raise ValueError(f"line {line}: {name} is not understood")
    flags = []
    while flag := re.match(r"--([a-z-]+)=?(\S*)\s*", rest):
        if flag[1] not in FLAGS[name]:
            raise ValueError(f"line {line}: --{flag[1]} of {name} is not understood")
        flags.append((flag[1], flag[2]))
        rest = rest[flag.end() :]
    if "<<" in rest:
        raise ValueError(f"line {line}: here-documents are not understood")
    instruction = Instruction(name, tuple(flags), rest, line)
    if name == "RUN":
        instruction.mounts()
        if rest.startswith("["):
            raise ValueError(f"line {line}: RUN is understood as a shell command only")
    elif name in ("VOLUME", "ENTRYPOINT", "CMD"):
        instruction.array()
    elif name == "COPY" and re.search(r"[*?\[]", rest):
        raise ValueError(f"line {line}: patterns in COPY are not understood")
    return instruction


class Ignore:
    """A .dockerignore: the last pattern that a path or a folder above it matches decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self.patterns = [line for line in lines if line and not line.startswith("#")]
        self._rules = [(_regex(line.removeprefix("!").strip("/")), line[0] != "!") for line in self.patterns]

    def __call__(self, path: str) -> bool:
        """Whether a path, relative to the context and with forward slashes, stays out of it."""
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        ignored = False
        for pattern, ignores in self._rules:
            if any(map(pattern.fullmatch, above)):
                ignored = ignores
        return ignored


def _regex(pattern: str) -> re.Pattern[str]:
    if "[" in pattern or "\\" in pattern:
        raise ValueError(f".dockerignore: this pattern is not understood: {pattern}")
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(signs.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern)))


def context_files(folder: Path) -> list[str]:
    """What an engine is sent of a folder: the paths that .dockerignore leaves, links unfollowed."""
    ignore = Ignore((folder / ".dockerignore").read_text())
    kept = [line.removeprefix("!") for line in ignore.patterns if line.startswith("!")]
    files = []
    for parent, folders, names in os.walk(folder):
        inside = Path(parent).relative_to(folder)
        links = [name for name in folders if Path(parent, name).is_symlink()]
        files += [path for name in names + links if not ignore(path := (inside / name).as_posix())]
        folders[:] = [
            name
            for name in folders
            if not ignore(path := (inside / name).as_posix()) or any(line.startswith(f"{path}/") for line in kept)
        ]
    return sorted(files)
