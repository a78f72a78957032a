"""From a structure to energy, forces, stress and observables: the one thing that every interface calls.

    E(R) = 2 Tr[(P - P0) H(R)] - T_e S_e + sum_i [eps_i(R) + E0_i + u(n_i - m_i(R))]

==========  ==============================================================================
H           predicted Hamiltonian, a function of the pair vectors r_ij and, through the potential of
            distant charges, of positions and cell
P           spin-less density matrix that minimizes E at fixed electron number
P0          occupations of neutral spherical atoms: makes E independent of the zero of potential
eps_i       predicted double-counting energy of atom i, zero for an isolated atom
E0_i        total energy of the isolated atom
u           what holds the electrons n_i[P] of an atom near the predicted number m_i, see
            :mod:`mlh_driver.solvers.charge_response`; zero where both agree within 0.1
==========  ==============================================================================

P is stationary, so dE/dx = 2 Tr[(P - P0) dH/dx] + sum_i [d eps_i/dx - u' dm_i/dx] (Hellmann-Feynman): one
vector-Jacobian product of the network with the cotangents 2 (P - P0) on H, 1 on eps and -u' on m.
:func:`mlh_driver.graph.forces_and_virial` turns it into forces and stress.
The energy is summed in double precision whatever the precision of the network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlh_driver import __version__
from mlh_driver.constants import KELVIN_eV
from mlh_driver.engine_settings import DECISIVE, DEFAULT_MODEL, EngineKeywords, EngineSettings
from mlh_driver.errors import NO_RESULT, InputError, NonFiniteError, StructureError
from mlh_driver.graph import Graph, GraphBuilder, forces_and_virial
from mlh_driver.hamiltonian import Assembly, BlockMatrix
from mlh_driver.model import Model, load_model
from mlh_driver.network.network import Blocks
from mlh_driver.parts import Whole
from mlh_driver.results import Results
from mlh_driver.runtime import use_threads, use_torch_threads
from mlh_driver.small_cells import NARROWER, ONCE, CellRepeater, folded, repeated
from mlh_driver.solvers import ChargeHolder, ElectronicProblem, HeldState, make_solver
from mlh_driver.system import Array, System, described


class _Stopwatch:
    """Seconds spent in each named stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


@dataclass(frozen=True)
class _Atoms:
    """Per-atom constants of a composition.

    species, sizes, valences, isolated: (N,);  neutral: (N, n) diagonal of P0, zero-padded
    """

    species: NDArray[np.int64]
    sizes: Tensor
    neutral: Tensor
    valences: Array
    isolated: Array


#: In eV: no element of a valence Hamiltonian comes near it.
_LARGEST_ELEMENT_eV = 1e4

#: Of the inner radius. A neighbor that is closer by this counts like one edge of the training data more.
_CLOSE = 0.05
#: More atoms in a volume, compared with the densest structure of the training, are no structure.
_MOST_DENSE = 3.0
#: Of a cell, for the mesh of mlh_driver.network.electrostatics: some 2 GB, or what its atoms need anyway.
_LARGEST_VOLUME_A3, _LARGEST_VOLUME_OF_ATOM_A3 = 8e6, 100.0


def _check_elements(H: BlockMatrix) -> None:
    """Raise NonFiniteError for a Hamiltonian that no solver can handle."""
    largest = float(H.blocks.abs().max())
    if not largest < _LARGEST_ELEMENT_eV:
        raise NonFiniteError(
            f"the predicted Hamiltonian has elements of {largest:.3g} eV: the structure is far outside the "
            "model's range; look at its closest atoms, its elements and its density"
        )


def _numbers(values: Tensor) -> Array:
    """In double precision, on the CPU, without derivatives."""
    return np.asarray(values.detach().double().cpu().numpy())


def _loaded(settings: EngineSettings) -> Model:
    if isinstance(settings.model, Model):
        return settings.model
    if not isinstance(settings.model, str | Path):
        raise InputError(f"model is {settings.model!r}; give a name, the path of a file, or a loaded Model")
    return load_model(settings.model, settings.dtype, settings.device)


def _refuse_change(own: EngineKeywords, asked: Mapping[str, Any]) -> None:
    """Raises InputError if a loaded model is to have another precision or device; cuda may be cuda:0."""
    dtype, device = asked.get("dtype", own["dtype"]), asked.get("device", own["device"])
    if dtype != own["dtype"] or not own["device"].startswith(device):
        raise InputError(
            f"the model is loaded already, in {own['dtype']} on {own['device']}, and stays so; "
            "make an engine from its name or file instead"
        )


def _least_width(settings: EngineSettings, model: Model) -> float:
    """In Å, of cells that are taken as they are."""
    return 0.0 if settings.sampling == "gamma" else NARROWER * model.metadata.narrowest_cell_A


