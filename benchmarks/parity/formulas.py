"""The fusion methods' formulas, from the papers, for perceptrons in numpy: raw activations, loops, no sums.

Parents are lists of ``Perceptron``; x is n x d, y the classes. Scores s are lists, a layer each, of M x n.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment, linprog

from benchmarks.parity.perceptron import Array, Perceptron

Nets = Sequence[Perceptron]
Score = Callable[[Array], float]


def softmax(z: Array) -> Array:
    """Over the last dimension."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ones(nets: Nets) -> list[Array]:
    """Uniform importance."""
    return [np.ones((len(nets), len(nets[0].b))), np.ones((len(nets), len(nets[0].c)))]


def conductance(nets: Nets, x: Array, y: Array) -> list[Array]:
    """``(1/n) sum_n |sum_t dz_y/dh(a_t x) (h(a_t+1 x) - h(a_t x))| + 1e-8``, at 11 Gauss-Legendre nodes."""
    nodes = (np.polynomial.legendre.leggauss(11)[0] + 1) / 2
    scores: list[list[Array]] = [[], []]
    for net in nets:
        hidden = [net.hidden(a * x) for a in nodes]
        steps = [net.v[y] * (h > 0) * (ahead - h) for h, ahead in itertools.pairwise(hidden)]
        scores[0].append(np.abs(np.sum(steps, 0)).mean(0) + 1e-8)
        grown = net.logits(nodes[-1] * x) - net.logits(nodes[0] * x)
        scores[1].append((np.abs(grown) * (y[:, None] == np.arange(len(net.c)))).mean(0) + 1e-8)
    return [np.stack(each) for each in scores]


def weighted(values: Sequence[Array], s: Array) -> Array:
    """``sum_m s_mk v_mk / sum_m s_mk`` along the last dimension."""
    return sum(v * w for v, w in zip(values, s, strict=True)) / s.sum(0)


def matched_fit(nets: Nets, x: Array, s: Sequence[Array], power: int) -> Perceptron:
    """HF of two parents; and KF of any, where each parent's neurons have an obvious partner in the first's.

    The pairing is the cheapest by ``s_i |y - a_i|^power + s_j |y - b_j|^power`` with y what the layer can
    express of the pair's weighted mean, the fit that of the means of all parents.
    """
    rows = np.c_[x, np.ones(len(x))]
    project = rows @ np.linalg.pinv(rows)
    values, scores = [nets[0].hidden(x)], [s[0][0]]
    for net, score in zip(nets[1:], s[0][1:], strict=True):
        b = net.hidden(x)
        cost = np.empty((len(score), len(score)))
        for i, j in itertools.product(range(len(score)), repeat=2):
            total = s[0][0, i] + score[j]
            y = project @ (s[0][0, i] * values[0][:, i] + score[j] * b[:, j]) / total
            distances = np.linalg.norm(y - values[0][:, i]), np.linalg.norm(y - b[:, j])
            cost[i, j] = s[0][0, i] * distances[0] ** power + score[j] * distances[1] ** power
        order = linear_sum_assignment(cost)[1]
        values.append(b[:, order])
        scores.append(score[order])
    first = np.linalg.pinv(rows) @ weighted(values, np.stack(scores))
    hidden = np.c_[np.maximum(rows @ first, 0), np.ones(len(x))]
    last = np.linalg.pinv(hidden) @ weighted([net.logits(x) for net in nets], s[1])
    return Perceptron(first[:-1].T, first[-1], last[:-1].T, last[-1])


def rebasin(nets: Nets, x: Array, s: Sequence[Array], power: int) -> Perceptron:
    """Git Re-Basin of two parents by ``2 s_i s_j / (s_i + s_j) |relu a_i - relu b_j|^power``."""
    a, b = (np.maximum(net.hidden(x), 0) for net in nets)
    gap = np.linalg.norm(a[:, :, None] - b[:, None], axis=0) ** power
    mass = 2 * s[0][0][:, None] * s[0][1] / (s[0][0][:, None] + s[0][1])
    order = linear_sum_assignment(mass * gap)[1]
    first, second = nets[0], nets[1].reordered(order)
    hidden = np.stack([s[0][0], s[0][1][order]])
    return Perceptron(
        weighted([first.w.T, second.w.T], hidden).T,
        weighted([first.b, second.b], hidden),
        weighted([first.v.T, second.v.T], s[1]).T,
        weighted([first.c, second.c], s[1]),
    )


def transport(nets: Nets, x: Array, s: Sequence[Array]) -> Perceptron:
    """OT fusion of two parents, the plan by linear programming."""
    a, b = (net.hidden(x) for net in nets)
    n = a.shape[1]
    nu, mu = s[0][0] / s[0][0].sum(), s[0][1] / s[0][1].sum()
    cost = np.linalg.norm(b[:, :, None] - a[:, None], axis=0)
    sums = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    plan = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([mu, nu])).x.reshape(n, n)
    back, into = (plan / nu).T, plan / nu
    w, bias, v = back @ nets[1].w, back @ nets[1].b, nets[1].v @ into
    mean = [
        (ours + theirs) / 2
        for ours, theirs in zip((nets[0].w, nets[0].b, nets[0].v), (w, bias, v), strict=True)
    ]
    return Perceptron(*mean, (nets[0].c + nets[1].c) / 2)


