"""Images and labels in the forms that people have them in, and what no model takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build
from tests.facts import refused
from tests.merging.own_networks import Net, images


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