class Engine:
    """Computes structures with a model in this process: a :class:`~mlh_driver.force_engine.ForceEngine`.

    model, settings: see :class:`~mlh_driver.engine_settings.EngineSettings`

    Consecutive calls share the neighbor list when that is safe, so one engine per trajectory is fastest;
    several engines may share one model. An engine is not thread-safe.

    >>> engine = Engine("asio2-minimal", solver="sp2", electronic_temperature_K=1000.0)  # doctest: +SKIP
    """

    def __init__(self, model: str | Path | Model = DEFAULT_MODEL, **settings: Unpack[EngineKeywords]) -> None:
        self.settings = EngineSettings.of(model, **settings)
        use_threads(self.settings.threads)  # refuses a fork that would wait for ever
        self.model = _loaded(self.settings)
        self.kT = KELVIN_eV * self.settings.electronic_temperature_K
        self.solver = make_solver(self.settings.solver, self.settings.error_per_atom_meV)
        self.electrons = ChargeHolder()
        self.repeater = CellRepeater(_least_width(self.settings, self.model))
        self._densest = max((len(s) / s.volume for s in self.model.structures), default=np.inf)
        self.graphs = GraphBuilder(self.model.basis, self.model.network.settings.pair_cutoff_A)
        parameter = next(self.model.network.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        if isinstance(model, Model):  # which stays what it is
            own = EngineKeywords(dtype=str(self._dtype).removeprefix("torch."), device=str(self._device))
            usual = vars(EngineSettings())
            _refuse_change(own, {name: asked for name, asked in settings.items() if asked != usual[name]})
            self.settings = replace(self.settings, **own)
        self._composition: tuple[bytes, _Atoms] | None = None

    def __repr__(self) -> str:
        return f"Engine({self.model.metadata.name!r})"

    @property
    def species(self) -> tuple[str, ...]:
        """Elements that the model knows."""
        return self.model.basis.species

    def provenance(self) -> dict[str, Any]:
        """What a result depends on, beside the structure, by name: for databases.

        A model that was made in this process has no digest, since it has no file.
        """
        return {
            "model": self.model.metadata.name,
            **({"model_digest": self.model.digest} if self.model.digest else {}),
            **{name: getattr(self.settings, name) for name in DECISIVE},
            "mlh_driver_version": __version__,
        }

    def check_species(self, numbers: NDArray[np.int64]) -> None:
        """Raise StructureError if the model does not know one of these atomic numbers."""
        self.model.basis.species_index(np.asarray(numbers))

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and observables of a structure.

        Raises StructureError (unknown species, unusable coordinates), SolverError (no reliable density
        matrix) or NonFiniteError; it never returns a number that is not finite, nor a force above 1000 eV/Å.
        """
        if not isinstance(system, System):
            raise InputError(
                f"the engine computes a System, not {type(system).__name__}; of ASE's atoms make one by "
                "System.from_ase(atoms), or use MLHCalculator"
            )
        repeats = self.repeater(system)
        try:
            self._check_density(system)
            if repeats == ONCE:
                return self._compute(system)
            return folded(self._compute(repeated(system, repeats)), repeats)
        except NO_RESULT as error:
            raise type(error)(f"{error} ({described(system)})") from error

    def _check_density(self, system: System) -> None:
        """Refuse what is crushed as a whole, in another unit or nearly empty, before anything is computed."""
        ratio = len(system) / system.volume / self._densest
        if ratio > _MOST_DENSE:
            raise StructureError(
                f"it is {ratio:.1f} times as dense as the densest structure of the training; are cell and "
                "positions in Å, and do they belong to each other?"
            )
        if system.volume > max(_LARGEST_VOLUME_A3, _LARGEST_VOLUME_OF_ATOM_A3 * len(system)):
            raise StructureError(
                f"{system.volume:.3g} Å^3 are too much for {len(system)} atoms: the mesh of the potential of "
                "their charges would fill the memory; take a smaller cell"
            )

    def _compute(self, system: System) -> Results:
        watch = _Stopwatch()
        with watch("graph"):
            graph = self._graph(system)
            part, atoms = graph.part, self._atoms(system)
            closeness = self.model.network.closeness(graph)
        with watch("network"):
            graph = graph.with_gradient()
            blocks = self.model.network(graph)
        with watch("solver"):
            assembly = Assembly(blocks, atoms.sizes, part)
            with torch.no_grad():
                H = assembly.hamiltonian(self._dtype)
            with part.together():
                _check_elements(H)
            n_electrons = 2.0 * float(atoms.neutral.sum())
            problem = ElectronicProblem(H, None, n_electrons, self.kT, system, part)
            predicted = part.gathered(_numbers(blocks.multipoles[:, 0]))
            held = self.electrons.solve(self.solver, problem, atoms.valences + predicted)
            density = held.state.density
            excess = density.with_blocks(2.0 * density.blocks).plus_diagonal(-2.0 * atoms.neutral)
        with watch("gradient"):
            on_multipoles = torch.zeros_like(blocks.multipoles)
            on_multipoles[:, 0] = -torch.from_numpy(part.chosen(held.potentials)).to(on_multipoles)
            cotangents = (*assembly.cotangents(excess), on_multipoles)
            forces, stress = self._derivatives(system, graph, blocks, *cotangents)
        extrapolations = self._extrapolations(blocks, part.own(graph.species), closeness)
        return self._results(
            system, part, blocks, H, excess, held, atoms, forces, stress, extrapolations, watch.seconds
        )

    def with_settings(self, **changes: Unpack[EngineKeywords]) -> Engine:
        """An engine with the same model and other settings; InputError for other ``dtype`` or ``device``."""
        before = EngineKeywords(
            **{name: value for name, value in vars(self.settings).items() if name != "model"}  # type: ignore[typeddict-item]
        )
        _refuse_change(before, changes)
        return Engine(self.model, **(before | changes))

    def close(self) -> None:
        """Nothing to give back: the model goes with the last engine that uses it."""

    def hamiltonian(self, system: System) -> Array:
        """(n, n) predicted Hamiltonian in eV at Gamma of the very cell, on the model's zero of potential."""
        graph = self._graph(system)
        with torch.no_grad():
            blocks = self.model.network(graph)
            return Assembly(blocks, self._atoms(system).sizes).hamiltonian().dense().cpu().numpy()

    def eigenvalues(self, system: System) -> Array:
        """(n,) ascending eigenvalues in eV of the predicted Hamiltonian at Gamma of the very cell."""
        return np.asarray(np.linalg.eigvalsh(self.hamiltonian(system)), dtype=np.float64)

    def _graph(self, system: System) -> Graph:
        use_torch_threads()
        return self.graphs.build(system, self._dtype).to(self._device)

    def _atoms(self, system: System) -> _Atoms:
        key = system.numbers.tobytes()
        if self._composition is None or self._composition[0] != key:
            basis = self.model.basis
            species = basis.species_index(system.numbers)
            sizes = torch.tensor(basis.sizes[species], device=self._device)
            occupations = np.zeros((len(basis.species), int(basis.sizes.max())))
            for row, filled in zip(occupations, basis.occupations, strict=True):
                row[: len(filled)] = filled
            atoms = _Atoms(
                species=species,
                sizes=sizes,
                neutral=torch.from_numpy(occupations[species]).to(self._device),
                valences=basis.valences[species],
                isolated=np.array(self.model.metadata.atom_energies_eV)[species],
            )
            self._composition = (key, atoms)
        return self._composition[1]

    def _extrapolations(self, blocks: Blocks, species: Tensor, closeness: Tensor) -> Tensor:
        """(M,) by the features of the atoms, and by distances shorter than any of the training data."""
        by_features = self.model.indicator(blocks.descriptors.detach(), species)
        by_distances = torch.where(closeness > 0.0, 1.0 + closeness / _CLOSE, 0.0)
        return torch.maximum(by_features, by_distances)

    def _derivatives(
        self, system: System, graph: Graph, blocks: Blocks, onsite: Tensor, pairs: Tensor, multipoles: Tensor
    ) -> tuple[Array, Array]:
        """Forces (N, 3) and stress (3, 3) by one vector-Jacobian product, given dE/d(blocks)."""
        products = (blocks.onsite * onsite, blocks.pairs * pairs, blocks.multipoles * multipoles)
        linear = torch.stack([product.sum() for product in (*products, blocks.energies)]).sum()
        gradients = torch.autograd.grad(linear, graph.geometry)  # with cotangents torch would load sympy
        forces, virial = (_numbers(values) for values in forces_and_virial(gradients, graph))
        return graph.part.gathered(forces), -graph.part.total(virial) / system.volume

    def _results(
        self,
        system: System,
        part: Whole,
        blocks: Blocks,
        H: BlockMatrix,
        excess: BlockMatrix,
        held: HeldState,
        atoms: _Atoms,
        forces: Array,
        stress: Array,
        extrapolations: Tensor,
        timings: dict[str, float],
    ) -> Results:
        state = held.state
        energies = (
            atoms.isolated
            + held.energies
            + part.gathered(_numbers(blocks.energies))
            + part.total(_numbers(excess.atom_products(H)))
            - state.entropy_term / len(system)
        )
        populations = part.total(_numbers(state.density.orbital_populations().sum(dim=1)))
        found = part.gathered(_numbers(extrapolations))
        return Results(
            energy=float(energies.sum()),
            forces=forces,
            stress=stress,
            energies=energies,
            charges=atoms.valences - 2.0 * populations,
            band_gap=state.band_gap,
            fermi_level=state.fermi_level,
            homo=state.homo,
            lumo=state.lumo,
            band_energy=state.band_energy,
            electronic_entropy=state.entropy_term,
            extrapolation=float(found.max()),
            extrapolations=found,
            charge_deviation=float(np.abs(held.deviations).max()),
            charge_deviations=held.deviations,
            timings=timings,
            provenance=self.provenance(),
        ).check_finite()
