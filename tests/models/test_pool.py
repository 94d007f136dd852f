from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from fedmerge.models.cards import Origin
from fedmerge.models.inputs import Normalisation
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State, state_hash
from fedmerge.models.zoo import ModelSpec, build
from tests.facts import refused

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 4})
GIVEN: dict[str, Any] = {
    "model": SPEC,
    "normalisation": Normalisation.named("half"),
    "class_names": ("benign", "malignant"),
    "method": "local training",
}


def weights(seed: int, spec: ModelSpec = SPEC) -> State:
    return build(spec, seed).state_dict()


@pytest.fixture
def pool(tmp_path: Path) -> ModelPool:
    """Two models, in an order that is not the alphabet's."""
    pool = ModelPool(tmp_path / "pool")
    pool.add("south", weights(0), **GIVEN)
    pool.add(
        "north", weights(1), **GIVEN, origin=Origin(seed=1), metrics={"accuracy": 0.5, "auroc": math.nan}
    )
    return pool


def test_what_is_added_comes_back_in_order(pool: ModelPool) -> None:
    again = ModelPool(pool.folder)
    assert again.names == list(again) == ["south", "north"]
    assert len(again) == 2
    assert "north" in again
    assert "west" not in again
    for seed, name in enumerate(again):
        assert state_hash(again.state(name)) == state_hash(weights(seed)) == again.card(name).sha256
    again.verify()


def test_a_card_says_where_the_model_comes_from(pool: ModelPool) -> None:
    parents = [pool.card(name).sha256 for name in pool]
    made = pool.add(
        "mean", weights(2), **GIVEN | {"method": "mean"}, origin=Origin(parents, batch_norm="mixture")
    )
    card = ModelPool(pool.folder).card("mean")
    assert card == made
    assert card.parents == tuple(parents)
    assert (card.position, card.method, card.model, card.batch_norm) == (2, "mean", SPEC, "mixture")
    north = ModelPool(pool.folder).card("north")
    assert (north.seed, north.metrics["accuracy"]) == (1, 0.5)
    assert math.isnan(north.metrics["auroc"])


def test_the_model_computes_what_the_added_one_did(pool: ModelPool) -> None:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = pool.model("north")
    assert not model.training
    assert torch.equal(model(x), build(SPEC, seed=1).eval()(x))


def test_one_tensor_is_read_alone(pool: ModelPool) -> None:
    assert torch.equal(pool.tensor("south", "head.weight"), weights(0)["head.weight"])
    with refused("head.wieght", "head.weight"):
        pool.tensor("south", "head.wieght")


def test_writing_into_a_state_leaves_the_file_as_it_is(pool: ModelPool) -> None:
    for value in pool.state("south").values():
        value.zero_()
    pool.verify()


def test_a_view_has_its_own_order_and_takes_no_additions(pool: ModelPool) -> None:
    pool.add("west", weights(2), **GIVEN)
    view = pool.subset(["west", "south"])
    assert view.names == ["west", "south"]
    assert state_hash(view.state("west")) == pool.card("west").sha256
    assert len(pool) == 3
    with refused("north", "south", "west"):
        view.state("north")
    with refused("east", "view"):
        view.add("east", weights(3), **GIVEN)


def test_missing_models_cards_and_weights_are_named(pool: ModelPool) -> None:
    with refused("nort", "north", "south", "holds"):
        pool.state("nort")
    (pool.folder / "north.json").unlink()
    with refused("north.safetensors", "north.json"):
        ModelPool(pool.folder).card("north")
    (pool.folder / "south.safetensors").unlink()
    with refused("south.safetensors", "south.json"):
        pool.state("south")
    with refused("pool", "model"):
        ModelPool(pool.folder / "elsewhere", create=False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{ not json", ("south.json", "Invalid", "JSON")),
        ("{}", ("south.json", "Field")),
    ],
)
def test_a_damaged_card_is_named(pool: ModelPool, text: str, sentence: tuple[object, ...]) -> None:
    (pool.folder / "south.json").write_text(text)
    with refused(*sentence):
        ModelPool(pool.folder)


