"""The examinations behind `hpctem doctor`: each uses one thing and says on one line what it found.

`python -m hpctem.examinations NAME` runs one of them, which `hpctem.doctor` does for each in a
process of its own. They raise `Absent` where there is nothing to examine and anything else where
what there is does not work.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What the main job imports; the package index knows two of them by another name.
MODULES = (
    *("numpy", "scipy", "numba", "h5py", "ase", "pymatgen.core"),
    *("pydantic", "click", "yaml", "matplotlib"),
)
DISTRIBUTIONS = {"pymatgen.core": "pymatgen", "yaml": "pyyaml"}
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
ABSENT = "absent: "  # begins the answer of an examination that found nothing to examine
GIB = 1 << 30


@dataclass(frozen=True)
class Examination:
    """How one thing is examined: at `ranks` under mpirun, or alone (0), within `timeout` s."""

    name: str
    run: Callable[[], str]
    advice: str
    ranks: int = 0
    needed: bool = False
    timeout: float = 60.0


class Absent(Exception):
    """There is nothing here to examine; the message says what was looked for."""


def find_launcher() -> str | None:
    """The mpirun of this Python's environment (the mpich wheel puts one there), or the system's."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun")


def examine_python() -> str:
    return f"{platform.python_version()}, {sys.executable}, {platform.platform(terse=True)}"


def examine_packages() -> str:
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise Absent(f"{module} cannot be imported: {error}") from error
    names = [DISTRIBUTIONS.get(module, module) for module in MODULES]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def examine_compiler() -> str:
    """Compile a loop to machine code, as the CPU kernels are compiled, and run it."""
    import numba

    @numba.njit
    def add_up(n):
        total = 0
        for i in range(n):
            total += i
        return total

    if add_up(1000) != 499500:
        raise RuntimeError(f"numba {numba.__version__} adds wrongly")
    return f"numba {numba.__version__} compiles for this processor"


def examine_fft() -> str:
    """Compare the transform that simulations use with a direct sum."""
    import numpy as np

    from hpctem.backend import select_backend

    backend = select_backend("cpu")
    field = np.random.default_rng(1).normal(size=(48, 48)).astype(np.complex64)
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(48), np.arange(48)) / 48)
    expected = matrix @ field @ matrix
    error = np.abs(backend.fft2(field.copy()) - expected).max() / np.abs(expected).max()
    if not error < 1e-5:
        raise RuntimeError(f"{backend.fft_provider} differs from a direct sum by {error:.1e}")
    if backend.fft_provider == "scipy" and platform.machine() == "x86_64":
        return "scipy; correct (pip install mkl_fft makes transforms about twice as fast)"
    return f"{backend.fft_provider}; correct"


def examine_database() -> str:
    """Write a small contiguous dataset as databases hold, and read it again."""
    import h5py
    import numpy as np

    rows = np.arange(4096, dtype=np.uint16).reshape(4, 32, 32)
    with tempfile.TemporaryDirectory(dir=".", prefix=".hpctem-doctor-") as folder:
        with h5py.File(Path(folder, "rows.hdf5"), "w") as file:
            file["rows"] = rows
        with h5py.File(Path(folder, "rows.hdf5"), "r") as file:
            if not np.array_equal(file["rows"], rows):
                raise RuntimeError("a dataset was read back wrongly")
    return f"h5py {h5py.__version__} on HDF5 {h5py.version.hdf5_version} writes and reads"


def examine_mpi() -> str:
    """Meet the other rank: a launcher of another MPI starts ranks that are each alone."""
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise Absent("mpi4py is not installed; a campaign then runs in one process") from error
    world = MPI.COMM_WORLD
    library = " ".join(MPI.Get_library_version().split(",")[0].split()[:4])
    if world.size != 2:
        raise RuntimeError(f"{find_launcher()} and mpi4py's {library} are of different MPIs")
    if world.allreduce(world.rank + 1) != 3:
        raise RuntimeError(f"{library} adds wrongly")
    return f"mpi4py {importlib.metadata.version('mpi4py')} on {library}, two ranks met"


