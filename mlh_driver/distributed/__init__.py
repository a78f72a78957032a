"""One structure over several processes, by MPI.

Each process owns a part of the atoms, those in one box of space, and knows the atoms around it, its halo::

    partition   who owns which atoms, and what is around them
    ranks       the processes, and what they tell each other
    part        sums, and copies of the halo, for network, Hamiltonian and engine
    graphs      the pairs of atoms of a part
    patterns    its rows of a sparse matrix
    team        the first process leads, the others compute along with it

The arithmetic is that of one process, up to the order of sums. Blocks of pairs that join two parts are
predicted in both. No process has a matrix of all atoms; what is a few numbers per atom (positions, forces,
charges), and the mesh of the distant potential, each has.
"""
