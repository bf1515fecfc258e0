"""hpctem doctor tells a TensorFlow and a Horovod that work from such as do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from hpctem.doctor import examine
from hpctem.examinations import EXAMINATIONS


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a file of the given name and text before the packages that are installed."""

    def install(name: str, text: str) -> None:
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))

    return install


def test_this_machine_can_train(tmp_path: Path) -> None:
    tensorflow = examine(EXAMINATIONS["tensorflow"], tmp_path)
    assert tensorflow.state == "ok", tensorflow
    assert tf.__version__ in tensorflow.detail
    horovod = examine(EXAMINATIONS["horovod"], tmp_path)
    if horovod.state == "missing":
        pytest.skip(f"{horovod.detail}: {horovod.advice}")
    assert horovod.state == "ok", horovod
    assert "two ranks took a mean" in horovod.detail
    assert not tensorflow.needed and not horovod.needed, "simulations run without them"


def test_a_horovod_of_another_tensorflow_is_broken(install, tmp_path: Path) -> None:
    install("horovod/__init__.py", "")
    install("horovod/metadata.json", json.dumps({"tensorflow": "2.15.1"}))
    found = examine(EXAMINATIONS["horovod"], tmp_path)
    assert found.state == "broken"
    assert f"built for TensorFlow 2.15.1, not for {tf.__version__}" in found.detail
    assert "jobs/install_horovod" in found.advice


def test_a_tensorflow_that_does_not_load_is_broken(install, tmp_path: Path) -> None:
    install("tensorflow.py", "raise ImportError('libcudart.so.12: cannot open')")
    found = examine(EXAMINATIONS["tensorflow"], tmp_path)
    assert (found.state, found.detail) == ("broken", "ImportError: libcudart.so.12: cannot open")
    assert "train-cpu" in found.advice
