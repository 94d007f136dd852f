"""A source is the caller's model; what a merge would have to choose is refused by name."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from fedmerge.models.flat import FlatModels
from fedmerge.models.plain import plain
from fedmerge.models.state import average
from fedmerge.testtime import TESTTIME, baselines
from tests.facts import refused
from tests.testtime.grouped import adaptive

NAMES = [method.name for method in TESTTIME]
MERGING = [name for name in NAMES if name not in ("entropy-weighted", "contrast")]
merging = pytest.mark.parametrize("name", MERGING)
each = pytest.mark.parametrize("name", NAMES)


class Around(nn.Module):
    """A network with something of its own around it, which ``before`` and ``after`` use."""

    def __init__(self, net: nn.Module, **attributes: Any) -> None:
        super().__init__()
        self.net = net
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=name.startswith("kept"))
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class Centred(Around):
    """Takes its own mean from the images: a non-persistent buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - self.mean)


class Scaled(Around):
    """Multiplies the images by an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.gain)


class Ordered(Around):
    """Orders the channels by integers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, self.kept])


class Signed(Around):
    """Turns the images around where a boolean says so."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.where(self.kept, x, -x))


class Settings:
    """An object that says nothing of what it holds."""

    def __init__(self, gain: float) -> None:
        self.gain = gain


class Indirect(Around):
    """Multiplies the images by what an object in an attribute holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.settings.gain)


OWN: list[tuple[Callable[[nn.Module, int], nn.Module], tuple[str, ...]]] = [
    (lambda net, i: Centred(net, mean=torch.tensor(0.4 * i)), ("mean", "models[0]", "models[1]")),
    (lambda net, i: Scaled(net, gain=1.0 + i), ("gain", "models[0]", "models[1]")),
    (lambda net, i: Ordered(net, kept=torch.arange(3).roll(i)), ("kept", "int64")),
    (lambda net, i: Signed(net, kept=torch.tensor(i == 1)), ("kept", "bool")),
    (lambda net, i: Indirect(net, settings=Settings(1.0 + i)), ("object", "attribute")),
]
own = pytest.mark.parametrize(("around", "words"), OWN, ids=["mean", "gain", "order", "sign", "object"])


