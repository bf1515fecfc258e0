"""The errors of hpctem: what the user can mend, what a sample cannot mend, what the machine did.

The class decides what happens: a `ConfigError` ends the program before any work (exit code 2), a
`SampleError` quarantines one sample and the campaign goes on, a `DatabaseError` or a
`MachineError` aborts every rank with one message (exit code 1) and is never held against a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class HpctemError(Exception):
    """Base of all errors whose message is written for the user; shown without a traceback."""

    exit_code = 1
    # Whether every rank of a job raises the same error, so that one of them speaks for all.
    shared = False


class ConfigError(HpctemError):
    """A config, an option or an input file that the user can correct."""

    exit_code = 2


class SampleError(HpctemError):
    """One sample that fails by its own nature (NaN, value out of range).

    It is recorded in the database with this message, never skipped and never replaced.
    """


class DatabaseError(HpctemError):
    """A database that is foreign, truncated, damaged, locked or belongs to another campaign."""


class MachineError(HpctemError):
    """The machine failed: disk full, input/output error, out of memory, GPU lost."""


def describe_os_error(error: OSError) -> str:
    """'gold.hdf5: No space left on device': the file where it is known, and the reason."""
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"


@contextmanager
def tell_system_errors(doing: str, advice: str) -> Iterator[None]:
    """Raise what the system refuses, wherever inside, as a MachineError that names the file."""
    try:
        yield
    except BrokenPipeError:  # nobody reads the output any more: no fault of the machine
        raise
    except OSError as error:
        told = MachineError(f"{doing} failed: {describe_os_error(error)}; {advice}")
        told.shared = getattr(error, "shared", False)
        raise told from error
