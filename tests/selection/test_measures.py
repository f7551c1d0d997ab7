"""Measures of agreement between starts of one rank, against brute force, scikit-learn and SciPy."""

from __future__ import annotations

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from sklearn.metrics import silhouette_samples

from benchmarks.matching import matched_cosines
from dasknmf.selection.matching import centroids, matched
from dasknmf.selection.rules import RULES, choose, default_rule, explained
from dasknmf.selection.stability import (
    co_occurrences,
    cophenetic,
    dispersion,
    instability,
    silhouettes,
)


def runs_of(truth, n_runs, noise, rng):
    """Copies of the truth in any order and scale, with noise; and the row of the truth of each row."""
    orders = np.array([rng.permutation(len(truth)) for _ in range(n_runs)])
    scales = rng.gamma(2.0, size=(n_runs, len(truth), 1)) + 0.1
    return scales * (truth[orders] + noise * rng.random((n_runs, *truth.shape))), orders


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def truth(rng):
    return rng.gamma(0.4, size=(6, 80))


def as_one(spectra):
    rows = np.concatenate(list(spectra))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_components_of_one_kind_are_matched(truth, rng):
    spectra, orders = runs_of(truth, 9, 0.3, rng)
    labels = matched(list(spectra))
    names = np.argsort(labels[0])  # clusters have the order of the rows of the first run
    assert (orders[0][names][labels] == orders).all()
    assert (labels == matched(spectra)).all()
    scaled = matched([each * 10.0**run for run, each in enumerate(spectra)])
    assert (scaled == labels).all()


