"""`hpctem evaluate` with networks whose weights are set by hand, against counts made here."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from drawn_images import Drawn, make_images

import hpctem
from hpctem.collection.collection import Collection
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.judging.evaluate import evaluate, find_worst, format_evaluation
from hpctem.learning.judging.judge import Record, Rules
from hpctem.learning.judging.plan import Request, prepare_evaluation
from hpctem.learning.networks.build import build_network
from hpctem.learning.prediction.inference import Tiling
from hpctem.learning.prediction.predict import Finding, predict
from hpctem.learning.prediction.predict import Request as Looked
from hpctem.learning.prediction.sources import Choice
from hpctem.learning.training.lesson import Kept
from hpctem.learning.training.model_folder import save_model
from hpctem.learning.training_file import read_training
from hpctem.parallel import Communicator

HPCTEM = Path(sys.executable).with_name("hpctem")
CONFIG = """
training: {name: bright, kind: KIND}
data: {databases: [none.hdf5]}
target: {classes: CLASSES}
network: {name: residual_unet, width: 2, dropout: 0.0}
schedule: {epochs: 1, batch: 1}
"""
SLOPE, BRIGHT, DARK = 60.0, 0.62, 0.08
LEFT = (1 + 1e-3) ** -2  # what four normalisations with a variance of 1 leave of a value
PARTICLES = {"particle": "instances"}
DEFECTS = {"metal": "atoms.metal", "vacancy": ["chalcogen_vacancy", "chalcogen_vacancy2"]}


def make_model(
    folder: Path, kind: str, classes: dict[str, Any], images: Mapping[str, Collection] | None = None
) -> Path:
    """A model that calls pixels above 0.62 of their image's range class 1, below 0.08 class 2.

    images: what it shall say that it has learnt from.
    """
    text = CONFIG.replace("KIND", kind).replace("CLASSES", json.dumps(classes))
    config = folder.with_suffix(".yaml")
    config.write_text(text)
    file = read_training(config, kind)
    network = build_network(file.config.network, len(classes))
    for layer in network.layers:
        if "conv" in type(layer).__name__.lower():
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])
    passed = {"down0_first": 0, "down0_second": 0, "up0_join_first": 2, "up0_join_second": 0}
    for name, channel in passed.items():
        (kernel,) = network.get_layer(name).get_weights()
        kernel[1, 1, channel, 0] = 1.0
        network.get_layer(name).set_weights([kernel])
    kernel, bias = network.get_layer("logits").get_weights()
    kernel[0, 0, 0] = (0.0, SLOPE / LEFT, -SLOPE / LEFT)[: len(bias)]
    bias[:] = (0.0, -SLOPE * BRIGHT, SLOPE * DARK)[: len(bias)]
    network.get_layer("logits").set_weights([kernel, bias])
    kept = Kept(
        {"network": network}, {"image": Prepare(False, "image")}, tuple(classes), None, (64, 64),
        images=images or {},
    )  # fmt: skip
    return save_model(folder, file, kept, {"train": "00"}, {})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    kinds = {"segmentation": PARTICLES, "defects": DEFECTS}
    return {kind: make_model(folder / kind, kind, classes) for kind, classes in kinds.items()}


def ask(model: Path, source: Path | list[Path], output: Path, **options: Any) -> Request:
    """A request that looks at each image once, whole: fast, and the same for this network."""
    sources = source if isinstance(source, list) else [source]
    choice = Choice(
        **{key: options.pop(key) for key in list(options) if key in Choice.__annotations__}
    )
    looked = Looked(
        model, tuple(map(str, sources)), output, choice, Tiling(whole=True, symmetries=False),
        options.pop("finding", Finding()),
    )  # fmt: skip
    return Request(looked, **options)


def run(*given: Any, **options: Any) -> dict[str, Any]:
    report = evaluate(ask(*given, **options), Communicator())
    assert report is not None
    return report


def see(image: np.ndarray) -> np.ndarray:
    """What the network calls each pixel, in NumPy: 0, 1, 2."""
    values = image.astype(np.float64)
    values = (values - values.min()) / (values.max() - values.min())
    return np.where(values > BRIGHT, 1, np.where(values < DARK, 2, 0))


@pytest.fixture(scope="module")
def judged_particles(
    models: dict[str, Path], small_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("judged") / "particles"
    report = run(
        models["segmentation"], small_database, folder, by=("dose", "defocus", "defocus:-20,0,20 A")
    )
    return folder, report


def test_pixels_are_those_counted_by_hand(judged_particles: tuple, small_database: Path) -> None:
    _, report = judged_particles
    with h5py.File(small_database) as file:
        images = file["/entry/images/intensity"][()]
        truth = file["/entry/labels/instances"][()] > 0
    found = np.array([see(image) == 1 for image in images])
    right, false, missed = (
        int(np.count_nonzero(one)) for one in (found & truth, found & ~truth, ~found & truth)
    )
    one = report["pixels"]["particle"]
    assert (one["true_positives"], one["false_positives"], one["false_negatives"]) == (
        right, false, missed,
    )  # fmt: skip
    assert one["f1"]["value"] == pytest.approx(right / (right + (false + missed) / 2))
    assert one["iou"]["value"] == pytest.approx(right / (right + false + missed))
    each = [
        2 * (f & t).sum() / (f.sum() + t.sum()) for f, t in zip(found, truth, strict=True)
    ]  # Dice
    assert one["images"]["f1"]["value"] == pytest.approx(np.mean(each))
    assert one["f1"]["low"] < one["f1"]["value"] < one["f1"]["high"]
    assert report["pixel_confusion"] == [
        [int((~found & ~truth).sum()), false], [missed, right]
    ]  # fmt: skip
    share = truth.mean()
    everything = report["baselines"]["all particle"]["f1"]["value"]
    assert everything == pytest.approx(2 * share / (1 + share))
    best = max(one["f1"]["value"] for one in report["baselines"].values())
    assert report["above_baselines"] == pytest.approx(one["f1"]["value"] - best)


def test_curves_hold_the_images_of_each_condition(
    judged_particles: tuple, small_database: Path
) -> None:
    _, report = judged_particles
    with h5py.File(small_database) as file:
        images = file["/entry/images/intensity"][()]
        truth = file["/entry/labels/instances"][()] > 0
        dose, defocus = (file[f"/entry/metadata/{name}"][()] for name in ("dose", "defocus"))
    points = report["curves"]["dose"]["points"]
    assert [point["images"] for point in points] == [16, 16]
    assert [point["mean"] for point in points] == [400, 1600]
    for point in points:
        chosen = dose == point["mean"]
        found = np.array([see(image) == 1 for image in images[chosen]])
        known = 2 * (found & truth[chosen]).sum() / (found.sum() + truth[chosen].sum())
        assert point["pixels"]["particle"]["f1"]["value"] == pytest.approx(known)
    # The last of the two curves over defocus is that with edges, in angstrom.
    points = report["curves"]["defocus"]["points"]
    assert [point["images"] for point in points] == [
        int(((defocus >= low) & (defocus < high)).sum()) for low, high in ((-20, 0), (0, 20))
    ]


def test_a_column_of_many_values_is_cut_into_eight_bins_of_as_many_images(
    models: dict[str, Path], small_database: Path, tmp_path: Path
) -> None:
    plan = prepare_evaluation(
        ask(models["segmentation"], small_database, tmp_path / "x", by=("defocus", "mean"))
    )
    for strata in plan.strata:
        assert strata.count == 8 and (strata.codes >= 0).all()
        assert np.bincount(strata.codes).tolist() == [4] * 8


def test_images_of_one_structure_are_drawn_together_and_cut(judged_particles: tuple) -> None:
    """8 structures are few: each is cut into 3 x 3 blocks, which its four images share."""
    _, report = judged_particles
    drawn = report["settings"]["intervals"]["drawn"]
    assert drawn == "72 blocks (3 x 3 of each of 8 structures)"


def test_the_table_of_images_agrees(judged_particles: tuple, small_database: Path) -> None:
    folder, _ = judged_particles
    with h5py.File(small_database) as file:
        image = file["/entry/images/intensity"][5]
        truth = file["/entry/labels/instances"][5] > 0
    found = see(image) == 1
    with (folder / "images.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 32 and lines[5]["row"] == "5"
    known = (found & truth).sum() / found.sum()
    assert float(lines[5]["pixel precision particle"]) == pytest.approx(known)


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


def test_the_page_needs_nothing_else_and_says_the_scores(judged_particles: tuple) -> None:
    folder, report = judged_particles
    page = read_page(folder / "evaluation.html")
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "script" not in page.tags and page.tags.count("svg") == 2
    assert page.tags.count("figure") == 2 * 6
    said = " ".join(page.words)
    value = report["pixels"]["particle"]["f1"]
    assert f"{value['value']:.3f} ({value['low']:.3f} … {value['high']:.3f})" in said
    assert "all particle" in said and "Otsu" in said
    assert re.search(r"nan|None", said.replace("None of", "")) is None


def match_by_hand(truth: np.ndarray, found: np.ndarray, radius: float) -> list[tuple[int, int]]:
    """All pairs at once, dense: what may not be costs more than everything together."""
    distances = np.linalg.norm(truth[:, None] - found[None], axis=2)
    costs = np.where(distances <= radius, distances, 1e6)
    return [(i, j) for i, j in zip(*linear_sum_assignment(costs), strict=True) if costs[i, j] < 1e6]


def test_positions_are_those_matched_by_hand(
    models: dict[str, Path], small_scans: Path, tmp_path: Path
) -> None:
    border, radius = 6.0, 1.5
    report = run(
        models["defects"], small_scans, tmp_path / "judged",
        rules=Rules(radius, (border, "px")), by=("contamination_thickness",),
    )  # fmt: skip
    predict(ask(models["defects"], small_scans, tmp_path / "found").looked, Communicator())
    with (tmp_path / "found/positions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    found = np.array([[float(line["pixel_x"]), float(line["pixel_y"])] for line in lines])
    rows = np.array([int(line["row"]) for line in lines])
    kinds = np.array([line["class"] for line in lines])
    counts = {name: np.zeros(3, int) for name in DEFECTS}
    for row, truths in list_truths(small_scans).items():
        for name, truth in truths.items():
            mine = found[(rows == row) & (kinds == name)]
            pixel = truths["pixel"]
            if name == "pixel":
                continue
            pairs = match_by_hand(truth, mine, radius / pixel)

            def within(points: np.ndarray) -> np.ndarray:
                return ((points >= border - 0.5) & (points < 63.5 - border)).all(axis=1)

            right = sum(within(truth)[i] for i, _ in pairs)
            paired = {j for _, j in pairs}
            false = sum(ok and j not in paired for j, ok in enumerate(within(mine)))
            counts[name] += (right, false, within(truth).sum() - right)
    for name, known in counts.items():
        one = report["positions"][name]
        told = [one["true_positives"], one["false_positives"], one["false_negatives"]]
        assert told == known.tolist(), name
    assert counts["metal"][0] > 100 and counts["vacancy"].sum() > 5
    both = report["positions"]["all classes"]
    assert both["true_positives"] == sum(int(known[0]) for known in counts.values())
    recall = counts["metal"][0] / (counts["metal"][0] + counts["metal"][2])
    assert report["positions"]["metal"]["recall"]["value"] == pytest.approx(recall)
    page = read_page(tmp_path / "judged/evaluation.html")
    assert page.tags.count("figure") == 6 and "missed" in " ".join(page.words)


def list_truths(path: Path) -> dict[int, dict[str, Any]]:
    """Of each image of a database of scans: positions of metal columns and of vacancies."""
    found: dict[int, dict[str, Any]] = {}
    with h5py.File(path) as file:
        pixel = file["/entry/metadata/pixel_size"][()]
        counts = {
            table: file[f"/entry/structures/{table}_listed"][()] for table in ("columns", "defects")
        }
        for row in range(len(pixel)):
            structure, image = divmod(row, 4)
            one: dict[str, Any] = {"pixel": pixel[row]}
            for table, name, column, wanted in (
                ("columns", "metal", "site_class", ["1"]),
                ("defects", "vacancy", "kind", ["chalcogen_vacancy", "chalcogen_vacancy2"]),
            ):
                group = file[f"/entry/{table}"]
                each = len(group["image"]) // len(counts[table])
                part = slice(structure * each, structure * each + counts[table][structure])
                values = group[column][part]
                names = h5py.check_enum_dtype(group[column].dtype)
                told = {number: name for name, number in names.items()} if names else {}
                mine = np.array([told.get(v, str(v)) in wanted for v in values.tolist()], bool)
                mine &= group["image"][part] == image
                one[name] = np.stack([group[f"pixel_{axis}"][part][mine] for axis in "xy"], axis=1)
            found[row] = one
    return found


@pytest.fixture
def scan_with_three_spots(tmp_path: Path) -> Callable[..., Path]:
    """An image of 80 x 96 pixels, 0.2 A each, with three bright spots and one at its edge."""
    y, x = np.mgrid[:80, :96]
    image = np.zeros((80, 96))
    for px, py in ((30, 20), (60, 25), (45, 50), (3, 40)):
        image += np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.5**2))
    np.save(tmp_path / "spots.npy", (1000 * image).astype(np.float32))
    return tmp_path / "spots.npy"


def write_labels(path: Path, *lines: str) -> str:
    path.write_text("\n".join(("class,pixel_x,pixel_y", *lines)) + "\n")
    return str(path)


def test_labelled_images_are_judged_and_what_is_unsure_does_not_count(
    models: dict[str, Path], scan_with_three_spots: Path, tmp_path: Path
) -> None:
    labels = write_labels(
        tmp_path / "labels.csv",
        "# columns by intensity, two thresholds",
        "metal,31,21",  # right
        "ambiguous,60,25",  # found, but nobody is sure
        "metal,80,60",  # missed
        "ambiguous,80,20",  # not found: not missed either
        "metal,4,10",  # missed, but in the border
    )
    report = run(
        models["defects"], scan_with_three_spots, tmp_path / "judged",
        pixel_size=0.2, truths=(labels,), rules=Rules(border=(8.0, "px")),
    )  # fmt: skip
    one = report["positions"]["metal"]
    told = [one["true_positives"], one["false_positives"], one["false_negatives"]]
    assert told == [1, 1, 1]  # false is the spot at (45, 50), which no label names
    assert "pixels" not in report
    text = format_evaluation(report, tmp_path)
    assert "positions, metal: f1 0.500" in text
    assert report["settings"]["intervals"]["drawn"].startswith("49 blocks (7 x 7")
    assert one["f1"]["low"] is not None


def test_rows_of_a_labelled_image_are_counted_from_its_top(
    models: dict[str, Path], scan_with_three_spots: Path, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "labels.csv", "metal,45,50", "metal,30,20")
    report = run(
        models["defects"], scan_with_three_spots, tmp_path / "judged", rows=(32, None),
        pixel_size=0.2, truths=(labels,), rules=Rules(border=(6.0, "px")),
    )  # fmt: skip
    one = report["positions"]["metal"]
    told = [one["true_positives"], one["false_positives"], one["false_negatives"]]
    assert told == [1, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_masks_of_labelled_images_are_compared_pixel_by_pixel(
    models: dict[str, Path], scan_with_three_spots: Path, tmp_path: Path, suffix: str
) -> None:
    from PIL import Image

    image = np.load(scan_with_three_spots)
    mask = np.roll(see(image) == 1, 1, axis=1)
    labels = tmp_path / f"mask{suffix}"
    if suffix == ".png":
        Image.fromarray((255 * mask).astype(np.uint8)).save(labels)
    else:
        np.save(labels, mask)
    report = run(
        models["segmentation"], scan_with_three_spots, tmp_path / "judged", truths=(str(labels),)
    )
    found = see(image) == 1
    known = 2 * (found & mask).sum() / (found.sum() + mask.sum())
    assert report["pixels"]["particle"]["f1"]["value"] == pytest.approx(known)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("metal,1",), "no two numbers"),
        (("metal,x,2",), r"line 2: pixel_x and pixel_y are 'x', '2'"),
        (("metall,1,2",), "has no class 'metall'; did you mean 'metal'"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_their_line(
    models: dict[str, Path], scan_with_three_spots: Path, tmp_path: Path, lines: tuple, message: str
) -> None:
    labels = write_labels(tmp_path / "labels.csv", *lines)
    with pytest.raises(ConfigError, match=message):
        run(models["defects"], scan_with_three_spots, tmp_path / "judged", truths=(labels,))
    assert not (tmp_path / "judged").exists()


def test_bad_requests_are_refused_before_any_work(
    models: dict[str, Path],
    scan_with_three_spots: Path,
    small_scans: Path,
    small_database: Path,
    tmp_path: Path,
) -> None:
    model, spots, folder = models["defects"], scan_with_three_spots, tmp_path / "judged"
    labels = write_labels(tmp_path / "labels.csv", "metal,30,20")
    other = tmp_path / "mask.npy"
    np.save(other, np.zeros((10, 10), np.uint8))
    header = tmp_path / "header.csv"
    header.write_text("x,y\n1,2\n")
    for given, options, message in (
        (spots, {}, "1 image files and 0 files of labels: give --truth"),
        ([spots, small_scans], {"truths": (labels,)}, "apart from image files"),
        (small_scans, {"truths": (labels,)}, "databases hold their labels themselves"),
        (spots, {"truths": (labels,), "by": ("dose",)}, "image files have no columns"),
        (spots, {"truths": (labels,), "learnt": True}, "--all is for databases"),
        (spots, {"truths": ("none.csv",)}, "labels none.csv do not exist"),
        (spots, {"truths": (str(spots.with_suffix(".yaml")),)}, "do not exist"),
        (spots, {"truths": (str(other),)}, r"is \(10, 10\) pixels, the image \(80, 96\)"),
        (spots, {"truths": (str(header),)}, "no column 'pixel_x'"),
        (spots, {"truths": (labels,)}, "give --pixel-size"),
        (small_scans, {"by": ("dosis",)}, "no column 'dosis'.*nearest: dose"),
        (small_scans, {"rules": Rules(border=(32.0, "px"))}, "leaves nothing of an image of 64"),
        (small_database, {}, "holds no label 'atoms.metal'; there is instances"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(model, given, folder, **options)
        assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="already holds other files"):
        run(model, small_scans, folder)
    assert (folder / "thesis.tex").read_text() == "mine"


def test_the_worst_images_come_first_and_those_without_a_score_not_at_all() -> None:
    def make(right: int, missed: int) -> Record:
        tally = np.array([[[right, 0, missed], [right, 0, missed]]])
        return Record("x", None, positions=tally)

    records = [make(5, 5), make(0, 0), make(1, 9), make(10, 0), Record("x", None)]
    assert find_worst(records) == [2, 0, 3]


def test_two_ranks_write_what_one_writes(
    models: dict[str, Path],
    small_scans: Path,
    tmp_path: Path,
    run_mpi: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    command = [
        HPCTEM, "evaluate", models["defects"], small_scans, "--whole", "--no-symmetries",
        "--by", "current", "--border", "1 A", "-o",
    ]  # fmt: skip
    both = run_mpi(2, *command, tmp_path / "two")
    assert both.returncode == 0, both.stderr
    rules = Rules(border=(1.0, "A"))
    alone = run(models["defects"], small_scans, tmp_path / "one", by=("current",), rules=rules)
    for name in ("evaluation.json", "images.csv", "evaluation.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    told = alone["positions"]["metal"]["f1"]
    assert f"positions, metal: f1 {told['value']:.3f}" in both.stdout
    assert both.stdout.count("32 images of 8 structures") == 1


def test_rejected_translations_are_judged_only_when_asked_for(
    models: dict[str, Path], tmp_path: Path
) -> None:
    translated = tmp_path / "translated.hdf5"
    make_images(translated, Drawn(shape=(32, 48), seed=3, accepted=True))

    def list_rows(**options: Any) -> list[int | None]:
        request = ask(models["segmentation"], translated, tmp_path / "judged", **options)
        return [source.row for source in prepare_evaluation(request).sources]

    assert list_rows() == [row for row in range(18) if row % 3]
    assert list_rows(where="accepted = 0") == list(range(0, 18, 3))
    with pytest.raises(ConfigError, match="none of 6 translated images was accepted"):
        list_rows(where="row % 3 = 0")


LEARNT, HELD_OUT = [0, 2, 3, 6], [1, 4, 5, 7]  # structures, of four images each


def choose_rows(structures: list[int]) -> np.ndarray:
    return (4 * np.array(structures)[:, None] + np.arange(4)).ravel()


@pytest.fixture(scope="module")
def trained(small_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says that it has learnt from structures 0, 2, 3 and 6, without dose 400."""
    everything = hpctem.open(small_database)
    rows = choose_rows(LEARNT)
    images = {
        "training": everything.take(rows).where("dose > 1000"),
        "validation": everything.take(choose_rows(HELD_OUT)),
    }
    folder = tmp_path_factory.mktemp("trained") / "gold"
    return make_model(folder, "segmentation", PARTICLES, images)


