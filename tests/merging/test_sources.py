"""A source is the caller's model: what is merged, what is kept, and what is refused by name."""

from __future__ import annotations

import types
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build
from fedmerge.models.outputs import logits_of
from tests.facts import refused

QUICK = {name: {"descent": {"epochs": 1}} for name in ("kf-gradient", "distill", "refit-head")}
ENSEMBLES = [name for name in FUSION.names() if name.startswith("ensemble")]
MERGES = [name for name in FUSION.names() if name not in ENSEMBLES]
OWN = ["ensemble-logits", "ensemble-probabilities", "ensemble-features", "distill", "refit-head"]
FITTED = ["hf", "kf", "kf-gradient", "regmean", "distill"]


class Net(nn.Module):
    """A small classifier of 8 x 8 images that subtracts an input mean from a buffer that is not saved."""

    def __init__(self, seed: int, mean: float = 0.0, answer=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.answer = answer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x - self.mean)).relu().mean((2, 3))
        logits = self.head(self.mid(x).relu())
        return logits if self.answer is None else self.answer(logits)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def fused(models, method: str, dtype: torch.dtype = torch.float32, start=None, **given):  # type: ignore[no-untyped-def]
    x, y = images()
    given = {"data": x.to(dtype), "labels": y, **given}
    return merge(models, method, start=start or Net(9).to(dtype), **QUICK.get(method, {}), **given).model


def test_members_of_an_ensemble_keep_their_own_buffers() -> None:
    """The mean of the two networks' own logits, each with its own input mean."""
    nets, (x, _) = [Net(0, 0.0), Net(1, 0.5)], images()
    expected = (nets[0](x) + nets[1](x)) / 2
    with_first_mean = (nets[0](x) + nets[1](x + 0.5)) / 2
    torch.testing.assert_close(fused(nets, "ensemble-logits")(x), expected)
    assert (expected - with_first_mean).abs().max() > 1e-3


def test_teachers_of_a_student_keep_their_own_buffers_and_it_those_of_the_first() -> None:
    student = fused([Net(0, 0.25), Net(1, 0.5)], "distill")
    assert student.mean == 0.25
    with refused("mean", "0.25", "model-0", "0.5", "model-1"):
        fused([Net(0, 0.25), Net(1, 0.5)], "distill", student="mean")


def _forward_on_the_object(net: Net) -> None:
    conv, norm, mid, head = net.conv, net.norm, net.mid, net.head
    net.forward = lambda x: head(mid(norm(conv(x)).relu().mean((2, 3))).relu())  # type: ignore[method-assign]


def _function_in_an_attribute(net: Net) -> None:
    def scaled(logits: Tensor, *, by: list[nn.Parameter]) -> Tensor:
        return logits * by[0].sum()

    net.answer = partial(lambda logits, inner: inner(logits), inner=lambda z: scaled(z, by=[net.norm.weight]))


def _hook_of_a_neighbour(net: Net) -> None:
    net.norm.register_forward_pre_hook(lambda _, given, bias=net.conv.bias: given[0] + bias.view(1, -1, 1, 1))


CLINGING = [
    (_forward_on_the_object, ("forward",)),
    (_function_in_an_attribute, ("answer",)),
    (_hook_of_a_neighbour, ("norm", "conv.bias")),
]


@pytest.mark.parametrize(("cling", "words"), CLINGING)
@pytest.mark.parametrize("method", FUSION.names())
def test_a_model_whose_copies_would_run_its_own_weights_is_refused(method: str, cling, words) -> None:  # type: ignore[no-untyped-def]
    """Merged with zeros, such a network would still answer with the weights of the first."""
    nets = [Net(0), Net(1)]
    for net in nets:
        cling(net)
    with refused("model-0", "copy", *words):
        fused(nets, method)


def test_functions_that_hold_no_part_of_the_model_stay() -> None:
    """A forward bound to the object, a partial of the object and a hook that looks at what it is given are
    copied, or find what they need there: the mean computes what the mean of plain networks computes."""
    nets, seen = [Net(0), Net(1)], []
    for net in nets:
        net.forward = types.MethodType(lambda self, x: 2 * Net.forward(self, x), net)  # type: ignore[method-assign]
        net.again = partial(isinstance, net.mid)  # type: ignore[assignment]
        net.mid.register_forward_hook(lambda module, given, out: seen.append(module.weight) or out)
    found, (x, _) = merge(nets, "mean").model, images()
    torch.testing.assert_close(found(x), 2 * merge([Net(0), Net(1)], "mean").model(x))
    assert seen[-1] is found.mid.weight
    assert found.again.args == (found.mid,)


