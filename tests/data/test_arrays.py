"""Sources that are arrays in memory: split, told apart by content, refused where they are no images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmerge.data.sources.sources import Arrays, load_source
from tests.facts import refused


def test_arrays_with_and_without_splits() -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    labels = np.repeat([0, 1], 10)
    raw = load_source(Arrays(images, labels))
    assert [split.class_counts(2).tolist() for split in raw.splits] == [[6, 6], [2, 2], [2, 2]]
    assert all((split.images[:, 0, 0, 0] >= 10).long().equal(split.labels) for split in raw.splits)
    tensors = torch.zeros(4, 3, 8, 9, dtype=torch.uint8)
    given = load_source(Arrays(tensors, [0, 1, 2, 0], val=(tensors, [0] * 4), test=(tensors, [1] * 4)))
    assert given.shape == (3, 8, 9)
    assert [split.labels.tolist() for split in given.splits] == [[0, 1, 2, 0], [0] * 4, [1] * 4]
    assert given.n_classes == 3


def test_the_text_of_arrays_changes_with_their_content() -> None:
    zeros, ones = np.zeros((4, 8, 8), np.uint8), np.ones((4, 8, 8), np.uint8)
    texts = {
        str(Arrays(zeros, [0, 1, 0, 1])),
        str(Arrays(ones, [0, 1, 0, 1])),
        str(Arrays(zeros, [1, 1, 0, 1])),
    }
    assert len(texts) == 3
    assert str(Arrays(zeros, [0, 1, 0, 1])) in texts


def test_arrays_need_val_and_test_together() -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    with refused("both", "test"):
        load_source(Arrays(images, [0, 1, 0, 1], val=(images, [0, 1, 0, 1])))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.0, 1.0, 0.0, 1.0], ("train_labels", "4 integers", "float64", "number")),
        ([0.0, 1.0, float("nan"), 1.0], ("train_labels", "4 integers", "float64")),
        ([True, False, True, False], ("train_labels", "4 integers", "bool")),
        (["cat", "dog", "cat", "dog"], ("train_labels", "4 integers", "<U3", "number")),
        ([None, 1, 0, 1], ("train_labels", "4 integers", "object")),
        ([-1, 0, 1, 0], ("train_labels", "-1", "0")),
        ([[0], [1], [0, 1], [1]], ("train_labels", "shape")),
        (np.array([0, 1, 2**63, 0], dtype=np.uint64), ("train_labels", "9223372036854775808")),
    ],
)
def test_labels_that_are_no_classes_are_sentences(labels: object, words: tuple[str, ...]) -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    with refused("arrays", *words):
        load_source(Arrays(images, labels))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((4, 8, 8), np.nan), ("train_images", "uint8", "float64")),
        (np.zeros((4, 8, 8), np.float16), ("train_images", "uint8", "float16")),
        (np.zeros((4, 8, 8), np.int8), ("train_images", "uint8", "int8")),
        (np.zeros((4, 8, 8, 4), np.uint8), ("train_images", "uint8")),
        (np.zeros((4, 0, 8), np.uint8), ("train_images", "uint8")),
        ([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)], ("train_images", "shape")),
        (np.array([None] * 4), ("train_images", "uint8", "object")),
    ],
)
def test_images_that_are_none_are_sentences(images: object, words: tuple[str, ...]) -> None:
    with refused("arrays", *words):
        load_source(Arrays(images, [0, 1, 0, 1]))
