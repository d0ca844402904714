"""Does what the Dockerfile says where no container engine can run: each step in a root folder, by chroot.

    python -m tests.container.run_steps build --base /tmp/debian --into /tmp/image
    python -m tests.container.run_steps run --from /tmp/image -- train

It must be root on Linux. The base is a folder that stands in for the image of FROM; docs/container.md makes one with
debootstrap. A step has its own mounts and processes, and 64 MB of shared memory, as in an engine; nothing stays mounted
after it. Unlike an engine it keeps no layers and no cache of steps, and a run writes into the image itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.container.dockerfile import Instruction, context_files, parse

REPOSITORY = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Mounts = Sequence[tuple[Path, str]]
"""Folders or files outside, and where they are inside."""


@dataclass(frozen=True)
class Image:
    root: str
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"
    volumes: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()


def build(base: Path, into: Path, mounts: Mounts, env: Mapping[str, str]) -> Image:
    """Carry out every instruction of the Dockerfile, and write what became of it to image.json in `into`.

    Args:
        base: the root folder that every FROM of an image starts from; it is copied.
        into: a new folder; it gets a root a stage, the context, and what the cache mounts hold.
        mounts, env: in force in every RUN, but no part of the image.
    """
    into.mkdir(parents=True)
    context = into / "context"
    for file in context_files(REPOSITORY):
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / file, context / file, follow_symlinks=False)
    stages: dict[str, Image] = {}
    stage, image = "", Image("/")
    for step in parse((REPOSITORY / "Dockerfile").read_text()):
        print(f"[line {step.line}] {step}", flush=True)
        started = time.monotonic()
        if step.name == "FROM":
            source, *name = step.words({})
            stage = name[-1] if name else f"stage-{len(stages)}"
            origin = stages.get(source, Image(str(base)))
            subprocess.run(["cp", "--archive", origin.root, into / stage], check=True)
            image = stages[stage] = replace(origin, root=str(into / stage))
        elif step.name == "RUN":
            added = [(outside(mount, stages, into), mount["target"]) for mount in step.mounts()]
            code = enter(image, ["/bin/sh", "-c", step.text], [*mounts, *added], env)
            if code:
                raise SystemExit(f"line {step.line}: exit code {code}")
        elif step.name == "COPY":
            other = dict(step.flags).get("from")
            copy(step, Path(stages[other].root) if other else context, image)
        else:
            image = stages[stage] = settled(step, image)
        if step.name in ("FROM", "RUN", "COPY"):
            size = subprocess.run(["du", "-sm", image.root], capture_output=True, text=True, check=True).stdout
            print(f"    {time.monotonic() - started:.1f} s, {size.split()[0]} MB", flush=True)
    (into / "image.json").write_text(json.dumps(asdict(image), indent=2) + "\n")
    return image


def settled(step: Instruction, image: Image) -> Image:
    """The image after an instruction that only changes its settings."""
    if step.name == "ENV":
        return replace(image, env={**image.env, **step.pairs(image.env)})
    if step.name == "LABEL":
        return replace(image, labels={**image.labels, **step.pairs(image.env)})
    if step.name == "USER":
        return replace(image, user=step.text)
    if step.name == "WORKDIR":
        (folder,) = step.words(image.env)
        workdir = os.path.join(image.workdir, folder)
        inside(image, workdir).mkdir(parents=True, exist_ok=True)
        return replace(image, workdir=workdir)
    if step.name == "VOLUME":
        return replace(image, volumes=step.array())
    if step.name == "ENTRYPOINT":
        return replace(image, entrypoint=step.array())
    if step.name == "CMD":
        return replace(image, cmd=step.array())
    raise ValueError(f"line {step.line}: {step.name} is not understood")


def inside(image: Image, path: str) -> Path:
    """A path of the image as one of this machine."""
    return Path(image.root) / os.path.join(image.workdir, path).lstrip("/")


def outside(mount: Mapping[str, str], stages: Mapping[str, Image], into: Path) -> Path:
    """The folder that a --mount of RUN shows."""
    if "from" in mount:
        return Path(stages[mount["from"]].root) / mount["source"].lstrip("/")
    cache = into / "cache" / mount["target"].lstrip("/")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def copy(step: Instruction, origin: Path, image: Image) -> None:
    """COPY: folders by their content, everything to the superuser."""
    *sources, target = step.words(image.env)
    to = inside(image, target)
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True)
            copied = [to, *to.rglob("*")]
        else:
            copied = [to / path.name if target.endswith("/") else to]
            copied[0].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copied[0])
        for one in copied:
            os.chown(one, 0, 0, follow_symlinks=False)


def enter(image: Image, words: Sequence[str], mounts: Mounts, env: Mapping[str, str]) -> int:
    """Run a command inside as the image's user. Returns: its exit code."""
    root, uid = Path(image.root), image.user.split(":")[0]
    files = [(Path(name), name) for name in ("/etc/resolv.conf", "/etc/hosts")]
    devices = [(Path("/dev", name), f"/dev/{name}") for name in ("null", "zero", "full", "random", "urandom")]
    lines = ["set -e", f"mount -t proc proc {root}/proc", f"mount -t tmpfs -o mode=755 dev {root}/dev"]
    lines += [f"mkdir {root}/dev/shm", f"mount -t tmpfs -o size=64m,mode=1777 shm {root}/dev/shm"]
    lines += [f"ln -s /proc/self/fd {root}/dev/fd"]
    for source, target in [*files, *devices, *mounts]:
        point = shlex.quote(f"{root}{target}")
        lines.append(f"mkdir -p {point}" if source.is_dir() else f"mkdir -p $(dirname {point}); touch {point}")
        lines.append(f"mount --bind {shlex.quote(str(source))} {point}")
    home = {"HOME": "/root"} if uid == "0" else {}
    settings = [f"{name}={value}" for name, value in {**home, **image.env, **env}.items()]
    chroot = ["chroot", f"--userspec={image.user}", "--groups=", str(root)]
    lines.append("exec " + shlex.join([*chroot, "env", "-i", f"--chdir={image.workdir}", *settings, *words]))
    apart = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation=private"]
    return subprocess.run([*apart, "sh", "-c", "\n".join(lines)]).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, says in (("build", "carry out the Dockerfile"), ("run", "start the ENTRYPOINT with the words given")):
        command = commands.add_parser(name, help=says)
        command.add_argument("--mount", action="append", default=[], metavar="HOST:PATH", help="as docker run -v does")
        command.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set, but not kept")
    commands.choices["build"].add_argument("--base", type=Path, required=True, help="root folder to start from")
    commands.choices["build"].add_argument("--into", type=Path, required=True, help="a new folder")
    commands.choices["run"].add_argument("--from", dest="image", type=Path, required=True, help="the folder of build")
    commands.choices["run"].add_argument("--user", metavar="UID:GID", help="in place of the image's")
    commands.choices["run"].add_argument(
        "words", nargs="*", help="in place of CMD; after --, where they begin with a dash"
    )
    given = parser.parse_args()
    mounts = [(Path(source).resolve(), target) for source, target in (pair.split(":") for pair in given.mount)]
    env = dict(pair.split("=", 1) for pair in given.env)
    if given.command == "build":
        build(given.base.resolve(), given.into.resolve(), mounts, env)
        return 0
    image = Image(**json.loads((given.image / "image.json").read_text()))
    image = replace(image, user=given.user or image.user)
    return enter(image, [*image.entrypoint, *(given.words or image.cmd)], mounts, env)


if __name__ == "__main__":
    sys.exit(main())