@pytest.mark.parametrize("method", [name for name in FUSION.names() if name not in OWN])
def test_a_merge_does_not_choose_what_it_does_not_average(method: str) -> None:
    nets = [Net(0, 0.0), Net(1, 0.5)]
    with refused("mean", "0.0", "model-0", "0.5", "model-1"):
        fused(nets, method)
    if method != "ensemble-greedy":
        assert fused(nets, method, into=Net(2, 0.125)).mean == 0.125  # who says what it shall be may merge


def test_integers_that_differ_are_refused_by_every_merge() -> None:
    nets = [Net(0), Net(1)]
    for number, net in enumerate(nets):
        net.register_buffer("table", torch.tensor([number]))
    for method in MERGES:
        if method not in OWN:
            with refused("table", "int64"):
                fused(nets, method, start=nets[0])


def test_the_model_to_be_made_says_what_integers_are() -> None:
    nets = [Net(0), Net(1), Net(2)]
    for number, net in enumerate(nets):
        net.register_buffer("table", torch.tensor([number]))
    for method in (name for name in MERGES if name not in OWN):
        assert fused(nets[:2], method, start=nets[0], into=nets[2]).table.tolist() == [2]


def test_a_pool_builds_each_network_by_its_own_card(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Two vision transformers of the same shapes, with 2 and 4 heads of attention."""
    specs = [
        ModelSpec(
            name="tiny-vit", in_channels=1, n_classes=3, image_size=8,
            options={"dim": 8, "depth": 1, "heads": heads, "patch": 4},
        )
        for heads in (2, 4)
    ]  # fmt: skip
    pool = ModelPool(tmp_path / "pool")
    for name, spec in zip("ab", specs, strict=True):
        pool.add(
            name, build(spec, 0 if name == "a" else 1).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named("half"), class_names=("x", "y", "z"),
        )  # fmt: skip
    with refused("'a'", "'b'", "networks"):
        merge(pool, "mean")


@pytest.mark.parametrize("method", ["ensemble-logits", "ensemble-features", "distill", "fisher"])
def test_networks_of_a_pool_are_checked_on_two_images(tmp_path, monkeypatch, method: str) -> None:  # type: ignore[no-untyped-def]
    """Against ones that are built as always: a lazily built one could lack what no state holds."""
    from fedmerge.models.loading import network_of

    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
    pool = ModelPool(tmp_path / "pool")
    for seed, name in enumerate("ab"):
        pool.add(
            name, build(spec, seed).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named("half"), class_names=("x", "y", "z"),
        )  # fmt: skip
    fused(pool, method, start=pool.model("a"))

    def lazily(*given):  # type: ignore[no-untyped-def]
        net = network_of(*given)
        net.features[1].eps = 1.0
        return net

    monkeypatch.setattr("fedmerge.merging.parents.network_of", lazily)
    with refused("answer", "itself"):
        fused(pool, method, start=pool.model("a"))


def test_cards_with_other_classes_are_not_merged(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 4})
    pool = ModelPool(tmp_path / "pool")
    for name, normalisation in (("a", "half"), ("b", "none")):
        pool.add(
            name, build(spec, 0).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named(normalisation), class_names=("x", "y"),
        )  # fmt: skip
    with refused("'a'", "'b'", "normalisations"):
        merge(pool, "mean")


@pytest.mark.parametrize("method", FUSION.names())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_method_keeps_the_precision_and_gives_numbers(method: str, dtype: torch.dtype) -> None:
    """Close to what the same models in float64 give, to a few units in the last place of ``dtype``."""
    x, _ = images()
    weights = [{k: v.to(dtype) for k, v in Net(i).state_dict().items()} for i in (0, 1, 9)]

    def nets(wide: bool) -> list[nn.Module]:
        made = [Net(0), Net(1), Net(9)]
        for net, state in zip(made, weights, strict=True):
            net.to(torch.float64 if wide else dtype).load_state_dict(state)
        return made

    narrow, wide = nets(False), nets(True)
    model = fused(narrow[:2], method, dtype, start=narrow[2])
    for key, value in model.state_dict().items():
        assert value.dtype == dtype or not value.is_floating_point(), key
    out = logits_of(model(x.to(dtype)))
    assert out.dtype == dtype
    expected = fused(wide[:2], method, torch.float64, start=wide[2])(x.double())
    tolerance = {torch.float64: 1e-9, torch.float16: 0.01, torch.bfloat16: 0.08}[dtype]
    assert (out.double() - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def test_half_precision_meets_in_float32() -> None:
    """Logits of 60,000 and 60,000: their mean is 60,000, though their sum does not fit float16."""
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).half() for _ in range(2)]
    for net in nets:
        nn.init.zeros_(net[1].weight)
        nn.init.constant_(net[1].bias, 60_000)
    x = torch.zeros(2, 1, 1, 1, dtype=torch.float16)
    for weights in ("uniform", [1.0, 3.0]):
        out = merge(nets, "ensemble-logits", weights=weights).model(x)
        assert out.tolist() == [[60_000, 60_000]] * 2


def test_task_arithmetic_that_overflows_is_a_sentence() -> None:
    """Three models at 32,000 from a start at 0: their sum, 96,000, is more than float16 holds."""
    nets = [nn.Linear(1, 1, bias=False).half() for _ in range(4)]
    for net, value in zip(nets, (32_000, 32_000, 32_000, 0), strict=True):
        nn.init.constant_(net.weight, value)
    with refused("weight", "+04", "float16"):
        merge(nets[:3], "task-arithmetic", scale=1.0, start=nets[3])
    assert merge(nets[:3], "task-arithmetic", scale=0.5, start=nets[3]).model.weight.item() == 48_000


WRAPS = {
    "weight norm": lambda net: [parametrizations.weight_norm(layer) for layer in (net.conv, net.mid)],
    "old weight norm": lambda net: [nn.utils.weight_norm(layer) for layer in (net.conv, net.mid)],
    "pruning": lambda net: prune.random_unstructured(net.conv, "weight", 0.5),
    "spectral norm": lambda net: parametrizations.spectral_norm(net.mid),
    "old spectral norm": lambda net: nn.utils.spectral_norm(net.mid),
}


def wrapped(name: str, seed: int) -> tuple[Net, Net]:
    """A network with a reparametrised layer, and the plain one that computes the same."""
    net, same = Net(seed), Net(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WRAPS[name](net)
        net.train()
        for _ in range(30 if "spectral" in name else 1):  # until it found the largest singular value
            net(torch.rand(4, 1, 8, 8))
        net.eval()(images()[0])
    state = {key: value for key, value in net.state_dict().items() if key in same.state_dict()}
    for layer in ("conv", "mid"):
        state[f"{layer}.weight"] = getattr(net, layer).weight.detach()
    same.load_state_dict(state)
    return net, same


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("method", [name for name in FUSION.names() if name != "dare"])
def test_reparametrised_models_merge_as_the_plain_ones_do(name: str, method: str) -> None:
    """The plain merge, whose weight W is W / s under a spectral norm, with s its largest singular value."""
    x, _ = images()
    nets, same = zip(*(wrapped(name, seed) for seed in (0, 1, 9)), strict=True)
    torch.testing.assert_close(nets[0](x), same[0](x))
    score = {"score": _negative_norm} if method.startswith("greedy") else {}
    expected = fused(list(same[:2]), method, start=same[2], **score)
    spectral = name.endswith("spectral norm") and method in MERGES
    if spectral and method in FITTED:
        with refused("mid.weight", "SpectralNorm"):
            fused(list(nets[:2]), method, start=nets[2])
        return
    if spectral:
        with torch.no_grad():
            expected.mid.weight /= torch.linalg.svdvals(expected.mid.weight)[0]
    model = fused(list(nets[:2]), method, start=nets[2], **score)
    torch.testing.assert_close(model(x), expected(x), rtol=1e-3, atol=1e-4)
    if method in MERGES:
        assert model.state_dict().keys() == nets[0].state_dict().keys()


def _negative_norm(state: dict[str, Tensor]) -> float:
    return -float(state["head.weight"].norm())


def test_a_score_is_given_states_that_the_callers_model_can_load() -> None:
    net = Net(0)
    parametrizations.weight_norm(net.mid)

    def score(state: dict[str, Tensor]) -> float:
        return float(net.load_state_dict(state).missing_keys == [])

    nets = [Net(0), Net(1)]
    for other in nets:
        parametrizations.weight_norm(other.mid)
    assert [row["score_with"] for row in merge(nets, "greedy", score=score).decisions] == [1.0, 1.0]


@pytest.mark.parametrize("method", ["mean", "ties", "fisher", "kf", "greedy"])
def test_quantised_and_lazy_models_are_refused_by_name(method: str) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})
    for model, words in ((quantised, (0,)), (nn.LazyLinear(2), ("weight", "model-0", "run"))):
        with refused(*words):
            merge([model, model], method)


class Complex(nn.Module):
    def __init__(self, value: complex) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([value]))
        self.head = nn.Linear(4, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (self.head(x) * self.turn).real


def test_complex_weights_are_averaged_or_refused() -> None:
    """(1 + 2 i + 3 - 4 i) / 2 = 2 - i; arithmetic on task vectors and gradients know real weights alone."""
    nets, x = [Complex(1 + 2j), Complex(3 - 4j)], torch.rand(4, 4)
    assert merge(nets, "mean").model.turn.item() == 2 - 1j
    for method in ("ties", "task-arithmetic", "model-stock", "dare", "fisher", "kf"):
        with pytest.raises(FedMergeError, match=r"complex|cannot be followed"):
            merge(nets, method, start=Complex(0j), data=x)
    with torch.no_grad():
        nets[1].turn.fill_(complex(1, float("nan")))
    with refused("model-1", "NaN", "turn"):
        merge(nets, "mean")


class Waves(nn.Module):
    """Complex weights, and operations that can be followed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.turn = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64, generator=draws))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.to(torch.complex64) @ self.turn.T).abs())


