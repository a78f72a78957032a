"""Structure of glasses and melts of SiO2, and logs of the runs that made them.

    frames -> Network (Si-O bonds) -> coordination, bond angles, primitive rings
           -> radial distribution                                                 -> Structure

``summary(frames)`` computes all of it, ``PUBLISHED`` has the values of real glass, and
``mlh_driver.analysis.plots`` draws.
"""

from mlh_driver.analysis.angles import Angles, bond_angles
from mlh_driver.analysis.coordination import Coordination, coordination
from mlh_driver.analysis.distribution import RadialDistribution, radial_distribution
from mlh_driver.analysis.network import OXYGEN, SI_O_BOND_A, SILICON, Network
from mlh_driver.analysis.published import PUBLISHED, Published
from mlh_driver.analysis.rings import primitive_rings
from mlh_driver.analysis.structure import Structure, summary
from mlh_driver.analysis.thermo import read_log

__all__ = [
    "OXYGEN",
    "PUBLISHED",
    "SILICON",
    "SI_O_BOND_A",
    "Angles",
    "Coordination",
    "Network",
    "Published",
    "RadialDistribution",
    "Structure",
    "bond_angles",
    "coordination",
    "primitive_rings",
    "radial_distribution",
    "read_log",
    "summary",
]
