"""Train and evaluate a MACE potential; runs in an environment with ``mace-torch``, started by compare.py.

python mace_potential.py FOLDER SECONDS

FOLDER holds train.xyz, valid.xyz and all.xyz (REF_energy, REF_forces) and settings.json (energies of isolated
atoms, weights of the loss);
predictions go to FOLDER/mace.json. Training ends after the epoch in which SECONDS of processor time are over.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import ase.io
import torch
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric

BATCH, RATE, DECAY = 2, 5e-3, 0.99
KEYS = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    torch.manual_seed(0)
    settings = json.loads((folder / "settings.json").read_text())
    weights = settings["weights"]
    energies = {int(z): e for z, e in settings["energies"].items()}
    table = AtomicNumberTable(sorted(energies))
    train = graphs(folder / "train.xyz", table)
    valid = graphs(folder / "valid.xyz", table)
    model = build(table, energies, train)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, amsgrad=True)
    start, epoch = time.process_time(), 0
    while (used := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:  # cosine decay over the time that is there
            group["lr"] = RATE * (
                0.01 + 0.495 * (1 + torch.cos(torch.tensor(torch.pi * used / seconds)).item())
            )
        for batch in torch_geometric.dataloader.DataLoader(train, BATCH, shuffle=True):
            out = model(batch.to_dict(), training=True, compute_force=True)
            per_atom = (out["energy"] - batch["energy"]) / (batch.ptr[1:] - batch.ptr[:-1])
            loss = weights["energy"] * per_atom.square().mean()
            loss = loss + weights["forces"] * (out["forces"] - batch["forces"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            average.update_parameters(model)
        epoch += 1
        if epoch % 10 == 0:
            errors = [
                f - v["forces"] for (_, f), v in zip(predict(average.module, valid), valid, strict=True)
            ]
            rmse = torch.cat(errors).square().mean().sqrt().item()
            print(
                f"epoch {epoch}, {used:.0f} s, validation forces {1e3 * rmse:.0f} meV/A",
                flush=True,
            )
    frames = ase.io.read(folder / "all.xyz", ":")
    found = predict(average.module, graphs(folder / "all.xyz", table))
    rows = {
        atoms.info["name"]: {"energy": energy, "forces": forces.tolist()}
        for atoms, (energy, forces) in zip(frames, found, strict=True)
    }
    (folder / "mace.json").write_text(
        json.dumps({"seconds": time.process_time() - start, "epochs": epoch, "frames": rows})
    )
    torch.save(average.module, folder / "mace.pt")


def graphs(path: Path, table: AtomicNumberTable) -> list:
    configurations = [data.config_from_atoms(atoms, KEYS) for atoms in ase.io.read(path, ":")]
    return [data.AtomicData.from_config(c, z_table=table, cutoff=5.0) for c in configurations]


def build(table: AtomicNumberTable, energies: dict[int, float], train: list) -> torch.nn.Module:
    """32x0e + 32x1o, two layers, 5 Å: isolated-atom references, forces scaled by their spread."""
    from e3nn import o3

    forces = torch.cat([graph["forces"] for graph in train])
    edges = sum(graph.edge_index.shape[1] for graph in train) / sum(len(graph.positions) for graph in train)
    return modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2, num_elements=len(table), hidden_irreps=o3.Irreps("32x0e+32x1o"),
        MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu,
        atomic_energies=[energies[z] for z in table.zs], avg_num_neighbors=edges,
        atomic_numbers=table.zs, correlation=3, radial_type="bessel",
        atomic_inter_scale=forces.square().mean().sqrt().item(), atomic_inter_shift=0.0,
    )  # fmt: skip


def predict(model: torch.nn.Module, graphs: list) -> list[tuple[float, torch.Tensor]]:
    found = []
    for graph in graphs:
        (batch,) = torch_geometric.dataloader.DataLoader([graph], 1)
        out = model(batch.to_dict(), compute_force=True)
        found.append((float(out["energy"]), out["forces"].detach()))
    return found


if __name__ == "__main__":
    main()
