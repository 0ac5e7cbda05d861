"""Scale-out: the Ray Serve deployment, with Ray where it is installed and a stand-in elsewhere, and the manifests."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.requests import Request
from test_serve import ORANGE, check, make_bundle

from edgedet import Detector, Error, InvalidInputError, read_image
from edgedet.cli import build_parser
from edgedet.serve.ray import Replica, detection_app

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("ray") / "tiny")


class FakeServe(types.ModuleType):
    """Of ray.serve, what is used: a decorated class that can be bound, with what was asked for."""

    def __init__(self) -> None:
        super().__init__("ray.serve")
        self.asked: dict[str, Any] = {}

    def deployment(self, target: type, **asked: Any) -> Any:
        self.asked = asked
        return types.SimpleNamespace(bind=lambda *arguments: (target, arguments))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    ray, serve = types.ModuleType("ray"), FakeServe()
    monkeypatch.setattr(ray, "serve", serve, raising=False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    return serve


def http(method: str, path: str, body: bytes = b"", **headers: str) -> Request:
    path, _, query = path.partition("?")
    chunks = [
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.request", "body": body[10:]},
    ]

    async def receive() -> Any:
        return chunks.pop(0)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": pairs}
    return Request({**scope, "server": ("x", 80), "scheme": "http", "root_path": ""}, receive)


def test_a_replica_answers_as_the_server_does(bundle: Path, fake: FakeServe) -> None:
    import json

    target, (options,) = detection_app(bundle, name="tiny", max_replicas=3, cpus=1, max_images=2, score=0.0)
    assert target is Replica
    assert fake.asked["autoscaling_config"]["max_replicas"] == 3
    assert fake.asked["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 0}
    expected = Detector(bundle, threads=1)(read_image(ORANGE))

    async def talk() -> None:
        replica = Replica(options)
        one = await replica(http("POST", "/v1/detect", ORANGE, content_type="image/png"))
        check(json.loads(one.body)["results"][0], expected)
        many = await asyncio.gather(*(replica(http("POST", "/v1/detect?score=0.5", ORANGE)) for _ in range(20)))
        for answer in many:
            check(json.loads(answer.body)["results"][0], expected.filter(0.5))
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(ORANGE).decode()]}
        infer = await replica(http("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [tensor]}).encode()))
        assert json.loads(infer.body)["outputs"][0]["data"] == [9]
        for request, status in (
            (http("GET", "/healthz"), 200),
            (http("GET", "/v1/models"), 200),
            (http("GET", "/v2/models/tiny"), 200),
            (http("GET", "/v1/detect"), 404),
            (http("POST", "/v2/models/other/infer", b"{}"), 404),
            (http("POST", "/v1/detect"), 400),
            (http("POST", "/v1/detect", b"no image"), 422),
            (http("POST", "/v1/detect?model=other", ORANGE), 404),
            (http("POST", "/v1/detect?timeout_ms=0", ORANGE), 504),
            (http("POST", "/v1/detect", b"x" * (33 << 20)), 413),
        ):
            assert (await replica(request)).status_code == status

    asyncio.run(talk())


def test_a_replica_goes_on_taking_requests_while_it_detects(
    bundle: Path, fake: FakeServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (options,) = detection_app(bundle, name="tiny", cpus=1, score=0.0)
    both = threading.Barrier(2)  # a call is held until the other one is there
    plain = Detector.detect_timed

    def held(self: Detector, images: Any, **given: Any) -> Any:
        both.wait(10)
        return plain(self, images, **given)

    async def talk() -> None:
        replica = Replica(options)
        monkeypatch.setattr(Detector, "detect_timed", held)
        answers = await asyncio.gather(*(replica(http("POST", "/v1/detect", ORANGE)) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]

    asyncio.run(talk())


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Error, match=r"edgedet\[ray\]"):
        detection_app("bundle")


def test_options_of_a_replica_are_checked(fake: FakeServe) -> None:
    with pytest.raises(InvalidInputError, match="max_images"):
        detection_app("bundle", max_images=0)


@pytest.mark.slow
def test_in_ray_itself(bundle: Path) -> None:
    """A cluster of this machine: HTTP in, Detector's numbers out, a killed replica replaced."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    serve = pytest.importorskip("ray.serve", reason="ray is installed without its extra serve")
    import json
    import urllib.request

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": 18431})
        serve.run(detection_app(bundle, name="tiny", cpus=1, score=0.0), route_prefix="/")
        request = urllib.request.Request("http://127.0.0.1:18431/v1/detect", data=ORANGE)
        with urllib.request.urlopen(request, timeout=60) as answer:
            check(json.loads(answer.read())["results"][0], Detector(bundle, threads=1)(read_image(ORANGE)))
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
    return {document["kind"]: document for document in documents}


def test_the_pod_runs_a_command_that_exists(manifests: dict[str, Any]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = build_parser().parse_args(container["args"])
    (port,) = container["ports"]
    assert (arguments.port, arguments.host) == (port["containerPort"], "0.0.0.0")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert arguments.bundles[0].startswith(mounts["bundles"] + "/")
    assert arguments.api_keys.startswith(mounts["keys"] + "/")
    assert Path(arguments.api_keys).name in manifests["Secret"]["stringData"]
    assert "sleep" in container["lifecycle"]["preStop"]["exec"]["command"]
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > wait + arguments.drain_delay + 30 + 5  # FrontOptions.drain_timeout
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_probes_ask_routes_that_need_no_key(manifests: dict[str, Any]) -> None:
    from edgedet.serve.gate import PUBLIC

    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        get = container[probe]["httpGet"]
        assert (get["path"], get["port"]) == (path, container["ports"][0]["name"])
        assert path in PUBLIC


def test_everything_points_at_the_same_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]


def test_the_autoscaler_reads_a_metric_that_exists(manifests: dict[str, Any]) -> None:
    from edgedet.serve.metrics import Metrics

    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = yaml.safe_load((ROOT / "deploy" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert name in rule["seriesQuery"]
    text = Metrics(queued=lambda: 3, in_flight=lambda: 0, ready=lambda: 1, buffered=lambda: 0).text()
    assert f"\n{name} 3\n" in text
