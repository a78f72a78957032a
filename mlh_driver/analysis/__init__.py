"""Structure of glasses and melts, above all of SiO2.

    frames -> Network (Si-O bonds) -> coordination, bond angles, primitive rings
           -> radial distribution, structure factor                               -> Structure -> report

``summary(frames)`` computes all of it, ``PUBLISHED`` has the values of real glass, ``write_report`` writes
tables, curves and figures.
"""

from mlh_driver.analysis.angles import Angles, bond_angles
from mlh_driver.analysis.coordination import Coordination, coordination
from mlh_driver.analysis.distribution import RadialDistribution, radial_distribution
from mlh_driver.analysis.network import OXYGEN, SI_O_BOND_A, SILICON, Network
from mlh_driver.analysis.published import PUBLISHED, Published
from mlh_driver.analysis.report import write_report
from mlh_driver.analysis.rings import primitive_rings
from mlh_driver.analysis.structure import SiliconOxygen, Structure, summary
from mlh_driver.analysis.structure_factor import StructureFactor, structure_factor

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
    "SiliconOxygen",
    "Structure",
    "StructureFactor",
    "bond_angles",
    "coordination",
    "primitive_rings",
    "radial_distribution",
    "structure_factor",
    "summary",
    "write_report",
]