@pytest.mark.parametrize("method", ["hf", "kf", "kf-gradient", "rebasin", "ot", "regmean"])
def test_matching_does_not_take_complex_weights_from_the_first_model(method: str) -> None:
    with refused("turn", "complex"):
        merge([Waves(0), Waves(1)], method, data=torch.rand(8, 4))


def test_models_with_other_numbers_of_classes_are_refused_where_widths_may_differ() -> None:
    nets, (x, _) = [Net(0), Net(1)], images()
    nets[1].head = nn.Linear(6, 5)
    for method in ("kf", "ot", "hf", "mean"):
        with refused("model-1"):
            merge(nets, method, data=x)
    for method in ("kf", "ot"):
        with refused("model-1", 5, 3, "gives"):
            merge(nets, method, data=x)


ANSWERS = {
    "dict": lambda logits: {"aux": logits * 0, "logits": logits},
    "out": lambda logits: {"out": logits},
    "tuple": lambda logits: (logits, logits * 0),
}


@pytest.mark.parametrize("method", FUSION.names())
@pytest.mark.parametrize("answer", ANSWERS)
def test_models_that_return_more_than_logits_merge_as_those_that_do_not(method: str, answer: str) -> None:
    x, _ = images()
    expected = fused([Net(0), Net(1)], method)(x)
    model = fused([Net(0, answer=ANSWERS[answer]), Net(1, answer=ANSWERS[answer])], method)
    found = model(x)
    assert isinstance(found, Tensor) == (method in ENSEMBLES)
    torch.testing.assert_close(logits_of(found), expected)


