"""Active learning: explore with the model, label what it does not know, retrain, until it does.

seeds -> explore (LAMMPS, i-PI or ASE) -> frames -> label (DFT) -> error on them -> train -> model -> ...
"""
