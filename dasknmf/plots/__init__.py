"""Pictures of a factorization. Needs matplotlib: ``pip install 'dasknmf[plot]'``.

Every function takes a fitted model, a run (or its path), what was found of many, or plain arrays, draws into
`ax` where it is given, and returns the Axes: one, or an array of them where there are several panels.
"""

from dasknmf.plots.abundances import abundances
from dasknmf.plots.components import components
from dasknmf.plots.consensus import consensus
from dasknmf.plots.convergence import convergence
from dasknmf.plots.features import top_features
from dasknmf.plots.ranks import ranks
from dasknmf.plots.reconstruction import reconstruction

__all__ = [
    "abundances",
    "components",
    "consensus",
    "convergence",
    "ranks",
    "reconstruction",
    "top_features",
]
