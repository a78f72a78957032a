"""The E(3)-equivariant network: from a graph to the blocks of H and the double-counting energies."""
