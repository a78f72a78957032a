"""LAMMPS: a script is run, or a LAMMPS of your own is bound, with an engine behind its ``fix external``.

=============  ======================================================================================
``run``        a whole script, as ``mlh-driver lammps`` runs it
``callback``   one ``fix external``: what goes in and out of a force call, and how errors end the run
``script``     stops LAMMPS at chosen lines of a script, so that Python can act there
``rewriting``  the copies of scripts that make this possible
``elements``   which element an atom type is
``log``        thermo output, read back
``units``      LAMMPS' unit systems
``library``    loads LAMMPS and its MPI library
=============  ======================================================================================
"""

from mlh_driver.errors import LammpsError
from mlh_driver.interfaces.lammps.callback import ForceCallback, bind
from mlh_driver.interfaces.lammps.library import open_lammps
from mlh_driver.interfaces.lammps.log import read_log
from mlh_driver.interfaces.lammps.run import run_script

__all__ = ["ForceCallback", "LammpsError", "bind", "open_lammps", "read_log", "run_script"]
