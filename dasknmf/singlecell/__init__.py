"""Gene programs of single cells, in scanpy's manner: AnnData in, AnnData out. Needs the ``anndata`` extra."""

from dasknmf.singlecell.consensus import consensus_nmf
from dasknmf.singlecell.genes import leading_genes, top_genes
from dasknmf.singlecell.nmf import deviations, nmf
from dasknmf.singlecell.project import project, steps_to_repeat, usage

__all__ = [
    "consensus_nmf",
    "deviations",
    "leading_genes",
    "nmf",
    "project",
    "steps_to_repeat",
    "top_genes",
    "usage",
]
