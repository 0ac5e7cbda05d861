"""Runs the project's commands in forks of one process that has imported everything: `docs_server.py SOCKET`.

A request is one JSON object with "argv", "cwd" and "parse", and the three standard streams; the answer is the exit
status. With "parse" a command reads its arguments and ends: 0 if its own parser takes them. Commands that run have
theirs read so, too, before they are scaled down (`SMALL`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What is appended, so that a command of hours takes seconds: the last of two equal options counts.
SMALL = {
    ("training", "train"): "--epochs 1 --size 160 --batch 2 --denoising 4 --workers 0 --threads 1 --eval-every 1",
    ("training", "calibrate-lambda"): "--epochs 1 --size 160 --batch 2 --denoising 4 --workers 0 --threads 1",
    ("edgedet", "bench"): "--frames 4 --warmup 1",
    ("calibration", "sample"): "--count 8",
    ("calibration", "finetune"): "--epochs 1 --batch 2",
    ("benchmarks.demo.dataset", "parts"): "--train 8 --val 2",
}


class ParsedError(BaseException):
    """The arguments are right, and that is all that was asked."""


def run(argv: list[str]) -> int:
    """Runs a command of the project in this process."""
    name, *rest = argv
    if name == "edgedet":
        if rest[:1] == ["serve"]:
            return parse(argv)  # one that runs already answers in its place
        return module("edgedet", rest)
    if rest[:1] == ["-m"]:
        return module(rest[1], rest[2:])
    if rest[:1] in ([], ["-"]):
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    elif rest[0] == "-c":
        exec(compile(rest[1], "<-c>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")
    return 0


def module(name: str, arguments: list[str]) -> int:
    """As ``python -m NAME ARGUMENTS``, scaled down."""
    if (status := parse(["python", "-m", name, *arguments])) != 0:
        return status
    small = SMALL.get((name, arguments[0] if arguments else ""), "")
    if "--resume" not in arguments:
        arguments = [*arguments, *small.split()]
    if "--model" in arguments:
        arguments = [*arguments, "--model", "atto"]
    if "--teacher" in arguments and arguments[0] in ("train", "calibrate-lambda"):
        arguments = [*arguments, "--teacher-ap", "0"]
    if "--out" in arguments and arguments[0] in ("train", "export", "import"):
        shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)  # the stand-in of what is made now
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if arguments[0] == "verify" and end.code == 1:
            return 0  # a refusal is an answer, and the right one to a toy that has learnt nothing
        raise
    return 0


def parse(argv: list[str]) -> int:
    """Has the command's own parser read the arguments."""
    original = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        original(self, args, namespace)
        raise ParsedError

    argparse.ArgumentParser.parse_args = only_parse  # type: ignore[method-assign]
    name, arguments = ("edgedet", argv[1:]) if argv[0] == "edgedet" else (argv[2], argv[3:])
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except ParsedError:
        return 0
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    print(f"{argv} did not read its arguments", file=sys.stderr)
    return 3


def pip(argv: list[str]) -> int:
    """Installs nothing; the extras have to exist."""
    extras = re.search(r"\[project\.optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert extras
    known = set(re.findall(r"^(\w+) = \[", extras[1], re.MULTILINE))
    for word in argv:
        if asked := re.fullmatch(r"(?:\.|edgedet)\[(.*)\]", word):
            assert set(asked[1].split(",")) <= known, word
    return 0


def serve(connection: socket.socket) -> int:
    """Answers one request, in a fork."""
    text, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    request = json.loads(text)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(request["cwd"])
    argv = request["argv"]
    try:
        if argv[0] == "pip":
            return pip(argv)
        return parse(argv) if request["parse"] else run(argv)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    """Imports what is slow to import, starting no thread, then forks for each request."""
    import matplotlib
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    matplotlib.use("agg")
    import training.cli
    import training.export
    import training.trainer  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                status = serve(connection)
                sys.stdout.flush()
                sys.stderr.flush()
                connection.send(bytes([status & 255]))
                os._exit(0)
            connection.close()


main()