def regmean(nets: Nets, x: Array, share: float) -> Perceptron:
    """``(sum_m G_m)^-1 sum_m G_m W_m``, off the diagonal times ``share``; biases are means."""

    def solved(inputs: list[Array], weights: list[Array]) -> Array:
        grams = [i.T @ i * (share + (1 - share) * np.eye(i.shape[1])) for i in inputs]
        right = sum(g @ w.T for g, w in zip(grams, weights, strict=True))
        return np.linalg.solve(sum(grams), right).T

    hidden = [np.maximum(net.hidden(x), 0) for net in nets]
    biases = np.mean([net.b for net in nets], 0), np.mean([net.c for net in nets], 0)
    w = solved([x] * len(nets), [net.w for net in nets])
    return Perceptron(w, biases[0], solved(hidden, [net.v for net in nets]), biases[1])


def fisher(nets: Nets, x: Array, floor: float) -> Array:
    """``sum_m F_m theta_m / sum_m F_m``; F the mean over images of ``sum_c p_c (d log p_c / d theta)^2``."""
    upper = lower = np.zeros(1)
    for net in nets:
        p, h = softmax(net.logits(x)), net.hidden(x)
        found = np.zeros(net.flat().size)
        for n, c in itertools.product(range(len(x)), range(p.shape[1])):
            out = (np.arange(p.shape[1]) == c) - p[n]
            inner = (net.v.T @ out) * (h[n] > 0)
            slope = Perceptron(np.outer(inner, x[n]), inner, np.outer(out, np.maximum(h[n], 0)), out)
            found += p[n, c] * slope.flat() ** 2 / len(x)
        found = np.maximum(found, floor)
        upper, lower = upper + found * net.flat(), lower + found
    return upper / lower


def repaired(net: Perceptron, nets: Nets, x: Array) -> Perceptron:
    """Every channel's mean and deviation those of the parents, on average; the hidden layer first."""

    def moved(z: Array, goals: list[Array], w: Array, b: Array) -> tuple[Array, Array]:
        mean, sd = np.mean([g.mean(0) for g in goals], 0), np.mean([g.std(0) for g in goals], 0)
        ratio = sd / z.std(0)
        return w * ratio[:, None], (b - z.mean(0)) * ratio + mean

    w, b = moved(net.hidden(x), [each.hidden(x) for each in nets], net.w, net.b)
    half = Perceptron(w, b, net.v, net.c)
    return Perceptron(w, b, *moved(half.logits(x), [each.logits(x) for each in nets], net.v, net.c))


def greedy(nets: Nets, score: Score) -> Array:
    """Wortsman et al.: by falling score; a model stays where the mean of all members is no worse."""
    thetas = sorted((net.flat() for net in nets), key=lambda theta: -score(theta))
    members = thetas[:1]
    for theta in thetas[1:]:
        if score(np.mean([*members, theta], 0)) >= score(np.mean(members, 0)):
            members.append(theta)
    return np.mean(members, 0)


def greedy_v1(nets: Nets, score: Score) -> Array:
    """The best, then in pool order, that one among them: (S + theta) / 2 where it is better."""
    thetas = [net.flat() for net in nets]
    soup = max(thetas, key=score)
    for theta in thetas:
        soup = max(soup, (soup + theta) / 2, key=score)
    return soup


def greedy_v2(nets: Nets, score: Score) -> Array:
    """The first, then in pool order: (j S + theta_j) / (j + 1) where it is better."""
    soup = nets[0].flat()
    for j, net in enumerate(nets):
        soup = max(soup, (j * soup + net.flat()) / (j + 1), key=score)
    return soup


def ties(start: Array, nets: Nets, keep: float) -> Array:
    """Trim, elect, merge what agrees."""
    taus = np.stack([net.flat() - start for net in nets])
    for tau in taus:
        tau[np.argsort(-np.abs(tau))[round(keep * tau.size) :]] = 0
    sign = np.sign(taus.sum(0))
    agrees = np.sign(taus) == np.where(sign == 0, np.sign(sign.sum()), sign)
    agrees &= taus != 0
    return start + (taus * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def model_stock(start: Perceptron, nets: Nets) -> Array:
    """Per tensor ``t mean + (1 - t) start``, t = M c / (1 + (M - 1) c), c the mean cosine of all pairs."""
    parts = []
    for name in ("w", "b", "v", "c"):
        origin = getattr(start, name)
        taus = [getattr(net, name) - origin for net in nets]
        pairs = itertools.combinations(taus, 2)
        c = np.mean([(a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])
        t = min(max(len(nets) * c / (1 + (len(nets) - 1) * c), 0), 1)
        parts.append((origin + t * np.mean(taus, 0)).ravel())
    return np.concatenate(parts)


def dare(start: Array, nets: Nets, found: Array, drop: float, scale: float) -> Array:
    """Of all sums of a subset of ``tau_m / (1 - drop)`` that nearest to what was found, entry by entry."""
    taus = np.stack([net.flat() - start for net in nets]) / (1 - drop)
    masks = itertools.product((0, 1), repeat=len(nets))
    sums = np.stack([start + scale * np.tensordot(mask, taus, 1) for mask in masks])
    return np.take_along_axis(sums, np.abs(sums - found).argmin(0)[None], 0)[0]