def entropies(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(dim=-1) / math.log(p.shape[-1])


@own
def test_each_source_keeps_what_is_its_own(
    models: list[nn.Module], batch: Tensor, around: Any, words: tuple[str, ...]
) -> None:
    """The weighted ensemble, from the caller's models themselves: p = sum_i alpha_i p_i."""
    given = [around(model, i).eval() for i, model in enumerate(models)]
    p = torch.stack([model(batch).softmax(dim=1) for model in given])
    alpha = torch.softmax(-entropies(p).mean(dim=1) / 0.1, dim=0)
    logits, trace = baselines.EntropyWeighted(given).observe(batch)
    torch.testing.assert_close(logits.exp(), (alpha[:, None, None] * p).sum(dim=0))
    assert trace.source_entropies == pytest.approx(entropies(p).mean(dim=1).tolist(), rel=1e-5)
    flat = FlatModels(given, given[0])
    assert all(torch.equal(flat.model(i)(batch), model(batch)) for i, model in enumerate(given))


@own
@merging
def test_what_a_merge_would_have_to_choose_is_refused_by_name(
    name: str, models: list[nn.Module], batch: Tensor, around: Any, words: tuple[str, ...]
) -> None:
    given = [around(model, i).eval() for i, model in enumerate(models)]
    with refused(*words):
        TESTTIME[name].call(given).observe(batch)
    same = [around(model, 1).eval() for model in models]
    assert TESTTIME[name].call(same).observe(batch)[0].isfinite().all()


@each
def test_counters_of_batches_may_differ(name: str, models: list[nn.Module], batch: Tensor) -> None:
    expected = TESTTIME[name].call(models).observe(batch)[0]
    for i, model in enumerate(models):
        model.norm.num_batches_tracked.fill_(i)
    assert torch.equal(TESTTIME[name].call(models).observe(batch)[0], expected)


class Stuck(nn.Module):
    """Its forward pass goes on with the module that it was made with, wherever it is copied."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.also = Elsewhere()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.also.gain


class Elsewhere:
    """Forgets what it holds when it is copied."""

    gain = 2.0

    def __deepcopy__(self, memo: Any) -> Elsewhere:
        other = Elsewhere()
        other.gain = 1.0
        return other


@each
def test_a_copy_that_answers_otherwise_is_refused(name: str, models: list[nn.Module], batch: Tensor) -> None:
    with refused("models[0]", "answer", "does"):
        TESTTIME[name].call([Stuck(model).eval() for model in models]).observe(batch)


def _closed_over(model: nn.Module) -> nn.Module:
    conv, norm, fc = model.conv, model.norm, model.fc
    model.forward = lambda x: fc(norm(conv(x)).relu().mean(dim=(2, 3)))
    return model


@each
def test_a_copy_that_runs_the_model_itself_is_refused(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    """A forward pass that was put onto the object holds the layers of the object, in every copy."""
    with refused("models[0]", "conv", "itself"):
        TESTTIME[name].call([_closed_over(model) for model in models]).observe(batch)


@each
def test_models_that_changed_are_not_compared(name: str, models: list[nn.Module], batch: Tensor) -> None:
    given = [copy.deepcopy(model) for model in models]
    expected = TESTTIME[name].call(models).observe(batch)[0]
    node = TESTTIME[name].call(given)
    with torch.no_grad():
        for model in given:
            model.fc.weight.zero_()
    assert torch.equal(node.observe(batch)[0], expected)


@each
def test_models_are_let_go_after_the_first_batch(name: str, models: list[nn.Module], batch: Tensor) -> None:
    given = [copy.deepcopy(model) for model in models]
    alive = [weakref.ref(model) for model in given]
    node = TESTTIME[name].call(given)
    other = copy.deepcopy(node)
    del given
    node.observe(batch)
    assert other.observe(batch)[0].isfinite().all()
    gc.collect()
    assert all(reference() is None for reference in alive)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model),
        lambda model: torch.optim.swa_utils.AveragedModel(model),
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
    ids=["DataParallel", "compile", "AveragedModel", "both"],
)
@each
def test_wrapped_models_are_the_networks_inside(
    name: str, models: list[nn.Module], batch: Tensor, wrap: Any
) -> None:
    found = TESTTIME[name].call([wrap(model) for model in models]).observe(batch)[0]
    assert torch.equal(found, TESTTIME[name].call(models).observe(batch)[0])


def test_an_anchor_may_be_wrapped_too(models: list[nn.Module], batch: Tensor) -> None:
    """At scale 0 the merge is the anchor, whichever way it is given."""
    for anchor in (models[1], nn.DataParallel(models[1]), nn.DataParallel(models[1]).state_dict()):
        node = adaptive(models, scale=0.0, anchor=anchor)
        node.observe(batch)
        assert torch.equal(node.sources.merged["fc.weight"], models[1].fc.weight)


class Answering(Around):
    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))


class Form:
    """Puts logits into a form; a class, so that it can be told from others."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, logits: Tensor) -> Any:
        forms = {
            "logits": {"loss": None, "logits": logits},
            "out": {"out": logits, "aux": logits[:1]},
            "tuple": (logits, "more"),
            "list": [logits],
            "scores": {"scores": logits},
        }
        return forms[self.kind]


@each
def test_answers_in_dicts_and_tuples(name: str, models: list[nn.Module], batch: Tensor) -> None:
    plain_node = TESTTIME[name].call(models)
    expected = [plain_node.observe(batch)[0] for _ in range(2)]
    for kind in ("logits", "out", "tuple", "list"):
        node = TESTTIME[name].call([Answering(model, form=Form(kind)).eval() for model in models])
        for each in expected:
            assert torch.equal(node.observe(batch)[0], each)
    with refused("found", "models[0]"):
        TESTTIME[name].call([Answering(model, form=Form("scores")) for model in models]).observe(batch)


class Gained(Around):
    """A parameter without dimensions, and state of its own kind."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.gain * x)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


class Tied(nn.Module):
    """Two layers that share a weight, and one module that runs twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(147, 16)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(16)
        self.again = self.norm
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.again(self.two(self.norm(self.one(self.stem(x.flatten(1)))).relu())))


