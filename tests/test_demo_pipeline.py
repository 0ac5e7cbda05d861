"""The demo's chain of commands: what is run again, what is reused, what stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.demo.pipeline import Pipeline, StepError

# Appends a line to a file and ends with a status.
TOOL = "import sys\nopen(sys.argv[1], 'a').write('x')\nsys.exit(int(sys.argv[2]))\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tool.py").write_text(TOOL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def chain(
    work: Path,
    *,
    drawn: bool = False,
    depends: str = "seed 1",
    first_status: int = 0,
    verdict: bool = False,
    always: bool = False,
) -> Pipeline:
    """Three steps: one within the process, two commands that write `first` and `second`."""
    pipeline = Pipeline(work / "demo")
    pipeline.call("draw", "draw", lambda: drawn, depends=depends)
    first, second = work / "first", work / "second"
    command = ["tool", str(first), str(first_status)]
    pipeline.run("first", command, sources=[work / "tool.py"], makes=[first], verdict=verdict, always=always)
    pipeline.run("second", ["tool", str(second), "0"], makes=[second])
    return pipeline


def runs(work: Path) -> tuple[int, int]:
    first, second = (len(path.read_text()) if path.exists() else 0 for path in (work / "first", work / "second"))
    return first, second


def test_a_second_run_reuses_everything(work: Path) -> None:
    assert [step.reused for step in chain(work, drawn=True).steps] == [False, False, False]
    assert [step.reused for step in chain(work).steps] == [True, True, True]
    assert runs(work) == (1, 1)


def test_a_changed_source_repeats_its_step_and_the_later_ones(work: Path) -> None:
    chain(work)
    (work / "tool.py").write_text(TOOL + "# changed\n")
    assert [step.reused for step in chain(work).steps] == [True, False, False]
    assert runs(work) == (2, 2)


def test_another_data_set_repeats_everything(work: Path) -> None:
    chain(work)
    chain(work, depends="seed 2")
    assert runs(work) == (2, 2)


def test_a_lost_result_is_made_again(work: Path) -> None:
    chain(work)
    (work / "second").unlink()
    assert [step.reused for step in chain(work).steps] == [True, True, False]
    (work / "first").unlink()
    assert [step.reused for step in chain(work).steps] == [True, False, False], "later steps built on the lost one"


def test_a_broken_record_is_not_trusted(work: Path) -> None:
    chain(work)
    for record in (work / "demo" / ".steps").iterdir():
        record.write_text("{")
    chain(work)
    assert runs(work) == (2, 2)


def test_a_failure_stops_the_chain_and_is_tried_again(work: Path) -> None:
    with pytest.raises(StepError, match="ended with status 3"):
        chain(work, first_status=3)
    assert runs(work) == (1, 0)
    with pytest.raises(StepError):
        chain(work, first_status=3)
    assert runs(work) == (2, 0)


def test_a_verdict_may_be_negative(work: Path) -> None:
    with pytest.raises(StepError):
        chain(work, first_status=1)
    chain(work, first_status=1, verdict=True)
    with pytest.raises(StepError):
        chain(work, first_status=2, verdict=True)


def test_measurements_are_never_reused(work: Path) -> None:
    chain(work, always=True)
    assert [step.reused for step in chain(work, always=True).steps] == [True, False, True]
    assert runs(work) == (2, 1)


def test_what_a_step_replaces_is_removed_first_and_only_then(work: Path) -> None:
    stale = work / "demo" / "run"
    for expected in (False, True):
        pipeline = Pipeline(work / "demo")
        stale.mkdir(exist_ok=True)
        pipeline.run("first", ["tool", str(work / "first"), "0"], replaces=[stale], makes=[work / "first"])
        assert stale.exists() is expected
