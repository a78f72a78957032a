"""Exceptions of the package.

::

    MLHError
    ├── InputError            a value given by the user cannot be used (also a ValueError)
    │   ├── StructureError    a structure cannot be computed (species, cell, coordinates)
    │   └── ModelFileError    a model file is missing, damaged or of an unknown version
    ├── SolverError           the density matrix could not be determined reliably
    ├── NonFiniteError        energy, forces or stress came out as NaN, infinite or absurdly large
    ├── EngineCrashed         a library failed, or the process with the model died
    ├── ConnectionLost        the peer of a socket is gone or broke the protocol
    │   └── PeerLeft          it closed the connection between two messages
    ├── LammpsError           LAMMPS stopped with an error of its own
    ├── LimitReached          a run was to end where an observable passes a limit, and has
    └── LabelingError         a reference code gave no complete result (mlh_driver.reference)
        └── UnconvergedError  its self-consistent field did not converge

Every message names the offending value and says what to do next; the command line prints the
message and ends with a non-zero exit status.
"""


class MLHError(Exception):
    """Base class of all errors that the package raises on purpose."""


class InputError(MLHError, ValueError):
    """A value given by the user cannot be used."""


class StructureError(InputError):
    """A structure cannot be computed: unknown species, singular cell, non-finite coordinates."""


class ModelFileError(InputError):
    """A model is missing, damaged, or written in a format that this version does not know."""


class SolverError(MLHError):
    """The density matrix could not be determined reliably."""


class NonFiniteError(MLHError):
    """Energy, forces or stress came out as NaN, infinite or absurdly large."""


class EngineCrashed(MLHError):
    """A library failed in a way that was not foreseen, or the process with the model died time and again."""


class ConnectionLost(MLHError):
    """The other end of a socket is gone, or does not speak the protocol."""


class PeerLeft(ConnectionLost):
    """The other end closed the connection between two messages: it has ended, or was killed."""


class LammpsError(MLHError):
    """LAMMPS stopped with an error of its own, such as a mistake in the script."""


class LimitReached(MLHError):
    """A run ends early: an observable has passed the limit set for it, or the model has no answer."""


#: What an engine raises for a structure that it cannot give a result for; the next structure may be fine.
NO_RESULT = (NonFiniteError, SolverError, StructureError)


def reason(error: Exception) -> str:
    """What somebody else's exception says, or its class where it says nothing."""
    return str(error) or type(error).__name__
