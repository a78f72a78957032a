"""The protocol of i-PI from both ends: a client of i-PI, and a server for MD engines that dial in.

===============  ====================================================================================
``client``       asks a running i-PI what to compute
``run``          starts i-PI itself, with such a client in this process
``output``       what i-PI has written, read back
``pes``          the model inside i-PI, without a socket
``server``       keeps a model loaded for several MD engines
``remote``       the force engine of an MD engine, with the model in a server
``session``      the driver's side of one connection
``session_log``  what it prints
``template``     the elements, which i-PI never sends
``wire``         messages and units
``address``      where a socket is
``supervisor``   keeps the model in a process of its own, and starts that again when it dies
``worker``       that process
``guardian``     closes the socket to i-PI when its owner is killed
===============  ====================================================================================
"""