def test_a_model_is_judged_on_structures_that_it_has_not_learnt_from(
    trained: Path, small_database: Path, tmp_path: Path
) -> None:
    report = run(trained, small_database, tmp_path / "judged", by=("dose",))
    rows = choose_rows(HELD_OUT)
    with h5py.File(small_database) as file:
        images = file["/entry/images/intensity"][rows]
        truth = file["/entry/labels/instances"][rows] > 0
    found = np.array([see(image) == 1 for image in images])
    known = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert report["pixels"]["particle"]["f1"]["value"] == pytest.approx(known)
    everything = report["baselines"]["all particle"]["f1"]["value"]
    assert everything == pytest.approx(2 * truth.mean() / (1 + truth.mean()))
    # Also images of learnt structures at the dose that it was not given are left out.
    counts = report["images"]
    assert (counts["count"], counts["structures"]) == (16, 4)
    assert (counts["learnt_from"], counts["left_out"]) == (16, 16)
    assert sum(point["images"] for point in report["curves"]["dose"]["points"]) == 16
    with (tmp_path / "judged/images.csv").open(newline="") as stream:
        assert [int(line["row"]) for line in csv.DictReader(stream)] == rows.tolist()
    told = "bright has learnt from the structures of 16 more: these are left out, --all judges"
    assert told in format_evaluation(report, tmp_path)
    assert told in " ".join(read_page(tmp_path / "judged/evaluation.html").words)