def examine_parallel_hdf5() -> str:
    """Write one file from both ranks and read the other rank's rows."""
    import h5py
    import numpy as np

    if not h5py.get_config().mpi:
        raise Absent(f"h5py {h5py.__version__} is built without MPI")
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    made = tempfile.mkdtemp(dir=".", prefix=".hpctem-doctor-") if world.rank == 0 else None
    folder = world.bcast(made)
    try:
        with h5py.File(Path(folder, "rows.hdf5"), "w", driver="mpio", comm=world) as file:
            rows = file.create_dataset("rows", (world.size, 1000), np.float32)
            rows[world.rank] = world.rank + 1
        with h5py.File(Path(folder, "rows.hdf5"), "r", driver="mpio", comm=world) as file:
            if not np.all(file["rows"][:] == np.arange(1, world.size + 1)[:, None]):
                raise RuntimeError("two ranks wrote one file and it was read back wrongly")
        world.barrier()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"h5py {h5py.__version__} on HDF5 {h5py.version.hdf5_version}, two ranks wrote one file"


def examine_gpu() -> str:
    """Transform on every GPU and compare with the CPU."""
    driver = find_driver()
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise Absent(f"CuPy is not installed; {driver or 'no NVIDIA driver here'}") from error
    import numpy as np

    if not driver:
        raise Absent(f"CuPy {cupy.__version__} without an NVIDIA driver")
    field = np.random.default_rng(1).normal(size=(64, 64)).astype(np.complex64)
    found = []
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(number):
            excess = np.abs(cupy.fft.fft2(cupy.asarray(field)).get() - np.fft.fft2(field)).max()
            if not excess < 1e-3:
                raise RuntimeError(f"GPU {number} transforms wrongly, by {excess:.1e}")
            name = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
            found.append(f"{name} ({cupy.cuda.runtime.memGetInfo()[1] / GIB:.0f} GiB)")
    if not found:
        raise Absent(f"CuPy {cupy.__version__} sees no GPU")
    return f"CuPy {cupy.__version__}: {', '.join(found)}, correct"


def find_driver() -> str:
    """What nvidia-smi says of the driver, or nothing."""
    if shutil.which("nvidia-smi") is None:
        return ""
    answer = subprocess.run(["nvidia-smi"], text=True, capture_output=True, check=False)
    line = next((line for line in answer.stdout.splitlines() if "CUDA" in line), "")
    return " ".join(line.strip("| ").split()) if answer.returncode == 0 else ""


def examine_machine() -> str:
    """Cores this process may use, and memory that is free (within the job's own limit)."""
    from hpctem.backend import select_backend
    from hpctem.memory import available_memory

    free = available_memory(select_backend("cpu"))
    if free < GIB:
        raise RuntimeError(f"{free / GIB:.1f} GiB of memory free; a rank takes about 1 GiB")
    return f"{len(os.sched_getaffinity(0))} cores, {free / GIB:.0f} GiB of memory free"


def examine_disk() -> str:
    """Write, flush and lock a file where the databases would be written."""
    free = shutil.disk_usage(".").free
    with tempfile.NamedTemporaryFile(dir=".", prefix=".hpctem-doctor-") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fdatasync(file.fileno())
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = "locks work"
        except OSError as error:
            locks = f"no locks ({error.strerror}): a lock file is used instead"
    if free < GIB:
        raise RuntimeError(f"{free / GIB:.1f} GiB free in {Path.cwd()}")
    return f"{free / GIB:.0f} GiB free in {Path.cwd()}; {locks}"


def examine_slurm() -> str:
    if shutil.which("srun") is None:
        raise Absent("no srun on the PATH")
    answer = subprocess.run(["srun", "--version"], text=True, capture_output=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"srun fails: {answer.stderr.strip().rpartition(chr(10))[2]}")
    job = os.environ.get("SLURM_JOB_ID")
    return f"{answer.stdout.strip()}, {f'inside job {job}' if job else 'outside any job'}"


