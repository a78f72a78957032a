"""Physical constants, in the units of the package: eV, Å, kelvin and the charge e.

CODATA 2018 (Tiesinga et al. 2021, doi:10.1103/RevModPhys.93.025010). Where trained models and stored labels
hold other digits, these stand here: energies of -330 eV per atom notice the ninth digit. The two constants of
i-PI's protocol, as i-PI rounds them, are in :mod:`mlh_driver.interfaces.sockets.wire`.
"""

from __future__ import annotations

HARTREE_eV = 27.211386245988
BOHR_A = 0.529177210903

KELVIN_eV = 8.617333262e-5
"""Boltzmann's constant in eV / K, to ten digits."""

COULOMB_eV_A = 14.399645
"""e^2 / (4 pi epsilon_0) in eV Å, to eight digits as models are trained with it; CODATA: 14.39964548."""

GPA_eV_A3 = 1.0 / 160.21766208
"""One GPa in eV/Å^3, with the charge of CODATA 2014 as in ASE and in stored labels; 2018: 1 / 160.2176634."""