@each
def test_unusual_parts_of_identical_sources_keep_their_function(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    torch.manual_seed(0)
    for model in (Gained(models[0]).eval(), Tied().eval()):
        node = TESTTIME[name].call([copy.deepcopy(model) for _ in range(3)])
        found = node.observe(batch)[0]
        assert found.isfinite().all()
        if name not in (
            "alpha-bn",
            "bn-adapt",
            "contrast",
            "note",
            "stream-norms",
            "tent",
            "t3a",
            "lame",
            "memo",
            "stream-adaptive",
        ):  # which answer otherwise by design
            expected = model(batch).softmax(dim=1)
            torch.testing.assert_close(found.softmax(dim=1), expected, rtol=1e-3, atol=1e-5)


def test_a_module_in_two_groups_is_refused() -> None:
    """In the encoder and in the head: coefficients of its own in either, but only one weight."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net.append(net[0])
    flat = FlatModels([net, copy.deepcopy(net)], net)
    with refused("0.weight", "3.weight"):
        flat.split("3")


def _lazy(model: nn.Module) -> nn.Module:
    model.fc = nn.LazyLinear(4)
    return model


def _complex(model: nn.Module) -> nn.Module:
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return model


def _sparse(model: nn.Module) -> nn.Module:
    model.register_buffer("mask", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lazy, ("fc.weight", 0, "initialised")),
        (lambda model: model.to("meta"), ("conv.weight", 0, "meta")),
        (_complex, ("phase", "complex")),
        (_sparse, (0, "dense")),
        (lambda model: model.to(torch.float8_e4m3fn), ("float8_e4m3fn", "conv.weight")),
        (
            lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}),
            ("quantised", "fc._packed_params.dtype"),
        ),
        (lambda model: model.state_dict(), (0, "OrderedDict", "nn.Module", "models")),
    ],
    ids=["lazy", "meta", "complex", "sparse", "float8", "quantised", "state dict"],
)
@each
@pytest.mark.filterwarnings("ignore")
def test_models_without_arithmetic_are_sentences(
    name: str, models: list[nn.Module], change: Any, words: tuple[object, ...]
) -> None:
    with refused(*words):
        TESTTIME[name].call([change(model) for model in models])


def _pruned(model: nn.Module) -> None:
    prune.l1_unstructured(model.conv, "weight", amount=0.4)


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.log()


def _positive(model: nn.Module) -> None:
    model.conv.weight.data.abs_()
    parametrize.register_parametrization(model.conv, "weight", Positive())


PARTS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm": lambda model: parametrizations.weight_norm(model.conv),
    "old weight norm": lambda model: nn.utils.weight_norm(model.conv),
    "weight norm of the head": lambda model: parametrizations.weight_norm(model.fc),
    "pruning": _pruned,
    "positive": _positive,
    "spectral norm": lambda model: parametrizations.spectral_norm(model.conv),
    "old spectral norm": lambda model: nn.utils.spectral_norm(model.conv),
    "orthogonal": lambda model: parametrizations.orthogonal(model.fc),
}
PROJECTING = ("spectral norm", "old spectral norm", "orthogonal")


def _reparametrised(models: list[nn.Module], kind: str, batch: Tensor) -> list[nn.Module]:
    for model in models:
        PARTS[kind](model)
        model.train()(batch)  # an old spectral norm has its first power iteration here
        model.eval()(batch)
    return models


@pytest.mark.parametrize("kind", PARTS)
@each
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_from_others(
    name: str, kind: str, models: list[nn.Module], batch: Tensor
) -> None:
    """Merged by their effective values: a node of the plain networks says the same, where no norm is kept."""
    given = _reparametrised(models, kind, batch)
    if kind in PROJECTING and name == "adamerging":
        with refused("change", "torch.nn.utils.parametrize.remove_parametrizations", "weight"):
            TESTTIME[name].call(given)
        return
    node = TESTTIME[name].call(given)
    found = node.observe(batch)[0]
    assert found.isfinite().all()
    copy.deepcopy(node).observe(batch)
    if kind not in PROJECTING or name == "entropy-weighted":
        expected = TESTTIME[name].call([plain(model) for model in given]).observe(batch)[0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", PROJECTING)
@pytest.mark.filterwarnings("ignore")
def test_a_merged_weight_is_what_its_reparametrisation_says(
    kind: str, models: list[nn.Module], batch: Tensor
) -> None:
    """By mean merging: W / s of the mean W with s its largest singular value, or U V^T of W = U S V^T."""
    given = _reparametrised(models, kind, batch)
    node = adaptive(given, temperature=math.inf)
    node.observe(batch)
    start = baselines.T3A(given).model
    key = "fc.weight" if kind == "orthogonal" else "conv.weight"
    mean = average([plain(model).state_dict() for model in given])[key].flatten(1).double()
    u, s, v = torch.linalg.svd(mean, full_matrices=False)
    expected = (u @ v if kind == "orthogonal" else mean / s[0]).float()
    merged = node.sources.merged[key].flatten(1)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain(start).state_dict()[key].flatten(1), expected, rtol=1e-4, atol=1e-5)
    assert float(torch.linalg.matrix_norm(merged, ord=2)) == pytest.approx(1, rel=1e-5)


def test_an_anchor_that_keeps_something_else_of_its_own_is_refused(models: list[nn.Module]) -> None:
    """A merge near it would run the sources' input mean, and not the anchor's."""
    own = [Centred(model, mean=torch.tensor(0.5)) for model in models]
    adaptive(own, scale=0.5, anchor=Centred(models[1], mean=torch.tensor(0.5)))
    with refused("anchor", "models[0]", "mean"):
        adaptive(own, scale=0.5, anchor=Centred(models[1], mean=torch.tensor(3.0)))