def test_all_judges_also_what_was_learnt_from_and_says_so(
    trained: Path, small_database: Path, tmp_path: Path
) -> None:
    report = run(trained, small_database, tmp_path / "judged", learnt=True)
    assert report["images"]["count"] == 32
    assert (report["images"]["learnt_from"], report["images"]["left_out"]) == (16, 0)
    assert "learnt from the structures of 16 of these" in format_evaluation(report, tmp_path)


def test_structures_are_known_in_another_database(
    trained: Path, small: Path, tmp_path: Path
) -> None:
    """The same atoms, simulated in another campaign with other sizes, foci and phonons."""
    plan = prepare_evaluation(ask(trained, small, tmp_path / "judged"))
    assert [source.row for source in plan.sources] == choose_rows([1, 4, 5]).tolist()
    assert plan.familiar == 12 and len(np.unique(plan.groups)) == 3


def test_a_database_that_was_wholly_learnt_from_is_judged_only_when_asked_for(
    trained: Path, small_database: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "judged"
    with pytest.raises(ConfigError, match=r"learnt from the structures of all 4 images .* --all"):
        run(trained, small_database, folder, where="row < 4")
    assert not folder.exists()
    report = run(trained, small_database, folder, where="row < 4", learnt=True)
    assert report["images"]["count"] == 4


def test_a_model_that_does_not_say_what_it_learnt_from_is_told_of(
    models: dict[str, Path], trained: Path, small_database: Path, small_scans: Path, tmp_path: Path
) -> None:
    report = run(models["segmentation"], small_database, tmp_path / "old", where="row < 4")
    assert report["images"]["learnt_from"] is None and report["images"]["left_out"] == 0
    assert "does not say which images it has learnt from" in format_evaluation(report, tmp_path)
    report = run(trained, small_database, tmp_path / "new", where="row // 4 = 1")
    assert report["images"]["learnt_from"] == 0
    assert "the structures of none of these" in format_evaluation(report, tmp_path)