def test_a_card_under_another_name_is_refused(pool: ModelPool) -> None:
    (pool.folder / "south.json").rename(pool.folder / "west.json")
    with refused("west.json", "south"):
        ModelPool(pool.folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_cut_short_is_named(pool: ModelPool, kept: int) -> None:
    path = pool.folder / "south.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with refused("south.safetensors", "copy"):
        pool.state("south")


def test_verify_finds_a_single_changed_bit(pool: ModelPool) -> None:
    path = pool.folder / "north.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with refused("north.safetensors", "copy"):
        pool.verify()


def test_models_of_another_architecture_or_other_classes_are_refused(pool: ModelPool) -> None:
    wider = SPEC.model_copy(update={"options": {"width": 8}})
    with refused(4, 1, 3, "south", 8, "west"):
        pool.add("west", weights(0, wider), **GIVEN | {"model": wider})
    with refused("south", "west", "benign"):
        pool.add("west", weights(0), **GIVEN | {"class_names": ("malignant", "benign")})
    assert pool.names == ["south", "north"]


def test_a_card_that_names_another_network_is_refused(pool: ModelPool) -> None:
    path = pool.folder / "south.json"
    fields = json.loads(path.read_text())
    fields["model"]["options"]["width"] = 8
    path.write_text(json.dumps(fields))
    with refused("small-cnn as its card says", "south"):
        ModelPool(pool.folder).model("south")


def test_weights_that_are_not_finite_are_refused(pool: ModelPool) -> None:
    state = weights(2)
    state["head.bias"][0] = torch.nan
    with refused("west", "NaN", "head.bias"):
        pool.add("west", state, **GIVEN)
    assert "west" not in ModelPool(pool.folder)


def test_nothing_is_overwritten(pool: ModelPool) -> None:
    other = ModelPool(pool.folder)
    other.add("west", weights(2), **GIVEN)
    for opened in (pool, other):
        with refused("west", "already"):
            opened.add("west", weights(3), **GIVEN)
    assert state_hash(other.state("west")) == state_hash(weights(2))


@pytest.mark.parametrize("name", ["../west", "", ".west", "a/b", "a b"])
def test_names_that_are_no_file_names_are_refused(pool: ModelPool, name: str) -> None:
    with refused("name", "letters", "digits", "model"):
        pool.add(name, weights(2), **GIVEN)


def test_a_crash_while_writing_leaves_no_half_model(pool: ModelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename the process dies before, the pool opens without the model and takes it again."""
    rename = os.rename
    for survived in (0, 1):
        done: list[str] = []

        def dying(
            source: str, target: str, done: list[str] = done, survived: int = survived, **where: int
        ) -> None:
            if len(done) == survived:
                raise KeyboardInterrupt
            done.append(target)
            rename(source, target, **where)

        name = f"west-{survived}"
        monkeypatch.setattr(os, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            pool.add(name, weights(2), **GIVEN)
        monkeypatch.setattr(os, "rename", rename)
        again = ModelPool(pool.folder)
        assert name not in again
        again.verify()
        again.add(name, weights(2), **GIVEN)
        assert state_hash(ModelPool(pool.folder).state(name)) == state_hash(weights(2))


def test_other_weights_left_without_a_card_are_not_overwritten(pool: ModelPool) -> None:
    (pool.folder / "south.json").unlink()
    with refused("south.safetensors", "card", "other"):
        ModelPool(pool.folder).add("south", weights(5), **GIVEN)


def test_a_folder_that_cannot_be_written_is_a_sentence(
    pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool.folder / "file").write_text("")
    with refused("written", "File", "file"):
        ModelPool(pool.folder / "file")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("fedmerge.models.weights.save_file", full)
    with refused("space", "disk", "full"):
        pool.add("west", weights(2), **GIVEN)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_can_be_read_but_not_written(pool: ModelPool) -> None:
    pool.folder.chmod(0o555)
    try:
        assert len(ModelPool(pool.folder)) == 2
        with refused("Permission", "denied"):
            pool.add("west", weights(2), **GIVEN)
    finally:
        pool.folder.chmod(0o755)
