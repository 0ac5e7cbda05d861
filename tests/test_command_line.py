"""The one style of the three programs: help, examples, suggestions, JSON, exit codes, terminals, completion."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_onnx
from PIL import Image

import calibration.cli
import edgedet.cli
import training.cli
from edgedet.command import EXIT_CODES, run_command
from edgedet.suggest import did_you_mean, nearest
from edgedet.terminal.parser import Parser, commands_of

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    "edgedet": (edgedet.cli.build_parser, edgedet.cli.main),
    "python -m training": (training.cli.build_parser, training.cli.main),
    "python -m calibration": (calibration.cli.build_parser, calibration.cli.main),
}
VERBS = [(prog, name) for prog, (build, _) in PROGRAMS.items() for name, _ in commands_of(build())]
PARSERS = {(prog, name): parser for prog, (build, _) in PROGRAMS.items() for name, parser in commands_of(build())}
# What has nothing to answer: a server, files that speak for themselves, scripts for a shell.
WITHOUT_JSON = {"serve", "completion", "train", "cache", "visualise", "ablate", "data coco2017"}
Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(prog: str, *arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = PROGRAMS[prog][1]([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx.logits_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.mark.parametrize(("prog", "verb"), VERBS)
def test_every_verb_is_explained(prog: str, verb: str) -> None:
    parser = PARSERS[prog, verb]
    text = parser.format_help()
    assert parser.description
    assert parser.get_default("run") is not None
    assert text.split("\nexamples:\n")[1].startswith("  ")
    for action in parser._actions:
        assert action.help, action.dest
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            assert all(re.fullmatch(r"--[a-z][a-z0-9-]*", option) for option in action.option_strings)


@pytest.mark.parametrize(("prog", "verb"), VERBS)
def test_examples_are_command_lines(prog: str, verb: str) -> None:
    """Each is read by the program that it names; most by the very command it explains."""
    parser = PARSERS[prog, verb]
    own = 0
    for example in parser.examples:
        assert len(example) <= 118, example
        inner = re.fullmatch(r'eval "\$\((.*)\)"', example)
        words = shlex.split(re.split(r" [|>] ", inner[1] if inner else example)[0])
        if words[0] == "curl":
            continue
        named = next(name for name in PROGRAMS if words[: len(name.split())] == name.split())
        rest = words[len(named.split()) :]
        PROGRAMS[named][0]().parse_args(rest)
        own += named == prog and rest[: len(verb.split())] == verb.split()
    assert own


@pytest.mark.parametrize(("prog", "verb"), VERBS)
def test_wrong_usage_is_2_and_two_lines(prog: str, verb: str, run: Run) -> None:
    code, out, err = run(prog, *verb.split(), "--no-such-option")
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert second == f"see: {prog} {verb} --help"


@pytest.mark.parametrize(("prog", "verb"), VERBS)
def test_who_answers_has_json(prog: str, verb: str) -> None:
    options = {option for action in PARSERS[prog, verb]._actions for option in action.option_strings}
    assert ("--json" in options) != (verb in WITHOUT_JSON)


@pytest.mark.parametrize("prog", PROGRAMS)
def test_the_exit_codes_are_in_the_help(prog: str, run: Run) -> None:
    code, out, _ = run(prog, "--help")
    assert code == 0
    for number, meaning in EXIT_CODES.items():
        assert re.search(rf"^  {number} +{re.escape(meaning)}$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 110
    assert run(prog)[0] == 2


def test_how_a_defect_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: [][1]) == 70
    assert "IndexError" in capsys.readouterr().err
    assert 70 in EXIT_CODES


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("edgedet", "predct", "x"), "did you mean 'predict'?"),
        (("edgedet", "predict", "b", "x", "--treads", "1"), "did you mean '--threads'?"),
        (("edgedet", "predict", "b", "x", "--treads=1"), "did you mean '--threads'?"),
        (("edgedet", "predict", "b", "x", "--backend", "open-vino"), "did you mean 'openvino'?"),
        (("python -m training", "trian"), "did you mean 'train'?"),
        (("python -m training", "data", "chek", "x"), "did you mean 'check'?"),
        (("python -m training", "models", "fmto"), "did you mean 'femto'?"),
        (("python -m calibration", "quantise", "b"), "did you mean 'quantize'?"),
        (("python -m calibration", "verify", "b", "--max-drp", "1"), "did you mean '--max-drop'?"),
    ],
)
def test_did_you_mean(arguments: tuple[str, ...], hint: str, run: Run) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert hint in err


def test_nothing_far_fetched_is_suggested(run: Run) -> None:
    assert "did you mean" not in run("edgedet", "frobnicate")[2]
    assert did_you_mean("zebra", ["person", "car"]) == ""
    assert nearest("Persn", ["car", "person"]) == "person"
    assert nearest("", []) is None


def test_json_has_standard_output_for_itself(bundle: Path, tmp_path: Path, run: Run) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (80, 48), (255, 0, 0)).save(picture)
    code, out, _ = run("edgedet", "predict", bundle, picture, "--json")
    assert code == 0
    assert json.loads(out)[0]["detections"][0]["name"] == "red"
    assert json.loads(run("edgedet", "info", bundle, "--json")[1])["classes"] == list(tiny_onnx.CLASSES)
    assert json.loads(run("edgedet", "info", "--json=-", bundle)[1])["valid"] is True
    code, out, _ = run("edgedet", "bench", bundle, "--frames", "2", "--warmup", "0", "--threads", "1", "--json")
    assert code == 0
    assert json.loads(out)["latency_ms"]["p50"] > 0
    models = json.loads(run("python -m training", "models", "atto", "--json")[1])
    assert (models[0]["model"], models[0]["width"]) == ("atto", 320)
    assert len(json.loads(run("python -m training", "recipes", "--json")[1])) > 5
    assert "logit" in json.loads(run("python -m training", "methods", "--json")[1])
    assert json.loads(run("edgedet", "doctor", "--json")[1])["installation"]["edgedet"]


def test_json_to_a_file_leaves_the_text(bundle: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "info.json"
    code, out, _ = run("edgedet", "info", bundle, "--json", file)
    assert code == 0
    assert "classes" in out
    assert json.loads(file.read_text())["name"] == "tiny"
    assert run("edgedet", "info", bundle, "--json", "/dev/null")[0] == 0


@pytest.mark.parametrize("name", ["photo.png", "BUNDLE", "notes"])
def test_json_does_not_eat_other_arguments(name: str, bundle: Path, tmp_path: Path, run: Run) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    before = photo.read_bytes()
    given = bundle if name == "BUNDLE" else tmp_path / name
    code, out, err = run("edgedet", "predict", bundle, "--json", given, photo)
    assert (code, out) == (2, "")
    assert "write it before --json" in err
    assert photo.read_bytes() == before


def test_json_that_ate_the_input_says_so(tmp_path: Path, run: Run) -> None:
    labels = tmp_path / "instances.json"
    labels.write_text("{}")
    code, _, err = run("python -m training", "data", "check", "--json", labels)
    assert code == 2
    assert "DATA; write the file of --json, if any, after them" in err
    assert labels.read_text() == "{}"


PAINT = """
import sys
from edgedet.terminal.progress import progress
from edgedet.terminal.table import print_table
print_table([{"name": "a [b] name", "AP": "0.25"}, {"name": "other", "AP": "0.5"}], left=("name",))
with progress() as tell:
    for done in range(1, 5):
        tell("work", done, 4)
