"""Where MD engines meet a force engine: they convert units, copy arrays and report errors, and nothing else.

``ase`` is the calculator of ASE, ``lammps`` the callback of LAMMPS, ``lammps_plugin`` the same in C++ for
many MPI ranks, ``sockets`` the protocol of i-PI and the server; ``alarm`` is the warning of all long runs.
"""
