"""A bash whose `edgedet`, `python` and `pip` are answered by docs_server.py, in milliseconds instead of seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = Path(__file__).with_name("docs_server.py")
ROOT = SERVER.parent.parent
SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    argv = [os.path.basename(sys.argv[0]).replace("python3", "python"), *sys.argv[1:]]
    request = json.dumps({{"argv": argv, "cwd": os.getcwd(), "parse": False}})
    socket.send_fds(server, [request.encode()], [0, 1, 2])
    answer = server.recv(1)
sys.exit(answer[0] if answer else "the command crashed")
"""


class Shell:
    """Runs shell texts and checks command lines; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "bin"
        self._bin.mkdir(parents=True)
        self._socket = tempfile.mktemp(prefix="edgedet-docs-")  # the path of a socket has to be short
        for name in ("edgedet", "python", "python3", "pip"):
            shim = self._bin / name
            shim.write_text(SHIM.format(python=sys.executable, socket=self._socket))
            shim.chmod(0o755)
        bench = Path(sys.executable).with_name("edgedet-bench")  # real, but short: the last of two equal options counts
        (self._bin / "edgedet-bench").write_text(f'#!/bin/sh\nexec {bench} "$@" --iterations 4 --warmup 1\n')
        (self._bin / "edgedet-bench").chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER), self._socket],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        Path(self._socket).unlink(missing_ok=True)

    def run(self, text: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a text; it ends at the first command that fails."""
        path = os.pathsep.join((str(self._bin), str(Path(sys.executable).parent), os.environ["PATH"]))
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=cwd,
            env={**os.environ, "PATH": path, "HOME": str(cwd)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def complaint(self, argv: list[str]) -> str:
        """What the parser of a command says against its arguments, nothing if it takes them."""
        with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryFile("w+") as said:
            server.connect(self._socket)
            request = json.dumps({"argv": argv, "cwd": str(ROOT), "parse": True})
            socket.send_fds(server, [request.encode()], [0, said.fileno(), said.fileno()])
            status = server.recv(1)
            said.seek(0)
            return "" if status == b"\0" else f"{argv}: {said.read()}"
