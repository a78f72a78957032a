"""What the relaxations of a defect from its starts have led to, and what is said of the lowest minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: In eV: an alignment that is off by more is a reason to doubt a level.
ALIGNMENT_eV = 0.02


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A defect of a host, and the lowest of its minima; E(defect) is the energy of that.

    name:     unique, of the host and of where the defect is
    start, key: which start led here, and the folder of its task
    energy_eV, difference_eV: E(defect) and E(defect) - E(host)
    from_atoms_eV: the same with mu the model's energy of an isolated atom, for each atom missing or too many
    formation_eV: the same with the mu that was given, None without
    relaxation_eV: energy of the host's geometry without the atoms, or of the start of an interstitial, minus
              ``energy_eV``
    level_eV, level_on_pair, level_ipr: see :class:`~mlh_driver.workflows.defect_levels.DefectLevel`; the
              share is that of all atoms beside the defect
    levels_residual_eV, deep_residual_eV: what the checks of the alignment leave
    band_gap_eV, extrapolation, charge_deviation, steps, largest_force_eV_A: of this minimum
    starts:   of each start what it led to, such as the difference_eV, or why it failed or was impossible
    doubts:   reasons not to trust these numbers, by kind
    """

    name: str
    host: str
    start: str
    key: str
    energy_eV: float
    difference_eV: float
    from_atoms_eV: float
    formation_eV: float | None
    relaxation_eV: float
    level_eV: float
    level_on_pair: float
    level_ipr: float
    levels_residual_eV: float | None
    deep_residual_eV: float
    band_gap_eV: float
    extrapolation: float
    charge_deviation: float
    steps: int
    largest_force_eV_A: float
    starts: dict[str, dict[str, Any]]
    doubts: dict[str, str]

    @property
    def reported_eV(self) -> float:
        """The formation energy, or without mu the energy from isolated atoms."""
        return self.from_atoms_eV if self.formation_eV is None else self.formation_eV


@dataclass(frozen=True)
class Minima:
    """What the starts of a defect led to.

    host, host_eV: name and energy of its host
    results: of each start, by name: what its task returned, or why it failed
    keys:    folders of these tasks
    """

    host: str
    host_eV: float
    results: dict[str, dict[str, Any]]
    keys: dict[str, str]

    @property
    def found(self) -> dict[str, float]:
        """Energy in eV of each start that has a minimum."""
        return {start: each["energy_eV"] for start, each in self.results.items() if "energy_eV" in each}

    @property
    def lowest(self) -> str:
        """The start of the lowest minimum; there is one."""
        return min(self.found, key=self.found.__getitem__)

    @property
    def best(self) -> dict[str, Any]:
        return self.results[self.lowest]

    @property
    def difference_eV(self) -> float:
        return self.found[self.lowest] - self.host_eV

    def columns(self) -> dict[str, Any]:
        """Fields of :class:`Defect`, but for its name, the energies that depend on mu, and doubts."""
        best = self.best
        level = best["level"]
        return {
            "host": self.host,
            "start": self.lowest,
            "key": self.keys[self.lowest],
            "energy_eV": best["energy_eV"],
            "difference_eV": self.difference_eV,
            "relaxation_eV": best["unmoved_eV"] - best["energy_eV"],
            "level_eV": level["above_vbm_eV"],
            "level_on_pair": level["on_pair"],
            "level_ipr": level["inverse_participation_ratio"],
            "levels_residual_eV": level["levels_residual_eV"],
            "deep_residual_eV": level["deep_residual_eV"],
            "band_gap_eV": best["band_gap"],
            "extrapolation": best["extrapolation"],
            "charge_deviation": best["charge_deviation"],
            "steps": best["steps"],
            "largest_force_eV_A": best["largest_force_eV_A"],
            "starts": {start: self._of_start(result) for start, result in self.results.items()},
        }

    def _of_start(self, result: dict[str, Any]) -> dict[str, Any]:
        if "energy_eV" not in result:
            return result
        pair = {"pair_A": result["pair_A"]} if "pair_A" in result else {}
        return {"difference_eV": result["energy_eV"] - self.host_eV, **pair}

    def doubts(self) -> dict[str, str]:
        """Those of the engine, of the alignment, and starts without a minimum."""
        doubts = dict(self.best["doubts"])
        residuals = [self.best["level"][f"{check}_residual_eV"] for check in ("levels", "deep")]
        if any(residual is None or abs(residual) > ALIGNMENT_eV for residual in residuals):
            shown = ", ".join("none found" if r is None else f"{1e3 * r:.0f} meV" for r in residuals)
            doubts["alignment"] = (
                f"the host's levels do not come back (all occupied ones, deep ones: {shown} off): the level "
                "of the defect is as uncertain"
            )
        for start, result in self.results.items():
            if "failed" in result:
                doubts[f"start {start}"] = f"start {start} has no minimum: {result['failed']}"
        return doubts
