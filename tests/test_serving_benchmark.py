"""The load benchmark, on a model of a few nodes: what it counts, not how fast it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_serve import make_bundle

ROOT = Path(__file__).resolve().parent.parent


def test_serving_benchmark(tmp_path: Path) -> None:
    bundle, out = make_bundle(tmp_path / "tiny"), tmp_path / "serving.json"
    small = ["--count", "300", "--rounds", "1", "--many", "200", "--seconds", "0.5", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.serving", str(bundle), *small]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    for kind in ("jpeg", "raw"):
        assert report["throughput"][kind]["served_per_second"] > 0
    assert set(report["at_80_percent"]["statuses"]) == {"200"}
    assert set(report["at_200_percent"]["statuses"]) <= {"200", "429"}
    assert report["killed_worker"]["statuses"] == {"200": 300}
    stop = report["sigterm"]
    assert stop["exit"] == 0
    assert stop["accepted"] == stop["answered"] >= 100
    assert len(report["memory"]["rss_mb"]) == 11
