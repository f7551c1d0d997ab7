"""Pictures of a factorization. Needs matplotlib: ``pip install 'dasknmf[plot]'``.

Every function takes a fitted model, a run or its path, the result of a selection, or plain arrays. It draws
into `ax` where that is given, else into a new figure, and returns the Axes: one, or an array of several.
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