@pytest.mark.parametrize("method", ["mean", "ties", "kf", "greedy", "fisher", "ensemble-logits"])
def test_wrapped_models_are_merged_inside(method: str) -> None:
    x, _ = images()
    expected = fused([Net(0), Net(1)], method)(x)
    for wrap in (nn.DataParallel, torch.compile):
        model = fused([wrap(Net(0)), Net(1)], method, start=wrap(Net(9)).state_dict())
        torch.testing.assert_close(model(x), expected)


def test_names_of_parts_that_are_compiled_are_explained() -> None:
    net = Net(0)
    net.mid = torch.compile(net.mid)
    with refused("module.", "_orig_mod."):
        merge([net, Net(1)], "mean")


class Pairs(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, object]:
        x, y = images()
        return {"image": x[index], "label": int(y[index])}


X, Y = images()


@pytest.mark.parametrize(
    "data",
    [
        X.double(),
        X.half().float().numpy(),
        X.numpy(),
        X.double().numpy(),
        [X[:5], X[5:]],
        list(X),
        list(X.numpy()),
        DataLoader(TensorDataset(X, Y), batch_size=5),
        TensorDataset(X, Y),
        Pairs(),
        DataLoader(Pairs(), batch_size=5),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    ],
)
def test_data_in_the_forms_people_have(data) -> None:  # type: ignore[no-untyped-def]
    """Numbers that float16 holds are the same in all; others are within its rounding."""
    nets = [Net(0), Net(1)]
    expected = merge(nets, "regmean", data=X).model(X)
    found = merge(nets, "regmean", data=data).model(X)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    if len(data) == 12 and isinstance(data, list | Dataset) and not isinstance(data[0], Tensor | np.ndarray):
        greedy = merge(nets, "greedy", data=data)
        assert greedy.decisions == merge(nets, "greedy", data=X, labels=Y).decisions


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            (X * 255).byte(),
            ("model-0", "uint8", "12 x 1 x 8 x 8", 255),
        ),
        (X.expand(-1, 3, -1, -1), ("model-0", "float32", "12 x 3 x 8 x 8", "1 channels")),
        ((X, Y), ("data=", "labels=", "N")),
        ([{"scan": X}], ("dicts", "data=")),
        (["a.png"], ("data=", "str")),
        (np.array([None]), ("data=", "object")),
        (5, ("data=", "tensor")),
        (X[:0], ("holds", "data=", "image")),
    ],
)
def test_data_that_no_model_takes_is_a_sentence(data, words: tuple[object, ...]) -> None:  # type: ignore[no-untyped-def]
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
    for method in ("kf", "mean", "fisher"):
        with refused(*words):
            merge([build(spec, 0), build(spec, 1)], method, data=data)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Y + 1, (1, "model-0", "3 outputs", 2)),
        (Y - 1, ("-1", "classes", "model-0")),
        (Y + 0.5, ("whole", "labels=")),
        (["a"] * 12, ("number", "labels=", "class")),
    ],
)
def test_labels_that_are_no_classes_are_a_sentence(labels, words: tuple[object, ...]) -> None:  # type: ignore[no-untyped-def]
    with refused(*words):
        merge([Net(0), Net(1)], "greedy", data=X, labels=labels)
    for good in (Y.tolist(), Y.numpy(), Y.float(), Y[:, None]):
        merge([Net(0), Net(1)], "greedy", data=X, labels=good)


