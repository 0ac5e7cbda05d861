"""The commands of docs/serving.md, run against a server."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_serve import make_bundle, png

from benchmarks.serving.server import Server, running
from edgedet.cli import build_parser

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "serving.md").read_text()
COMMANDS = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "curl" in block]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bundle = make_bundle(tmp_path_factory.mktemp("docs") / "femto")
    with running(bundle, "--threads", "1") as one:
        yield one


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page(command: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(png(255, 0, 0, width=64, kind="JPEG"))
    assert command.count("curl -fsS") == command.count("curl")
    here = command.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", here], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "/v1/detect" in command:
        assert '"model":"femto","results":[{"width":' in done.stdout
    if "/infer" in command:
        assert re.search(r'"name":"boxes".*"name":"labels"', done.stdout)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 7


def test_options_of_the_page_exist() -> None:
    parsers = next(action.choices for action in build_parser()._actions if hasattr(action.choices, "values"))
    known = {option for action in parsers["serve"]._actions for option in action.option_strings}
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert option in known, option
