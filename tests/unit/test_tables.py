"""What the tables of every campaign share."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.errors import SampleError
from hpctem.structures.scenes import Column
from hpctem.tables import measure_image, metadata_rows, stack

COLUMNS = (
    Column("dose", "float64", "", ""),
    Column("frames", "int32", "", ""),
    Column("defocus", "float64", "A", ""),
    Column("source", "S8", "", ""),
)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_hold_the_values_of_their_own_column_and_type(count: int) -> None:
    images = [
        {"dose": 0.1 + n, "frames": 2 + n, "defocus": -7.3 * n, "source": f"gun{n}", "more": n}
        for n in range(count)
    ]
    rows = metadata_rows(images, COLUMNS)
    assert set(rows) == {f"/entry/metadata/{column.name}" for column in COLUMNS}
    for column in COLUMNS:
        row = rows[f"/entry/metadata/{column.name}"]
        expected = np.array([image[column.name] for image in images], column.dtype)
        assert row.dtype == expected.dtype and row.flags.c_contiguous
        np.testing.assert_array_equal(row, expected)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="defocus"):
        metadata_rows([{"dose": 1.0, "frames": 1, "source": ""}], COLUMNS)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_statistics_are_numpys_in_double_precision(dtype: str) -> None:
    image = (np.random.default_rng(1).random((70, 90)) * 1000 + 3e4).astype(dtype)
    found = measure_image(image)
    assert found["mean"] == image.mean(dtype=np.float64)
    assert found["standard_deviation"] == image.std(dtype=np.float64)
    assert (found["minimum"], found["maximum"]) == (image.min(), image.max())


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_image_with_a_pixel_that_is_no_number_fails(wrong: float) -> None:
    image = np.ones((8, 8), np.float32)
    image[3, 5] = wrong
    with pytest.raises(SampleError, match="NaN or infinity"):
        measure_image(image)


def test_a_single_array_is_stacked_without_a_copy() -> None:
    one, other = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    assert stack([one]).shape == (1, 2, 3) and np.shares_memory(stack([one]), one)
    np.testing.assert_array_equal(stack([one, other]), np.array([one, other]))