class Scaled(nn.Module):
    """A parameter of no dimension."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * self.scale


@pytest.mark.parametrize("method", ["mean", "task-arithmetic", "ties", "dare", "model-stock", "greedy"])
def test_a_parameter_of_no_dimension(method: str) -> None:
    model = fused([Scaled(1.0), Scaled(1.0)], method, start=Scaled(0.0), **_half(method))
    expected = {"task-arithmetic": 0.6, "dare": model.scale.item()}.get(method, 1.0)
    assert model.scale.item() == pytest.approx(expected)


def test_fisher_of_a_parameter_of_no_dimension() -> None:
    """Of a model with itself: that model."""
    assert fused([Scaled(2.0), Scaled(2.0)], "fisher", start=Scaled(0.0)).scale.item() == pytest.approx(2.0)


def _half(method: str) -> dict[str, float]:
    return {"drop": 0.0} if method == "dare" else {}


@pytest.mark.parametrize("method", FUSION.names())
def test_models_given_twice_and_frozen_ones(method: str) -> None:
    net = Net(0).requires_grad_(False)
    model = fused([net, net], method)
    assert logits_of(model(X)).isfinite().all()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_what_is_no_model_or_has_no_weights_is_a_sentence() -> None:
    for models, words in [
        ([nn.Flatten(), nn.Flatten()], ("model-0", "weights")),
        ([Net(0).state_dict()], ("model-0", "OrderedDict", "nn.Module")),
        ([Net(0), Net(1).to("meta")], ("conv.weight", "model-1")),
    ]:
        for method in ("mean", "ties", "kf"):
            with refused(*words):
                merge(models, method, data=X, start=Net(9))
    with refused("two", "name", "models"):
        merge([Net(0), Net(1)], "mean", names=["a", "a"])


def test_extra_state_and_ties_stay() -> None:
    class Tied(nn.Module):
        def __init__(self, value: float, tie: bool = True) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            nn.init.constant_(self.a.weight, value)
            if tie:
                self.b.weight = self.a.weight

        def get_extra_state(self) -> dict[str, int]:
            return {"version": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    for method in ("mean", "ties", "task-arithmetic", "greedy"):
        given = {"start": Tied(0.0).state_dict(), "score": lambda state: float(len(state))}
        model = merge([Tied(1.0), Tied(1.0)], method, **given).model
        assert model.a.weight is model.b.weight
        assert model.state_dict()["_extra_state"] == {"version": 3}
        with refused("a.weight", "b.weight", "model-1"):
            merge([Tied(1.0), Tied(3.0, tie=False)], method, start=Tied(0.0), score=lambda state: 1.0)
    for wrong, said in ((5, "5"), ([Tied(0.0)], "start"), ({"a.weight": [0.0]}, "a.weight"), ({3: 1}, "3")):
        with refused("start", said):
            merge([Tied(1.0), Tied(1.0)], "ties", start=wrong)  # type: ignore[arg-type]
