"""The test-time methods' formulas for perceptrons, from the papers, in numpy; gradients by hand.

A network is a ``Perceptron``; x is n x d. ``slopes`` turns the derivative of a loss with respect to logits
into that with respect to all weights, and ``Adam`` steps along it, so that each method is its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.parity.formulas import softmax
from benchmarks.parity.perceptron import Array, Perceptron

Loss = Callable[[Array], Array]


def entropies(p: Array) -> Array:
    """``-sum_c p_c log p_c`` in nats, over the last dimension."""
    return -(p * np.log(p)).sum(-1)


def softmin(scores: Array, temperature: float) -> Array:
    """``softmax(-score / T)`` over the first dimension."""
    return softmax(-scores.T / temperature).T


def merged(nets: Sequence[Perceptron], weights: Array) -> Perceptron:
    """``sum_m a_m theta_m``."""
    return nets[0].unflat(weights @ np.stack([net.flat() for net in nets]))


def slopes(net: Perceptron, x: Array, out: Array) -> Perceptron:
    """The derivative of a loss with respect to all weights, from that with respect to the logits (n x k)."""
    h = net.hidden(x)
    inner = out @ net.v * (h > 0)
    return Perceptron(inner.T @ x, inner.sum(0), out.T @ np.maximum(h, 0), out.sum(0))


def of_entropy(z: Array) -> Array:
    """d/dz of the mean entropy of n predictions."""
    p = softmax(z)
    return -p * (np.log(p) + entropies(p)[:, None]) / len(z)


def through_softmax(p: Array, slope: Array) -> Array:
    """d/dz from d/dp."""
    return p * (slope - (p * slope).sum(-1, keepdims=True))


def shot_loss(z: Array, share: float, confidence: float) -> float:
    """Mean entropy, minus the entropy of the mean, plus ``share`` times the cross-entropy of the sure."""
    p = softmax(z)
    sure = p.max(1) > confidence
    named = -np.log(p.max(1)[sure]).mean() if sure.any() else 0.0
    return float(entropies(p).mean() - entropies(p.mean(0)) + share * named)


def of_shot(z: Array, share: float, confidence: float) -> Array:
    """d/dz of :func:`shot_loss`."""
    p = softmax(z)
    sure = p.max(1) > confidence
    named = (p - np.eye(z.shape[1])[p.argmax(1)]) * sure[:, None] / max(1, sure.sum())
    return of_entropy(z) + through_softmax(p, (np.log(p.mean(0)) + 1) / len(z)) + share * named


def of_memo(z: Array) -> Array:
    """d/dz of the entropy of the mean prediction over views."""
    p = softmax(z)
    return through_softmax(p, -(np.log(p.mean(0)) + 1) / len(z))


class Adam:
    """Kingma and Ba, arXiv 1412.6980, with its usual constants."""

    def __init__(self, rate: float) -> None:
        self.rate, self.t = rate, 0
        self.m: Array = np.zeros(1)
        self.v: Array = np.zeros(1)

    def step(self, theta: Array, slope: Array) -> Array:
        """The next weights."""
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * slope, 0.999 * self.v + 0.001 * slope**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return theta - self.rate * m / (np.sqrt(v) + 1e-8)


def shot(net: Perceptron, batches: Sequence[Array], rate: float, share: float, confidence: float) -> Array:
    """The logits of each batch before its step; the hidden layer alone is trained."""
    adam, said = Adam(rate), []
    for x in batches:
        said.append(net.logits(x))
        found = slopes(net, x, of_shot(said[-1], share, confidence))
        theta = adam.step(np.c_[net.w, net.b], np.c_[found.w, found.b])
        net = Perceptron(theta[:, :-1], theta[:, -1], net.v, net.c)
    return np.concatenate(said)


def adamerging(nets: Sequence[Perceptron], batches: Sequence[Array], rate: float) -> Array:
    """The logits of each batch before its step on lambda, one for each model and layer, within [0, 1]."""
    count = len(nets)
    mean = merged(nets, np.full(count, 1 / count)).flat()
    taus = np.stack([net.flat() - mean for net in nets])
    layer = np.repeat([0, 1], [nets[0].w.size + nets[0].b.size, nets[0].v.size + nets[0].c.size])
    lambdas, adam, said = np.full((2, count), 1 / count), Adam(rate), []
    for x in batches:
        net = nets[0].unflat(mean + (lambdas[layer].T * taus).sum(0))
        said.append(net.logits(x))
        found = slopes(net, x, of_entropy(said[-1])).flat()
        slope = np.stack([[(found * tau)[layer == number].sum() for tau in taus] for number in (0, 1)])
        lambdas = np.clip(adam.step(lambdas, slope), 0, 1)
    return np.concatenate(said)


def t3a(net: Perceptron, batches: Sequence[Array], keep: int) -> Array:
    """The logits of each batch by prototypes of the ``keep`` surest supports of each class so far."""
    z = net.v.copy()
    said = []
    for x in batches:
        features = np.maximum(net.hidden(x), 0)
        z = np.concatenate([z, features])
        p = softmax(z @ net.v.T + net.c)
        kept = [np.flatnonzero(p.argmax(1) == c) for c in range(len(net.c))]
        kept = [members[np.argsort(entropies(p)[members], kind="stable")[:keep]] for members in kept]
        units = z / np.linalg.norm(z, axis=1, keepdims=True)
        mu = np.stack([units[members].sum(0) for members in kept])
        said.append(features @ (mu / np.linalg.norm(mu, axis=1, keepdims=True)).T)
        z = z[np.sort(np.concatenate(kept))]
    return np.concatenate(said)


def lame(net: Perceptron, x: Array, neighbours: int, steps: int) -> Array:
    """Probabilities after ``y <- softmax(log p + w y)``, w the graph of nearest features."""
    p = softmax(net.logits(x))
    units = np.maximum(net.hidden(x), 0)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    gaps = np.linalg.norm(units[:, None] - units, axis=2) + np.diag(np.full(len(x), np.inf))
    w = np.zeros((len(x), len(x)))
    np.put_along_axis(w, np.argsort(gaps, 1, kind="stable")[:, :neighbours], 1.0, 1)
    y = p
    for _ in range(steps):
        y = softmax(np.log(p) + w @ y)
    return y


def memo(net: Perceptron, images: Array, views: Sequence[Array], rate: float) -> Array:
    """The logits of each image after one plain step on its own views."""
    said = []
    for x, seen in zip(images, views, strict=True):
        found = slopes(net, seen, of_memo(net.logits(seen))).flat()
        said.append(net.unflat(net.flat() - rate * found).logits(x[None]))
    return np.concatenate(said)


def entropy_adaptive(nets: Sequence[Perceptron], x: Array, temperature: float) -> Array:
    """The encoder merged by its sources' entropies, the head by those of the heads on its features."""
    own = np.stack([entropies(softmax(net.logits(x))).mean() for net in nets]) / np.log(len(nets[0].c))
    body = merged(nets, softmin(own, temperature))
    heads = [Perceptron(body.w, body.b, net.v, net.c) for net in nets]
    theirs = np.stack([entropies(softmax(head.logits(x))).mean() for head in heads]) / np.log(len(body.c))
    return merged(heads, softmin(theirs, temperature)).logits(x)