"""
PLAIN = "name          AP\na [b] name  0.25\nother        0.5\n"


def on_a_terminal(**environment: str) -> str:
    """What the script paints on a pseudo-terminal of 80 columns: its two streams, as they come."""
    own, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PAINT],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}, "COLUMNS": "80", **environment},
    )
    os.close(other)
    parts = list(_read_all(own))
    os.close(own)
    assert process.wait(timeout=30) == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read_all(handle: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(handle, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not part:
            return
        yield part


def test_a_terminal_gets_tables_and_bars() -> None:
    text = on_a_terminal(TERM="xterm-256color")
    assert "━" in text
    assert "\x1b[1m" in text
    assert "a [b] name" in text
    assert "4/4" in text
    assert "/s" in text


def test_no_color_keeps_the_form_and_drops_colours() -> None:
    text = on_a_terminal(TERM="xterm-256color", NO_COLOR="1")
    assert "━" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9](;|m)", text)


def test_a_dumb_terminal_and_a_narrow_one() -> None:
    assert on_a_terminal(TERM="dumb").startswith(PLAIN)
    narrow = on_a_terminal(TERM="xterm", COLUMNS="24")
    table = narrow.split("\x1b[?25l")[0]
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in table.splitlines()) <= 24
    assert "0.25" in table


def test_a_pipe_gets_plain_text() -> None:
    done = subprocess.run([sys.executable, "-c", PAINT], capture_output=True, text=True, check=True)
    assert done.stdout == PLAIN
    assert re.fullmatch(r"work 1/4\nwork 4/4(, \S+( [kMG])?/s)?\n", done.stderr)


def test_without_rich_a_terminal_gets_plain_text() -> None:
    own, other = pty.openpty()
    code = f"import sys; sys.modules['rich'] = None\n{PAINT}"
    done = subprocess.run([sys.executable, "-c", code], stdout=other, stderr=subprocess.PIPE, check=True)
    os.close(other)
    assert b"".join(_read_all(own)).decode().replace("\r\n", "\n") == PLAIN
    os.close(own)
    assert b"work 4/4" in done.stderr


@pytest.fixture(scope="module")
def script() -> str:
    pytest.importorskip("shtab")
    call = "import sys; from edgedet.cli import main; sys.exit(main(['completion', 'bash']))"
    return subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("line", "expected", "unexpected"),
    [
        ("edgedet pre", {"predict"}, {"eval"}),
        ("edgedet ", {"predict", "compare", "doctor"}, set()),
        ("edgedet predict --thr", {"--threads"}, {"--track"}),
        ("edgedet predict --precision ", {"int8", "fp16"}, {"openvino"}),
        ("edgedet predict b ph", {"photo one.jpg", "photos"}, {"bundle"}),
        ("edgedet info bun", {"bundle"}, {"photos"}),
        ("edgedet eval b --images ph", {"photos"}, {"photo one.jpg"}),
        ("edgedet info bundle --json fo", {"found.json"}, {"photos"}),
        ("edgedet completion ", {"bash", "zsh", "fish"}, {"predict"}),
    ],
)
def test_bash_completes(line: str, expected: set[str], unexpected: set[str], script: str, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    for name in ("photos", "bundle"):
        (tmp_path / name).mkdir()
    for name in ("photo one.jpg", "found.json"):
        (tmp_path / name).touch()
    words = line.split(" ")
    call = (
        f"COMP_WORDS=({' '.join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}\n"
        '_shtab_edgedet edgedet "${COMP_WORDS[COMP_CWORD]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{call}"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    found = set(done.stdout.splitlines())
    assert expected <= found, done.stderr
    assert not unexpected & found


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_get_a_script(shell: str, run: Run) -> None:
    pytest.importorskip("shtab")
    code, out, err = run("edgedet", "completion", shell)
    assert (code, err) == (0, "")
    assert "predict" in out
    assert "--threads" in out or "threads" in out


def test_completion_names_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run("edgedet", "completion", "bash")
    assert code == 2
    assert "pip install 'edgedet[cli]'" in err


def test_the_page_of_commands_is_complete() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    assert {f"{prog} {verb}" for prog, verb in VERBS} <= rows
    assert {row for row in rows if row.startswith(tuple(PROGRAMS))} == {f"{prog} {verb}" for prog, verb in VERBS}
    for number, meaning in EXIT_CODES.items():
        assert f"| {number} | {meaning} |" in page
    for name in ("NO_COLOR", "TERM", "COLUMNS", "XDG_CACHE_HOME"):
        assert f"`{name}`" in page


def test_parsers_below_are_of_the_same_kind() -> None:
    assert all(isinstance(parser, Parser) for parser in PARSERS.values())