def examine_tensorflow() -> str:
    """Differentiate a convolution, as training does, and compare with a direct sum."""
    if importlib.util.find_spec("tensorflow") is None:
        raise Absent("TensorFlow is not installed")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"Keras uses {keras.backend.backend()}: unset KERAS_BACKEND")
    image = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    kernel = tf.Variable(np.ones((3, 3, 1, 1), np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.conv2d(image[None, :, :, None], kernel, 1, "VALID"))
    slope = tape.gradient(loss, kernel).numpy()[:, :, 0, 0]
    expected = [[image[y : y + 4, x : x + 4].sum() for x in range(3)] for y in range(3)]
    if not np.abs(slope - expected).max() < 1e-4:
        raise RuntimeError(f"TensorFlow {tf.__version__} differentiates wrongly")
    gpus = len(tf.config.list_physical_devices("GPU"))
    return f"tensorflow {tf.__version__}, keras {keras.__version__}, {gpus or 'no'} GPU; correct"


def examine_horovod() -> str:
    """Average over both ranks, on the processors, whatever else they have."""
    for name in ("tensorflow", "horovod"):
        if importlib.util.find_spec(name) is None:
            raise Absent(f"{name} is not installed")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # two ranks cannot meet on one GPU
    import tensorflow as tf

    from hpctem.learning.ranks.transport import open_transport
    from hpctem.parallel import world

    transport = open_transport(world(), "horovod")
    (mean,) = transport.average([tf.constant([1.0, 4.0]) * (transport.rank + 1)])
    if transport.size != 2 or mean.numpy().tolist() != [1.5, 6.0]:
        raise RuntimeError(f"{transport.size} of two ranks met, their mean is {mean.numpy()}")
    version = importlib.metadata.version("horovod")
    return f"horovod {version} fits tensorflow {tf.__version__}, two ranks took a mean"


INSTALL = "in the folder of hpctem: pip install -e ."
EXAMINATIONS = {
    examination.name: examination
    for examination in (
        Examination("python", examine_python, "make an environment of a newer Python", needed=True),
        Examination("packages", examine_packages, INSTALL, needed=True, timeout=180),
        Examination("compiler", examine_compiler, f"{INSTALL}; numba must fit numpy", needed=True),
        Examination("fft", examine_fft, INSTALL, needed=True),
        Examination(
            "database",
            examine_database,
            "work in a folder where you may write; reinstall h5py if that is not it",
            needed=True,
        ),
        Examination(
            "disk", examine_disk, "work in a folder with space and write access", needed=True
        ),
        Examination("machine", examine_machine, "ask for more memory per job", needed=True),
        Examination(
            "mpi",
            examine_mpi,
            "without a system MPI: pip install mpi4py mpich; with one: pip install mpi4py, no mpich"
            ", and its mpirun on the PATH; inside a Slurm job srun may be the only launcher",
            ranks=2,
        ),
        Examination(
            "parallel HDF5",
            examine_parallel_hdf5,
            "not needed: without it the ranks write the same bytes by pwrite (docs/start.md)",
            ranks=2,
        ),
        Examination(
            "gpu",
            examine_gpu,
            "with an NVIDIA GPU: pip install cupy-cuda12x or cupy-cuda13x, as its driver's CUDA;"
            " without one, simulations run on the CPU",
        ),
        Examination("slurm", examine_slurm, "only clusters have it; mpirun needs none"),
        Examination(
            "tensorflow",
            examine_tensorflow,
            "simulations do not need it; to train, in the folder of hpctem: pip install -e "
            "'.[train]', or '.[train-cpu]' without GPU",
            timeout=180,
        ),
        Examination(
            "horovod",
            examine_horovod,
            "several ranks also train without it, gradients then travel by mpi4py; "
            "jobs/install_horovod builds it for the TensorFlow that is installed",
            ranks=2,
            timeout=180,
        ),
    )
}


def main(name: str) -> int:
    """Run one examination in this process; of several ranks the first prints what was found, and
    any that fails prints why, because the others may then wait for it in vain."""
    first = next((os.environ[key] for key in RANK_VARIABLES if key in os.environ), "0") == "0"
    try:
        found = EXAMINATIONS[name].run()
    except Absent as absence:
        found = f"{ABSENT}{absence}"
    except Exception as error:  # whatever a broken library raises is what the report is about
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    if first:
        print(found, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
