"""The linter of datasets: each kind of finding is found where it was planted, and nothing where all is well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from training_data import make_dataset

from edgedet import ImageError, read_image
from edgedet.images import SUFFIXES
from training.cli import main
from training.data.check import KINDS, CheckReport, check_dataset
from training.data.check_pictures import choose_samples
from training.data.duplicates import alike_images, equal_images, fingerprint


def photo(seed: int, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """Smooth coloured noise: unlike any other seed, and compressible like a photo."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


class Planted:
    """A dataset of two splits with four good images each, into which a test plants what it looks for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for split, first in (("train", 0), ("val", 100)):
            self.documents[split] = {
                "images": [],
                "annotations": [],
                "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
            }
            for seed in range(first, first + 4):
                self.add(split, photo(seed))

    def add(self, split: str, pixels: NDArray[np.uint8], *, suffix: str = ".png", **options: Any) -> Path:
        """Adds an image with twelve boxes, six of each class."""
        document = self.documents[split]
        number = len(document["images"]) + 1
        file = self.root / split / "images" / f"{split}{number}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, **options)
        height, width = pixels.shape[:2]
        document["images"].append({"id": number, "file_name": file.name, "width": width, "height": height})
        for index in range(12):
            self.box(split, [7 * index, 8, 6, 20], image=number, category=index % 2)
        return file

    def box(self, split: str, box: list[float], *, image: int = 1, category: int = 0) -> None:
        annotations = self.documents[split]["annotations"]
        annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box})

    def check(self, **options: Any) -> CheckReport:
        for split, document in self.documents.items():
            (self.root / split / "instances.json").write_text(json.dumps(document))
        return check_dataset(self.root, **options)[0]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "data")


def found(report: CheckReport) -> dict[str, int]:
    return {f"{group.level} {group.kind}": group.count for group in report.findings}


def test_a_clean_dataset_has_no_findings(planted: Planted) -> None:
    calls: list[tuple[int, int]] = []
    report = planted.check(on_image=lambda done, total: calls.append((done, total)))
    assert report.findings == ()
    assert calls == [(done, 8) for done in range(1, 9)]
    train = report.splits["train"]
    assert (train.images, train.boxes, train.without_boxes, train.boxes_per_class) == (4, 48, 0, {"cat": 24, "dog": 24})
    assert (train.small, train.medium, train.large) == (48, 0, 0)
    assert (train.width.median, train.height.most, train.boxes_per_image.mean) == (96, 64, 12)
    assert (train.formats, train.modes) == ({"PNG": 4}, {"RGB": 4})


def test_small_boxes_are_judged_at_the_network_size(planted: Planted) -> None:
    planted.box("train", [1, 40, 0.5, 20])
    report = planted.check(size=96)  # one network pixel is one image pixel wide and two thirds of one high
    assert (report.splits["train"].below_pixel, report.splits["train"].below_stride) == (1, 0)
    assert found(report) == {"warning box-tiny": 1}
    coarse = planted.check(size=24).splits["train"]
    assert (coarse.below_pixel, coarse.below_stride) == (1, 49)  # 6 x 20 of 96 x 64 are 1.5 x 7.5 of 24 x 24
    assert planted.check(size=960).findings == ()


def test_pictures_in_two_splits_are_an_error(planted: Planted) -> None:
    planted.add("val", photo(1), compress_level=1)  # the same pixels in another file
    planted.add("val", photo(2), suffix=".jpg", quality=40)
    planted.add("val", np.asarray(Image.fromarray(photo(3)).resize((192, 128))))
    report = planted.check()
    assert found(report) == {"error leak": 3}
    (leak,) = report.findings
    assert leak.examples[0] == "train: train2.png, val: val5.png have the same pixels; keep them in one split"
    assert leak.examples[1] == "train: train3.png, val: val6.jpg look the same; keep them in one split"


def test_pictures_twice_in_a_split_are_a_warning(planted: Planted) -> None:
    planted.add("train", photo(1))
    planted.add("train", (photo(2) * 0.9).astype(np.uint8))
    assert found(planted.check()) == {"warning duplicate": 2}


def test_boxes(planted: Planted) -> None:
    planted.box("train", [0, 8, 6, 20.2])  # IoU 0.99 with the first box, of the same class
    planted.box("train", [7, 8, 6, 20])  # on a box of the other class: no duplicate
    planted.box("train", [90, 40, 20, 10])
    planted.box("train", [120, 40, 20, 10])
    planted.box("train", [50, 40, 0, 10])
    report = planted.check()
    assert found(report) == {"warning box-dropped": 2, "warning box-clipped": 1, "warning box-duplicate": 1}
    assert "[120, 40, 20, 10] has no area in the 96x64 pixels of train1.png" in report.findings[0].examples[0]


def test_classes(planted: Planted) -> None:
    for split in planted.documents:
        planted.documents[split]["categories"] += [{"id": 7, "name": "cow"}, {"id": 8, "name": "emu"}]
    planted.box("train", [10, 40, 9, 9], category=7)
    report = planted.check()
    assert found(report) == {"warning class-absent": 2, "warning class-rare": 1, "note category-gaps": 2}
    assert report.findings[0].examples == ("train: class emu has no boxes", "val: class cow has no boxes")
    assert report.findings[1].examples == ("class cow has 1 boxes to learn from; expected 20 or more",)


def test_files(planted: Planted) -> None:
    folder = planted.root / "train" / "images"
    planted.add("train", photo(20)).write_bytes((folder / "train1.png").read_bytes()[:300])
    planted.add("train", photo(21)).unlink()
    planted.documents["train"]["images"][1]["width"] = 97
    (folder / "stray.jpg").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 8
    planted.add("val", photo(22), suffix=".jpg", exif=exif)
    planted.documents["val"]["images"][-1].update(width=64, height=96)
    planted.add("val", photo(23)[:, :, 0])
    planted.add("val", photo(24, width=400, height=33))
    report = planted.check()
    assert found(report) == {
        "error missing-image": 1,
        "error broken-image": 1,
        "error image-size": 1,
        "warning box-dropped": 2,
        "warning box-clipped": 1,
        "warning image-odd": 1,
        "warning unlisted-image": 1,
        "note rotated": 1,
        "note not-rgb": 1,
    }
    assert "expected 97x64 pixels as the annotations state, got 96x64" in report.findings[2].examples[0]


def test_entries_that_cannot_be_used_do_not_hide_the_others(planted: Planted) -> None:
    train = planted.documents["train"]
    train["images"].append({"id": 1, "file_name": "x.png", "width": 5, "height": 5})
    train["images"].append({"id": "one"})
    train["annotations"] += [{"image_id": 99, "category_id": 0, "bbox": [0, 0, 1, 1]}, {"image_id": 1}]
    planted.documents["val"]["annotations"][0]["bbox"] = [5, 5, -2, 5]
    report = planted.check()
    assert found(report) == {
        "error image-entry": 2,
        "error box-entry": 2,
        "error evaluation": 1,
        "warning box-dropped": 1,
    }
    assert report.splits["train"].boxes == 48


def test_a_split_that_cannot_be_read_is_an_error_beside_the_others(planted: Planted) -> None:
    planted.check()
    (planted.root / "val" / "instances.json").write_text('{"images": [')
    report = check_dataset(planted.root)[0]
    assert found(report) == {"error unreadable": 1}
    assert list(report.splits) == ["train"]


def test_yolo_labels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    for index in range(3):
        Image.fromarray(photo(index)).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"GIF89a")
    (tmp_path / "labels" / "0.txt").write_text("0 .5 .5 .2 .2\n" * 2 + "3 .5 .5 .2 .2\n0 .5 .5\n")
    (tmp_path / "labels" / "1.txt").write_bytes(b"\xff")
    (tmp_path / "labels" / "lost.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "labels" / "classes.txt").write_text("cat\n")
    report, datasets = check_dataset(tmp_path)
    assert found(report) == {
        "error broken-image": 1,
        "error label-file": 1,
        "error label-row": 2,
        "warning box-duplicate": 1,
        "warning class-rare": 1,
        "warning unlisted-image": 1,
        "warning unused-labels": 1,
    }
    assert (datasets["train"].report.boxes, datasets["train"].report.without_boxes) == (2, 2)


def test_flat_pictures_are_duplicates_only_if_equal() -> None:
    flat = [np.full((20, 30, 3), level, np.uint8) for level in (10, 12, 10)]
    prints = [fingerprint(image) for image in flat]
    assert equal_images(prints) == [[0, 2]]
    assert alike_images(prints) == []


def test_hashes_are_compared_as_by_hand() -> None:
    """Against the distance of every pair, on hashes clustered around a few."""
    from training.data.duplicates import _close_hashes

    rng = np.random.default_rng(5)
    centres = [int(value) for value in rng.integers(0, 2**63, 8, dtype=np.uint64)]
    hashes = sorted({centres[i % 8] ^ sum(1 << int(b) for b in rng.integers(0, 64, i % 5)) for i in range(300)})
    expected = [
        (one, other) for i, one in enumerate(hashes) for other in hashes[i + 1 :] if (one ^ other).bit_count() <= 3
    ]
    assert len(expected) > 50
    assert _close_hashes(hashes) == expected


def test_samples_show_every_class(planted: Planted) -> None:
    planted.documents["train"]["categories"].append({"id": 2, "name": "rare"})
    planted.box("train", [10, 40, 9, 9], image=4, category=2)
    planted.check()
    dataset = check_dataset(planted.root)[1]["train"]
    assert [sample.image_id for sample in choose_samples(dataset, 1)] == [4]
    assert [sample.image_id for sample in choose_samples(dataset, 3)] == [4, 1, 2]
    assert len(choose_samples(dataset, 16)) == 4


def test_the_command_reports_draws_and_ends_with_its_verdict(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.check()
    pictures, file = tmp_path / "pictures", tmp_path / "report.json"
    command = ["data", "check", str(planted.root), "--pictures", str(pictures), "--json", str(file)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "no errors, no warnings" in output
    assert "\x1b" not in output  # plain where it is piped
    assert sorted(path.name for path in pictures.iterdir()) == [
        "box_sizes.png", "class_balance.png", "samples_train.png", "samples_val.png",
    ]  # fmt: skip
    sheet = read_image(pictures / "samples_train.png")
    assert sheet.std() > 20
    assert json.loads(file.read_text())["splits"]["train"]["boxes"] == 48

    planted.add("val", photo(1))
    planted.check()
    assert main(command) == 1
    assert "error: pictures that are in more than one split: 1 [leak]" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert (content["errors"], content["warnings"], content["findings"][0]["kind"]) == (1, 0, "leak")

    assert main(["data", "check", str(tmp_path / "no")]) == 2
    assert "which does not exist; check the path" in capsys.readouterr().err


def test_the_tests_own_dataset(tmp_path: Path) -> None:
    """Few boxes, and grey images of which some are alike; nothing that stops training."""
    report, _ = check_dataset(make_dataset(tmp_path))
    assert set(found(report)) <= {"warning class-rare", "warning duplicate", "error leak", "note category-gaps"}
    assert report.splits["train"].boxes == 12


def test_every_odd_file_is_judged(shared: Path, tmp_path: Path) -> None:
    """Bombs, truncated, corrupt and 16-bit files: those that the reader refuses are found, all others are not."""
    files = sorted(f for f in (shared / "data" / "odd_images").iterdir() if f.suffix.lower() in SUFFIXES)
    images, refused = [], 0
    for number, file in enumerate(files, start=1):
        height, width = 1, 1
        try:
            height, width = read_image(file).shape[:2]
        except ImageError:
            refused += 1
        images.append({"id": number, "file_name": str(file), "width": width, "height": height})
    document = {
        "images": images,
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"image_id": entry["id"], "category_id": 1, "bbox": [0, 0, 1, 1]} for entry in images],
    }
    (tmp_path / "odd.json").write_text(json.dumps(document))
    counts = found(check_dataset(tmp_path / "odd.json")[0])
    assert refused > 20
    assert counts["error broken-image"] == refused
    assert counts["note rotated"] > 10
    assert counts["note not-rgb"] > 100
    assert "error image-size" not in counts


def test_real_datasets_are_clean(shared: Path) -> None:
    report, _ = check_dataset(shared / "data" / "bccd")
    assert report.findings == ()
    assert report.splits["val"].boxes_per_class == {"Platelets": 69, "RBC": 805, "WBC": 71}


def test_every_kind_has_a_meaning() -> None:
    """The kinds that the readers use, found in their sources, are those that the report explains."""
    folder = Path(__file__).resolve().parent.parent / "python" / "training" / "data"
    used = set()
    for name in ("coco.py", "yolo.py", "dataset.py", "check.py"):
        text = (folder / name).read_text()
        used |= set(re.findall(r'Finding\(\s*"(?:error|warning|note)",\s+"([a-z-]+)"', text))
        used |= set(re.findall(r'\.entry\("([a-z-]+)"\)', text))
    assert used | {"leak", "duplicate", "box-dropped", "box-clipped"} == set(KINDS)
