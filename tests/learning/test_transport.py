"""Sums, means and weights over the ranks: the same tests for Horovod and mpi4py, and for one rank.

Three ranks of `ranks_add.py` compute once with both; here their answers are compared with what
NumPy makes of the same numbers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hpctem.errors import ConfigError, MachineError
from hpctem.learning.ranks.transport import (
    Transport,
    choose_device,
    open_transport,
    require_equal,
    why_not_horovod,
)
from hpctem.parallel import Communicator

SCRIPT = Path(__file__).with_name("ranks_add.py")
RANKS = 3
EPSILON = np.finfo(np.float32).eps
SINGLE = Transport("single", Communicator(), tf.identity)

_specification = importlib.util.spec_from_file_location("ranks_add", SCRIPT)
assert _specification and _specification.loader
ranks_add = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(ranks_add)


def make_horovod(folder: Path, version: str) -> Path:
    """A Horovod that says for which TensorFlow it was built, and has nothing to load."""
    package = folder / "horovod"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "metadata.json").write_text(json.dumps({"tensorflow": version}))
    return folder


@pytest.fixture(scope="module")
def answers(run_mpi: Callable, make_once: Callable) -> list[dict]:
    """What each rank got, by transport."""
    pytest.importorskip("mpi4py")

    def fill(folder: Path) -> None:
        foreign = make_horovod(folder / "foreign", "2.4.0")
        # Threads to disorder what is not kept in order.
        environment = os.environ | {"TF_NUM_INTEROP_THREADS": "4"}
        done = run_mpi(RANKS, sys.executable, SCRIPT, foreign, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        (folder / "answers.json").write_text(done.stdout)

    return json.loads((make_once("ranks_add", fill) / "answers.json").read_text())


@pytest.fixture(params=["horovod", "mpi4py"])
def got(request: pytest.FixtureRequest, answers: list[dict]) -> list[dict]:
    """What each rank got by one transport."""
    return take(answers, request.param)


@pytest.fixture
def choices(answers: list[dict]) -> list[dict]:
    """What each rank chose and refused."""
    return take(answers, "choice")


def take(answers: list[dict], name: str) -> list[dict]:
    """A part of the answers; without Horovod some are missing."""
    if name not in answers[0]:
        pytest.skip("Horovod is not installed: jobs/install_horovod")
    return [answer[name] for answer in answers]


def of_all_ranks(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Numbers of the ranks as float64, (ranks, *shape)."""
    return np.stack([ranks_add.numbers(r, shape, dtype).astype(float) for r in range(RANKS)])


def test_ranks_are_those_of_mpi(got: list[dict]) -> None:
    assert [answer["rank"] for answer in got] == [[r, RANKS, r] for r in range(RANKS)]


def test_means_are_those_of_all_ranks_whatever_their_shape(got: list[dict]) -> None:
    """Of float32, float64, float16, of one number and of none; in a function and eagerly."""
    for answer in got:
        found = answer["add_up"]
        assert found["dtypes"] == list(ranks_add.DTYPES)
        kinds = list(zip(ranks_add.SHAPES, ranks_add.DTYPES, strict=True))
        for mean, (shape, dtype) in zip(
            found["means"] + found["eagerly"], kinds + kinds, strict=True
        ):
            expected = of_all_ranks(shape, dtype).mean(0)
            error = 4 * np.finfo(dtype).eps
            assert np.shape(mean) == shape
            np.testing.assert_allclose(mean, expected, rtol=error, atol=error)


def test_totals_count_and_need_no_known_length(got: list[dict]) -> None:
    for answer in got:
        found = answer["add_up"]
        assert found["count"] == [6, 30]
        assert found["half"] == 3.0
        expected = of_all_ranks((4, 2)).sum(0)
        np.testing.assert_allclose(found["of_unknown_length"], expected, atol=8 * EPSILON)


def test_the_gradient_of_a_total_is_the_total_of_the_gradients(got: list[dict]) -> None:
    """Losses (r + 1) |y|^2 of y = sum x: d/dx = 2 (1 + 2 + 3) y on every rank, and again."""
    y = of_all_ranks((3,)).sum(0)
    for answer in got:
        found = answer["differentiate"]
        np.testing.assert_allclose(found["first"], 12 * y, rtol=8 * EPSILON, atol=8 * EPSILON)
        # Of the sum of 12 y over the ranks' x: each rank's 12 y holds every x once.
        np.testing.assert_allclose(found["second"], np.full(3, 12.0 * RANKS), rtol=8 * EPSILON)


def test_ranks_meet_in_the_same_order_however_threads_run(got: list[dict]) -> None:
    """Tensors of one size, ready in opposite orders: paired wrongly, they would add up to others.

    All are whole numbers that float32 holds.
    """
    expected = [300.0 * b + 3 for b in range(ranks_add.BRANCHES)]
    weighed = sum((b + 1) * total for b, total in enumerate(expected))
    for answer in got:
        found = answer["meet"]
        assert found["totals"] == expected
        assert found["again"] == expected
        assert found["weighed"] == weighed
        # 0.5 y_b^2 on three ranks; the branches' zeros stop nothing.
        assert found["gradients"] == [3 * total for total in expected]


