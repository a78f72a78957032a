"""Density matrix by diagonalization: exact, for any electronic temperature; cost N^3."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlh_driver.errors import SolverError
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState
from mlh_driver.system import Array

DEGENERACY_eV = 1e-5  # what single precision resolves
NEGLIGIBLE_OCCUPATION = 1e-18
#: Smaller gaps respond as this one does: at zero temperature the density matrix jumps where a gap closes.
_LEAST_GAP_eV = 0.05
#: Of the number of electrons with the Fermi level; below, the gap is too wide for it to matter.
_LEAST_SLOPE_per_eV = 1e-30


def fermi_occupations(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    """Fermi-Dirac occupations 1 / (1 + exp((e - mu) / kT)), written so that nothing overflows."""
    return 0.5 * (1.0 - np.tanh(0.5 * (levels - mu) / kT))


def chemical_potential(levels: np.ndarray, n_occupied: float, kT: float) -> float:
    """The mu at which the occupations sum to ``n_occupied``; if there is a gap, its middle."""
    margin = 40.0 * kT + 1.0

    def excess(mu: float) -> float:
        return float(fermi_occupations(levels, mu, kT).sum() - n_occupied)

    filled = round(n_occupied)
    if abs(filled - n_occupied) < 1e-12 and 0 < filled < len(levels):
        middle = 0.5 * (levels[filled - 1] + levels[filled])
        if abs(excess(middle)) < 1e-13 * len(levels):
            return float(middle)
    from scipy.optimize import brentq  # slow to load, and not needed where there is a gap

    return float(brentq(excess, levels[0] - margin, levels[-1] + margin, xtol=1e-13, rtol=1e-15))


def entropy_of(occupations: np.ndarray) -> float:
    """-2 sum [f ln f + (1 - f) ln(1 - f)], the electronic entropy over k for both spins."""
    f = occupations[(occupations > 1e-300) & (occupations < 1.0)]
    return 0.0 - float(2.0 * (f * np.log(f) + (1.0 - f) * np.log1p(-f)).sum())


class DenseSolver:
    """Diagonalizes H (or the pencil H, S) with LAPACK."""

    name = "dense"

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        """See :class:`~mlh_driver.solvers.base.Solver`.

        Raises SolverError for an overlap that is not positive definite, and, at kT = 0, for an odd
        electron number or a closed gap.
        """
        pattern, kT, n_occupied = problem.H, problem.kT, problem.n_occupied
        levels, vectors = eigenstates(pattern.dense(), problem.S.dense() if problem.S else None)
        if kT > 0:
            mu = chemical_potential(levels, n_occupied, kT)
            occupations = fermi_occupations(levels, mu, kT)
            entropy_term = kT * entropy_of(occupations)
        else:
            occupations, mu = ground_state_filling(levels, n_occupied)
            entropy_term = 0.0
        homo, lumo = frontier_levels(levels, n_occupied)
        filled = int(np.count_nonzero(occupations > NEGLIGIBLE_OCCUPATION))
        orbitals = vectors[:, :filled]
        if problem.S is None and orbitals.dtype == torch.float32:
            orbitals = orthonormalized(orbitals.double())
        f = torch.from_numpy(occupations[:filled]).to(orbitals)
        e = torch.from_numpy(levels[:filled]).to(orbitals)
        density = pattern.like_dense((orbitals * f) @ orbitals.T)
        return ElectronicState(
            density=density,
            energy_weighted=pattern.like_dense((orbitals * (f * e)) @ orbitals.T) if problem.S else None,
            band_energy=2.0 * float(density.atom_products(pattern).sum()),
            entropy_term=entropy_term,
            fermi_level=mu,
            homo=homo,
            lumo=lumo,
            susceptibility=None
            if problem.S
            else partial(susceptibility, pattern.sizes, vectors, levels, occupations, kT),
        )


def susceptibility(
    sizes: Tensor,
    vectors: Tensor,
    levels: np.ndarray,
    occupations: np.ndarray,
    kT: float,
    atoms: NDArray[np.int64],
) -> Array:
    """dn_i/dv_j of ``atoms`` (k,), (k, k) in electrons per eV, by first-order perturbation theory.

    With M^i_ab the part of the overlap of orbitals a and b on atom i, and K as in ``_DensityResponse``:
    chi_ij = 2 sum_ab K_ab M^i_ab M^j_ab, less what keeps the number of electrons. Only pairs count of which
    one orbital holds electrons and one has room for some.
    """
    f = torch.from_numpy(occupations)
    K = _response(torch.from_numpy(levels), f, kT)
    filled, empty = f > NEGLIGIBLE_OCCUPATION, 1.0 - f > NEGLIGIBLE_OCCUPATION
    both = filled & empty
    counts = 2.0 - torch.outer(both[filled].double(), both[empty].double())  # a pair of these comes twice
    parts = [vectors.cpu().split(sizes.tolist())[i] for i in atoms]
    overlaps = torch.stack([part[:, filled].T @ part[:, empty] for part in parts])
    weighted = overlaps * (counts * K[filled][:, empty]).to(overlaps.dtype)
    chi = 2.0 * (weighted.flatten(1) @ overlaps.flatten(1).T).double()
    slopes = K.diagonal()[both]
    feels = torch.stack([2.0 * part[:, both].double().square().sum(dim=0) @ slopes for part in parts])
    total = 2.0 * slopes.sum().clamp(max=-_LEAST_SLOPE_per_eV)
    return (chi - torch.outer(feels, feels) / total).numpy()


def eigenstates(H: Tensor, S: Tensor | None) -> tuple[np.ndarray, Tensor]:
    """Ascending eigenvalues (n,) as numpy, and S-orthonormal eigenvectors (n, n) as columns."""
    if S is None:
        levels, vectors = torch.linalg.eigh(H)
        return levels.double().cpu().numpy(), vectors
    factor, info = torch.linalg.cholesky_ex(S)
    if int(info):
        raise SolverError("the overlap matrix is not positive definite; the basis is linearly dependent")
    inner = torch.linalg.solve_triangular(factor, H, upper=False)
    inner = torch.linalg.solve_triangular(factor, inner.T, upper=False)
    levels, vectors = torch.linalg.eigh(0.5 * (inner + inner.T))
    return levels.cpu().numpy(), torch.linalg.solve_triangular(factor.T, vectors, upper=True)


def orthonormalized(vectors: Tensor) -> Tensor:
    """Nearly orthonormal columns (n, m) after one Newton-Schulz step, which squares their error.

    Single precision finds eigenvectors faster. What it leaves of their mutual overlap would be a first-order
    error of the energy; a rotation between occupied and empty orbitals is of second order.
    """
    return 1.5 * vectors - 0.5 * vectors @ (vectors.T @ vectors)


def ground_state_filling(levels: np.ndarray, n_occupied: float) -> tuple[np.ndarray, float]:
    """Zero-temperature occupations and mid-gap mu; refuses an odd count or a closed gap."""
    filled = round(n_occupied)
    if abs(filled - n_occupied) > 1e-9:
        raise SolverError(
            f"{2 * n_occupied:g} electrons cannot fill levels in pairs; use an electronic temperature above "
            "zero"
        )
    homo, lumo = frontier_levels(levels, n_occupied)
    if lumo - homo < DEGENERACY_eV:
        raise SolverError(
            f"the gap is {lumo - homo:.1e} eV, so the zero-temperature state is not defined; "
            "use an electronic temperature above zero, such as 300 K"
        )
    occupations = np.zeros(len(levels))
    occupations[:filled] = 1.0
    return occupations, 0.5 * (homo + lumo) if np.isfinite(lumo - homo) else float(levels[-1])


def frontier_levels(levels: np.ndarray, n_occupied: float) -> tuple[float, float]:
    """Highest level with more than half a pair, and the next; infinite where there is none."""
    filled = int(np.floor(n_occupied + 0.5))
    homo = float(levels[filled - 1]) if filled > 0 else -np.inf
    lumo = float(levels[filled]) if filled < len(levels) else np.inf
    return homo, lumo


def filling(levels: np.ndarray, n_occupied: int, kT: float) -> np.ndarray:
    """(n,) occupations of ascending levels: Fermi-Dirac, or, at kT = 0, of the lowest whatever the gap."""
    if kT > 0:
        return fermi_occupations(levels, chemical_potential(levels, n_occupied, kT), kT)
    return (np.arange(len(levels)) < n_occupied).astype(np.float64)


class _DensityResponse(torch.autograd.Function):
    """P(H) and T_e S_e, the former with its first-order response dP = V (K o X - x diag(f')) V^T.

    X = V^T dH V, K_ab = (f_a - f_b) / (e_a - e_b), K_aa = f'_a = df_a / de_a. The Fermi level moves by
    x = sum f'_a X_aa / sum f'_a, which keeps the number of electrons. Used only by training on forces; the
    engine's forces need no derivative of P.
    """

    @staticmethod
    def forward(ctx, H: Tensor, n_occupied: int, kT: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        levels, vectors = torch.linalg.eigh(H)
        occupations = filling(levels.double().numpy(), n_occupied, kT)
        f = torch.from_numpy(occupations).to(H)
        entropy_term = H.new_tensor(kT * entropy_of(occupations))
        ctx.save_for_backward(levels, vectors, f)
        ctx.kT = kT
        ctx.mark_non_differentiable(entropy_term)
        return (vectors * f) @ vectors.T, entropy_term

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor):  # type: ignore[override]
        levels, vectors, f = ctx.saved_tensors
        K = _response(levels, f, ctx.kT)
        inner = vectors.T @ (0.5 * (gradient + gradient.T)) @ vectors
        slopes = K.diagonal()
        shift = (slopes * inner.diagonal()).sum() / slopes.sum().clamp(max=-_LEAST_SLOPE_per_eV)
        return vectors @ (K * inner - torch.diag(shift * slopes)) @ vectors.T, None, None


def _response(levels: Tensor, f: Tensor, kT: float) -> Tensor:
    return _warm_response(levels, f, kT) if kT > 0 else _cold_response(levels, f)


def _cold_response(levels: Tensor, f: Tensor) -> Tensor:
    """K (n, n) at zero temperature, which couples occupied with empty levels; bounded at a closing gap."""
    differences = (levels[:, None] - levels[None, :]).abs().clamp(min=_LEAST_GAP_eV)
    return -(f[:, None] - f[None, :]).abs() / differences


def _warm_response(levels: Tensor, f: Tensor, kT: float) -> Tensor:
    """K (n, n) of Fermi-Dirac occupations.

    With d = (e_a - e_b) / kT it is -[f_a (1 - f_b) + f_b (1 - f_a)] tanh(d / 2) / (d kT), where nothing
    cancels if levels are close.
    """
    d = (levels[:, None] - levels[None, :]) / kT
    ratio = torch.where(d == 0, 0.5, torch.tanh(0.5 * d) / torch.where(d == 0, 1.0, d))
    crossed = f[:, None] * (1.0 - f)[None, :]
    return -(crossed + crossed.T) * ratio / kT


def differentiable_density(H: Tensor, n_occupied: int, kT: float) -> tuple[Tensor, Tensor]:
    """P of H, (n, n), differentiable once (first-order perturbation theory), and T_e S_e in eV, which is not.

    The free energy 2 Tr[P H] - T_e S_e is stationary, so its derivative needs neither of the two.
    """
    density, entropy_term = _DensityResponse.apply(H, n_occupied, kT)
    return density, entropy_term
