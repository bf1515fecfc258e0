"""Label maps as the classes of pixels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from drawn_images import Drawn, make_images

from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError
from hpctem.learning.data.targets import find_classes
from hpctem.sections.training import Target

ONE, OTHER = Drawn(), Drawn(seed=2, first=50, kinds=("chalcogen", "metal", "adatom"))
BARE = Drawn(seed=3, labels=("instances",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets")
    make_images(folder / "one.hdf5", ONE)
    make_images(folder / "other.hdf5", OTHER)
    make_images(folder / "bare.hdf5", BARE)
    make_images(folder / "unlabelled.hdf5", Drawn(seed=4, labels=()))
    return folder


@pytest.fixture
def both(folder: Path) -> Iterator[Collection]:
    with open_collection([folder / "one.hdf5", folder / "other.hdf5"]) as opened:
        yield opened


def read(images: Collection, classes: dict, places: list[int]) -> np.ndarray:
    return find_classes(Target(classes=classes), images).read(images, places)


def numbers(images: Collection, place: int) -> np.ndarray:
    return (ONE, OTHER)[images.sources[place]].numbers(int(images.rows[place]))


@pytest.mark.parametrize("name", ["instances", "particles"])
def test_every_particle_is_of_its_class(both: Collection, name: str) -> None:
    """By the name of the map, or by that which viewers show."""
    found = read(both, {"particle": name}, [3, 20])
    assert found.dtype == np.uint8
    assert np.array_equal(found, [numbers(both, 3) % 3 > 0, numbers(both, 20) % 3 > 0])


def test_a_scaled_map_marks_from_half_of_its_full_value_on(both: Collection) -> None:
    (found,) = read(both, {"soft": "soft"}, [5])
    assert np.array_equal(found, numbers(both, 5) % 256 >= 127.5)


def test_classes_of_a_map_go_by_name_in_every_database(both: Collection) -> None:
    """`metal` is 1 in one database and 2 in the other."""
    found = read(both, {"metal": "atoms.metal", "chalcogen": "atoms.chalcogen"}, [0, 18])
    for place, (metal, chalcogen) in ((0, (1, 2)), (18, (2, 1))):
        value = numbers(both, place) % 5
        expected = np.select([value == metal, value == chalcogen], [1, 2])
        assert np.array_equal(found[int(place > 0)], expected)
    assert (read(both, {"any": "atoms"}, [0])[0] == np.isin(numbers(both, 0) % 5, [1, 2])).all()


def test_a_pixel_of_two_classes_is_of_the_later_one(both: Collection) -> None:
    (found,) = read(both, {"particle": "instances", "soft": "soft"}, [2])
    n = numbers(both, 2)
    assert np.array_equal(found, np.where(n % 256 >= 127.5, 2, np.where(n % 3 > 0, 1, 0)))
    (found,) = read(both, {"soft": "soft", "particle": "instances"}, [2])
    assert np.array_equal(found, np.where(n % 3 > 0, 2, np.where(n % 256 >= 127.5, 1, 0)))


def test_several_maps_make_one_class(both: Collection) -> None:
    classes = {"marked": ("atoms.metal", "instances")}
    (found,) = read(both, classes, [1])
    n = numbers(both, 1)
    assert np.array_equal(found, (n % 5 == 1) | (n % 3 > 0))


def test_databases_of_other_materials_share_a_class_by_several_maps(folder: Path) -> None:
    with open_collection([folder / "one.hdf5", folder / "bare.hdf5"]) as images:
        found = read(images, {"any": ("atoms.metal", "instances")}, [18])
        assert np.array_equal(found[0], BARE.numbers(0) % 3 > 0)


def test_names_keep_their_order(both: Collection) -> None:
    target = Target(classes={"b": "instances", "a": ("soft", "atoms")})
    classes = find_classes(target, both)
    assert classes.names == ("b", "a") and classes.count == 2
    assert classes.maps == (("instances",), ("soft", "atoms"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"x": "instance"}, r"target\.classes\.x: .*no label 'instance' \(nearest: instances\)"),
        ({"x": "atoms.metals"}, r"nearest: atoms\.metal"),
        ({"x": "instances.1"}, "holds no label 'instances.1'"),
        ({"x": "distance"}, "real numbers"),
        ({"x": ("instances", "gone")}, "no label 'gone'"),
        ({"x": ()}, "names no label map"),
    ],
)
def test_a_map_that_is_not_there_is_refused(both: Collection, classes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_classes(Target(classes=classes), both)


def test_a_database_without_the_map_is_named(folder: Path) -> None:
    with open_collection([folder / "one.hdf5", folder / "bare.hdf5"]) as images:
        with pytest.raises(ConfigError, match=r"bare\.hdf5 holds no label 'soft'"):
            find_classes(Target(classes={"x": "soft"}), images)
        # A database that gives no image needs none.
        assert find_classes(Target(classes={"x": "soft"}), images[:18]).count == 1
    with open_collection(folder / "unlabelled.hdf5") as images:
        with pytest.raises(ConfigError, match="holds no labels that mark pixels, so no 'soft'"):
            find_classes(Target(classes={"x": "soft"}), images)