def test_a_mean_has_the_same_bits_each_time_and_on_all_ranks(got: list[dict]) -> None:
    assert {answer["repeat"]["results"] for answer in got} == {1}
    assert len({answer["repeat"]["bytes"] for answer in got}) == 1


def test_variables_get_the_values_of_the_first_rank(got: list[dict]) -> None:
    first = got[0]["send_out"]
    assert np.abs(first["kernel"]).min() > 0
    for rank, answer in enumerate(got):
        found = answer["send_out"]
        assert found["kernel"] == first["kernel"]
        assert found["seeds"] == first["seeds"] != []
        assert found["half"] == [0.0, 1.5]
        assert found["scalar"] == (1 if rank == RANKS - 1 else 0)  # changed afterwards


def test_a_variable_that_differs_is_named_on_all_ranks(got: list[dict]) -> None:
    for answer in got:
        before, between, after = answer["send_out"]["said"]
        assert before[0] == after[0] == "MachineError"
        assert "kernel is not the same on rank 0 and rank 1" in before[1]
        assert between == []
        assert after[1].startswith("b/c is not the same on rank 0 and rank 2 (1 of 2 ")
        assert before[2] and after[2], "one rank speaks for all"


def test_one_rank_without_a_fitting_horovod_decides_for_all(choices: list[dict]) -> None:
    """Two ranks that wait in Horovod for one that uses mpi4py would wait for ever."""
    assert [choice["chosen"] for choice in choices] == ["mpi4py"] * RANKS
    assert "built for TensorFlow 2.4.0" in choices[0]["said"]
    assert "mpi4py" in choices[0]["said"]
    assert [choice["said"] for choice in choices[1:]] == ["", ""], "only the first rank speaks"
    for choice in choices:
        kind, text, shared = choice["refused"]
        assert (kind, shared) == ("MachineError", True)
        assert "2.4.0" in text and "jobs/install_horovod" in text


def test_ranks_that_would_train_apart_are_refused(choices: list[dict]) -> None:
    for choice in choices:
        kind, text, shared = choice["alone"]
        assert (kind, shared) == ("ConfigError", True)
        assert "3 ranks" in text


def test_one_process_needs_nothing() -> None:
    for wanted in ("auto", "single", "mpi4py"):
        transport = open_transport(Communicator(), wanted)
        assert (transport.name, transport.rank, transport.size) == ("single", 0, 1)
    x = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(SINGLE.total(x) ** 2)
    assert tape.gradient(loss, x).numpy().tolist() == [2.0, 4.0]
    assert [t.numpy().tolist() for t in SINGLE.average([x, x[0]])] == [[1.0, 2.0], 1.0]
    variable = tf.Variable(3.0)
    SINGLE.broadcast([variable])
    require_equal(SINGLE, Communicator(), [variable])
    assert variable.numpy() == 3.0


def test_a_mean_of_whole_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="int32"):
        SINGLE.average([tf.constant([1, 2])])


@pytest.fixture
def find_horovod(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let a Horovod in a folder be the one that is found."""

    def find(folder: Path) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "horovod"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    return find


def test_a_horovod_of_another_tensorflow_is_named(tmp_path: Path, find_horovod) -> None:
    find_horovod(make_horovod(tmp_path, "2.12.0"))
    said = why_not_horovod()
    assert "2.12.0" in said and tf.__version__ in said and "jobs/install_horovod" in said
    with pytest.raises(MachineError, match=r"2\.12\.0"):
        open_transport(Communicator(), "horovod")


def test_a_horovod_that_does_not_load_is_told(tmp_path: Path, find_horovod) -> None:
    """The right version, but for another Python or compiler: its library has not the symbols."""
    folder = make_horovod(tmp_path, tf.__version__)
    inner = folder / "horovod" / "tensorflow"
    inner.mkdir()
    (inner / "__init__.py").write_text("raise OSError('undefined symbol: _ZN10tensorflow')")
    find_horovod(folder)
    assert "undefined symbol: _ZN10tensorflow" in why_not_horovod()
    with pytest.raises(MachineError, match="jobs/install_horovod"):
        open_transport(Communicator(), "horovod")


def test_a_missing_horovod_is_told(tmp_path: Path, find_horovod) -> None:
    """A folder of that name is no package."""
    find_horovod(tmp_path)
    sys.path[:] = [str(tmp_path)]
    assert "not installed" in why_not_horovod()


def test_each_rank_of_a_node_takes_its_own_gpu() -> None:
    assert [choose_device(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert choose_device(7, 0) is None, "no GPU: the processor computes"
    assert [choose_device(rank, 1) for rank in range(4)] == [0] * 4, "each task sees its own"
    with pytest.raises(MachineError, match="at most 4 ranks on a node"):
        choose_device(4, 4)


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(ConfigError, match="no transport nccl: take auto, single, horovod, mpi4py"):
        open_transport(Communicator(), "nccl")
