"""Checkpoints: what was written is read back, bit for bit, and no death leaves half of one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hpctem.errors import ConfigError, MachineError
from hpctem.learning.training.checkpoints import (
    Place,
    list_checkpoints,
    load_best,
    load_checkpoint,
    restore,
    save_best,
    save_checkpoint,
)

PLACE = Place(3, 17, 40, 2, {"loss": 0.1 + 0.2, "accuracy": 1 / 3}, 1.5, 0.25, 0.7, 2)


def make_variables(seed: int = 0) -> dict[str, tf.Variable]:
    """Variables of the types that networks and optimisers have."""
    generator = np.random.default_rng(seed)
    return {
        "network/0000/kernel": tf.Variable(generator.normal(size=(3, 3, 1, 4)).astype(np.float32)),
        "optimiser/0000": tf.Variable(generator.integers(2**60), dtype=tf.int64),
        "optimiser/0001": tf.Variable(generator.normal(size=5).astype(np.float16)),
        "seeds": tf.Variable(generator.integers(2**32, size=2, dtype=np.uint32)),
        "nothing": tf.Variable(np.zeros((0, 3), np.float32)),
    }


def test_variables_and_place_come_back_bit_for_bit(tmp_path: Path) -> None:
    written = make_variables()
    save_checkpoint(tmp_path, PLACE, written)
    found = load_checkpoint(tmp_path)
    assert found is not None and found[0] == PLACE
    others = make_variables(seed=1)
    restore(others, found[1])
    for name, variable in written.items():
        assert others[name].dtype == variable.dtype and others[name].shape == variable.shape
        assert others[name].numpy().tobytes() == variable.numpy().tobytes(), name


def test_a_checkpoint_is_an_npz_file_that_numpy_reads(tmp_path: Path) -> None:
    variables = make_variables()
    path = save_checkpoint(tmp_path, PLACE, variables)
    with np.load(path) as archive:
        for name, variable in variables.items():
            assert np.array_equal(archive[name], variable.numpy())


def test_equal_variables_are_equal_bytes(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path / "a", PLACE, make_variables())
    second = save_checkpoint(tmp_path / "b", PLACE, make_variables())
    assert first.read_bytes() == second.read_bytes()


def test_the_last_three_are_kept_and_the_best(tmp_path: Path) -> None:
    save_best(tmp_path, Place(epoch=1), make_variables())
    for epoch in range(12):
        save_checkpoint(tmp_path, Place(epoch=epoch), make_variables())
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["00000010.npz", "00000011.npz", "00000012.npz"]
    found, best = load_checkpoint(tmp_path), load_best(tmp_path)
    assert found is not None and found[0].epoch == 11
    assert best is not None and best[0].epoch == 1
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted([*names, "best.npz"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_checkpoint_is_passed_over_and_told(tmp_path: Path, share: float) -> None:
    save_checkpoint(tmp_path, Place(epoch=1), make_variables())
    last = save_checkpoint(tmp_path, Place(epoch=2), make_variables())
    whole = last.read_bytes()
    last.write_bytes(whole[: int(share * len(whole))])
    told: list[str] = []
    found = load_checkpoint(tmp_path, told.append)
    assert found is not None and found[0].epoch == 1
    assert len(told) == 1 and last.name in told[0]


def test_a_single_changed_byte_of_a_weight_is_noticed(tmp_path: Path) -> None:
    variables = make_variables()
    path = save_checkpoint(tmp_path, PLACE, variables)
    raw = bytearray(path.read_bytes())
    place = raw.index(variables["network/0000/kernel"].numpy().tobytes())
    raw[place + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(MachineError, match=r"no checkpoint in .* can be read"):
        load_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, Place(epoch=1), make_variables())

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("hpctem.learning.training.checkpoints.os.fsync", fail)
        with pytest.raises(MachineError, match="No space left on device"):
            save_checkpoint(tmp_path, Place(epoch=2), make_variables())
    assert os.listdir(tmp_path / "checkpoints") == ["00000001.npz"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found[0].epoch == 1


def test_what_a_death_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None and load_best(tmp_path) is None
    save_checkpoint(tmp_path, Place(epoch=1), make_variables())
    (tmp_path / "checkpoints" / "00000002.npz.tmp").write_bytes(b"PK\x03\x04 half")
    found = load_checkpoint(tmp_path)
    assert found is not None and found[0].epoch == 1


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PLACE, make_variables())
    found = load_checkpoint(tmp_path)
    assert found is not None
    more = make_variables() | {"network/0001/bias": tf.Variable(tf.zeros(4))}
    with pytest.raises(ConfigError, match="checkpoint has no network/0001/bias"):
        restore(more, found[1])
    fewer = make_variables()
    del fewer["seeds"]
    with pytest.raises(ConfigError, match="network has no seeds"):
        restore(fewer, found[1])
    other = make_variables() | {"seeds": tf.Variable(np.zeros(3, np.uint32))}
    with pytest.raises(ConfigError, match=r"seeds has the shape \(2,\) .* \(3,\)"):
        restore(other, found[1])