def dawin(nets: Sequence[Perceptron], x: Array, by_image: bool) -> Array:
    """Merged by ``softmax_i(-H_i(x))``, for each image or by the mean over the batch."""
    shares = softmin(np.stack([entropies(softmax(net.logits(x))) for net in nets]), 1.0)
    if not by_image:
        return merged(nets, shares.mean(1)).logits(x)
    return np.concatenate([merged(nets, a).logits(image[None]) for a, image in zip(shares.T, x, strict=True)])


def divergence(p: Array, q: Array) -> Array:
    """Jensen-Shannon, in nats."""
    m = (p + q) / 2
    return (p * np.log(p / m) + q * np.log(q / m)).sum(-1) / 2


def consensus(nets: Sequence[Perceptron], x: Array, temperature: float) -> Array:
    """Merged by each source's divergence from the mean prediction, in units of log 2."""
    p = np.stack([softmax(net.logits(x)) for net in nets])
    return merged(nets, softmin(divergence(p, p.mean(0)).mean(1) / np.log(2), temperature)).logits(x)


def generalist(nets: Sequence[Perceptron], x: Array, gamma: float) -> Array:
    """Between the mean model and the surest source: ``lambda = sigmoid(gamma JS)`` for the mean."""
    mean = merged(nets, np.full(len(nets), 1 / len(nets)))
    p = [softmax(net.logits(x)) for net in nets]
    surest = int(np.argmin([entropies(each).mean() for each in p]))
    share = 1 / (1 + np.exp(-gamma * divergence(p[surest], softmax(mean.logits(x))).mean()))
    return merged([mean, nets[surest]], np.array([share, 1 - share])).logits(x)