def test_each_run_gives_one_to_each_cluster_and_no_swap_is_better(rng):
    spectra = rng.random((7, 4, 5))  # without structure, so that assignments change
    labels = matched(spectra)
    assert (np.sort(labels, axis=1) == np.arange(4)).all()
    units = spectra / np.linalg.norm(spectra, axis=2, keepdims=True)
    centres = np.array([units[labels == cluster].mean(axis=0) for cluster in range(4)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for run, each in zip(labels, units, strict=True):
        reached = (each * centres[run]).sum()
        best = max((each * centres[list(order)]).sum() for order in itertools.permutations(range(4)))
        assert reached == pytest.approx(best)


def test_dead_components_are_matched_with_what_is_left(truth, rng):
    spectra, orders = runs_of(truth, 5, 0.1, rng)
    spectra[orders == 2] = 0
    labels = matched(spectra)
    assert (np.argsort(orders[0])[orders] == np.argsort(labels[0])[labels]).all()
    dead = labels[orders == 2]
    assert (dead == dead[0]).all()
    centres = centroids(spectra, labels)
    assert (centres[dead[0]] == 0).all()
    assert np.linalg.norm(np.delete(centres, dead[0], axis=0), axis=1).min() > 0
    each = silhouettes(spectra, labels)
    assert each[dead[0]] == 0
    assert np.delete(each, dead[0]).min() > 0.7
    spectra[:, 0] = 0
    spectra[0] = 0  # first centroids of zeros
    assert (np.sort(matched(spectra), axis=1) == np.arange(6)).all()


def test_centroids_have_the_direction_of_the_mean_and_the_scale_of_the_runs(truth, rng):
    spectra, _ = runs_of(truth, 8, 0.2, rng)
    labels = matched(spectra)
    made = centroids(spectra, labels)
    flat, units = spectra.reshape(-1, 80), as_one(spectra)
    for cluster, row in enumerate(made):
        inside = labels.ravel() == cluster
        expected = units[inside].mean(axis=0)
        assert row / np.linalg.norm(row) == pytest.approx(expected / np.linalg.norm(expected))
        assert np.linalg.norm(row) == pytest.approx(np.median(np.linalg.norm(flat[inside], axis=1)))


def test_matched_cosines(truth, rng):
    order = rng.permutation(6)
    other = 3 * truth[order] + 0.5 * rng.random(truth.shape)
    found = matched_cosines(truth, other)
    expected = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(truth[order], other, strict=True)
    ]
    assert found[order] == pytest.approx(expected)
    assert matched_cosines(truth, 1e-200 * truth[::-1]) == pytest.approx(np.ones(6))
    best = max(
        sum(as_one([truth])[i] @ as_one([other])[j] for i, j in enumerate(each))
        for each in itertools.permutations(range(6))
    )
    assert found.sum() == pytest.approx(best)


@pytest.mark.parametrize("noise", [0.05, 2.0])
def test_silhouettes_are_scikit_learns_on_angles(truth, rng, noise):
    spectra, _ = runs_of(truth, 6, noise, rng)
    labels = matched(spectra)
    units = as_one(spectra)
    angles = np.arccos(np.clip(units @ units.T, -1, 1))
    np.fill_diagonal(angles, 0)
    samples = silhouette_samples(angles, labels.ravel(), metric="precomputed")
    expected = [samples[labels.ravel() == cluster].mean() for cluster in range(6)]
    assert silhouettes(spectra, labels) == pytest.approx(expected)


def test_silhouettes_where_nothing_differs(truth):
    same = np.array([truth, truth[::-1], 5 * truth])
    assert silhouettes(same, matched(same)) == pytest.approx(np.ones(6), abs=1e-12)
    twins = np.array([truth[[0, 0, 1]]] * 4)  # two equal clusters have silhouette zero
    each = silhouettes(twins, matched(twins))
    assert each == pytest.approx([0, 0, 1])
    assert silhouettes(truth[:4, None], np.zeros((4, 1), int)) == pytest.approx([1.0])
    assert np.isnan(silhouettes(truth[None], matched(truth[None]))).all()


def test_instability_is_the_amari_error_of_all_pairs(truth, rng):
    spectra, _ = runs_of(truth, 5, 0.5, rng)
    pairs = []
    for A, B in itertools.combinations(spectra, 2):
        C = np.abs(np.corrcoef(A, B)[:6, 6:])
        pairs.append((12 - C.max(axis=0).sum() - C.max(axis=1).sum()) / 12)
    assert instability(spectra) == pytest.approx(np.mean(pairs))
    assert instability([truth, 2 * truth[::-1]]) == pytest.approx(0, abs=1e-12)
    dead = truth.copy()
    dead[0] = 0
    flat = truth.copy()
    flat[0] = 0.1
    assert instability([dead, dead]) == pytest.approx(1 / 6)
    assert instability([flat, flat]) == pytest.approx(1 / 6)
    assert np.isnan(instability([truth]))


def clusters(rng, n_runs, n_rows, n_clusters, share):
    """Labels that agree for a share of the rows; each run numbers its clusters in another way."""
    base = rng.integers(n_clusters, size=n_rows)
    drawn = rng.integers(n_clusters, size=(n_runs, n_rows))
    labels = np.where(rng.random((n_runs, n_rows)) < share, base, drawn)
    return np.array([rng.permutation(10 * n_clusters)[run] for run in labels])


def test_consensus_dispersion_and_cophenetic(rng):
    labels = clusters(rng, 7, 40, 4, 0.7)
    together = np.mean([run[:, None] == run[None, :] for run in labels], axis=0)
    assert co_occurrences(labels) / 7 == pytest.approx(together)
    assert dispersion(labels) == pytest.approx(np.sum(4 * (together - 0.5) ** 2) / 40**2)
    distances = np.rint(7 - 7 * together[np.triu_indices(40, 1)])  # rounding would join ties in any order
    assert cophenetic(labels) == pytest.approx(cophenet(linkage(distances, "average"), distances)[0])
    firmer = clusters(rng, 7, 40, 4, 0.98)
    assert dispersion(firmer) > dispersion(labels)
    assert cophenetic(firmer) > cophenetic(labels)


def test_the_same_clusters_in_all_runs_are_perfect():
    once = np.arange(12) % 3
    for labels in (np.array([once, 7 - once, once]), np.zeros((3, 5), int), np.tile(np.arange(5), (3, 1))):
        assert dispersion(labels) == 1
        assert cophenetic(labels) == 1
    undecided = np.array([[0, 0], [0, 1]])
    assert dispersion(undecided) == pytest.approx(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(cophenetic(undecided))
    assert np.isnan([dispersion(once[None]), cophenetic(once[None]), cophenetic(np.zeros((4, 1)))]).all()


NAN = float("nan")
RANKS = [2, 3, 4, 5, 6]
TABLE = {
    "holdout": [5.0, 4.1, 4.0, 4.05, 4.3],
    "holdout_std": [0.1, 0.1, 0.2, 0.1, 0.1],
    "silhouette_min": [0.99, 0.9, 0.85, 0.4, 0.5],
    "instability": [0.2, 0.0105, 0.01, 0.3, 0.3],
    "dispersion": [0.9, 0.7, 0.95, 0.8, 0.9],
    "cophenetic": [0.98, 0.99, 0.97, 0.999, 0.9],
}


@pytest.mark.parametrize(
    ("rule", "rank"),
    [("holdout", 3), ("silhouette", 4), ("stability", 4), ("dispersion", 4), ("cophenetic", 3)],
)
def test_every_rule(rule, rank):
    assert rule in RULES
    shuffled = [3, 0, 4, 1, 2]
    other = {name: [column[index] for index in shuffled] for name, column in TABLE.items()}
    assert choose(RANKS, TABLE, rule) == rank
    assert choose([RANKS[index] for index in shuffled], other, rule) == rank
    assert choose(RANKS, pd.DataFrame(TABLE, index=RANKS), rule) == rank


def test_the_standard_error_is_of_the_mean_over_starts():
    assert choose(RANKS, TABLE, "holdout", n_init=1) == 3
    assert choose(RANKS, TABLE, "holdout", n_init=16) == 4  # 4.0 + 0.2 / 4 is below 4.1
    assert choose(RANKS, {"holdout": TABLE["holdout"]}) == 4
    assert choose(RANKS, TABLE | {"holdout_std": [NAN] * 5}) == 4


def test_what_is_not_known_is_left_out():
    assert default_rule(TABLE) == "holdout"
    unknown = TABLE | {"holdout": [NAN] * 5}
    assert default_rule(unknown) == "silhouette"
    assert choose(RANKS, unknown) == 4
    assert choose(RANKS, TABLE | {"holdout": [NAN, NAN, NAN, 4.05, np.inf]}) == 5
    assert choose(RANKS, TABLE | {"cophenetic": [0.9, 0.95, NAN, 0.94, 1.0]}, "cophenetic") == 3
    assert choose(RANKS, TABLE | {"cophenetic": [0.9, 0.9, 0.91, 0.92, 0.93]}, "cophenetic") == 6


def test_a_single_component_always_agrees_with_itself():
    perfect = {"instability": [0, 0.2, 0.1], "dispersion": [1, 0.7, 0.8], "cophenetic": [1, 0.8, 0.9]}
    for rule in ("stability", "dispersion", "cophenetic"):
        assert choose([1, 2, 3], perfect, rule) == 3
        assert choose([1], {name: column[:1] for name, column in perfect.items()}, rule) == 1


def test_the_highest_silhouette_is_chosen_with_a_warning():
    low = {"silhouette_min": [0.3, 0.7, 0.6]}
    with pytest.warns(UserWarning, match="silhouette of 0.8; the rank with the highest, 0.7, is chosen"):
        assert choose([2, 3, 4], low) == 3


@pytest.mark.parametrize(
    ("rule", "change", "told"),
    [
        (
            "holdout",
            {},
            r"the smallest .* 4.1, is within one standard error .* 4 \+ 0.2 \(4 components\)",
        ),
        ("holdout", {"holdout_std": [0] * 5}, "the lowest loss over hidden entries"),
        ("silhouette", {}, "the largest rank whose smallest silhouette, 0.85, is at least 0.8"),
        ("cophenetic", {}, "the last rank before the cophenetic correlation, 0.99, first falls"),
        ("cophenetic", {"cophenetic": [0.9, 0.9, 0.91, 0.92, NAN]}, "the largest rank, .* 0.92, never falls"),
        ("stability", {}, "the lowest instability, 0.01; "),
        ("dispersion", {}, "the highest dispersion, 0.95; "),
    ],
)
def test_why_is_told_in_the_rules_own_words(rule, change, told):
    table = TABLE | change
    assert re.match(told, explained(choose(RANKS, table, rule), RANKS, table, rule))


def test_mistakes_of_choosing():
    with pytest.raises(ValueError, match=r"rule is 'elbow'.*'cophenetic'.*choose one"):
        choose(RANKS, TABLE, "elbow")
    with pytest.raises(ValueError, match=r"holdout, which is not known.*hide entries \(holdout=0.05\)"):
        choose(RANKS, {}, "holdout")
    with pytest.raises(ValueError, match=r"instability, which is not known.*two starts or more"):
        choose(RANKS, {"instability": [NAN] * 5}, "stability")
