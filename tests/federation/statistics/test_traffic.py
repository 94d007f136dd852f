"""What travels for sums over images: nothing that is one image, and no model twice."""

from tests.federation.statistics.ward import NAMES, layers


def test_what_a_hospital_sends_has_the_same_shapes_whatever_its_images_are(ward):
    """Every array is a scalar, a vector over channels, or half or all of a matrix over channels and inputs.

    Shares of 19 and of 35 images give the same shapes, and no axis is as long as the images, their pixels
    (64 each), or the positions of a layer in all of them.
    """

    def shapes(images):
        ward.grid.shapes.clear()
        sums = ward.statistics(images=dict.fromkeys(NAMES, images))
        sums.ask("outer", {"layers": layers(ward)}, {})
        for kind, options in (("inputs", {}), ("importance", {"kind": "conductance"}), ("moments", {})):
            sums.ask(kind, options, {})
        sums.ask("walk", {}, ward.states["alpha"])
        for name in layers(ward):
            sums.ask("layer", {"name": name}, {})
            sums.ask("fused-moments", {"name": name}, {})
        return list(ward.grid.shapes)

    few, many = shapes(19), shapes(35)
    assert few == many
    assert {key for key, _ in few} >= {"gram", "cross", "outer", "moments", "rows", "images"}
    lengths = {length for _, shape in few for length in shape}
    for images in (19, 35):
        assert not lengths & {images * positions for positions in (1, 4, 16, 64)}


def test_traffic_counts_messages_and_bytes(ward):
    """Down: three models once, with the first request, of float32 numbers; up: outer as half matrices.

    The first request takes three exchanges (are the models there, the models, the request), the next one.
    """
    name = layers(ward)[0]
    width = ward.states["alpha"][f"{name}.weight"].shape[0] * len(NAMES)
    weights = len(NAMES) * sum(v.numel() * v.element_size() for v in ward.states["alpha"].values())
    sums = ward.statistics()
    sums.ask("outer", {"layers": [name]}, {})
    first = sums.traffic
    assert [row["site"] for row in first] == NAMES
    assert [row["exchanges"] for row in first] == [3, 3, 3]
    up = 8 * width * (width + 1) // 2
    overhead = 400 * len(NAMES) * len(ward.states["alpha"])  # keys, dtypes and shapes
    for row in first:
        assert weights < row["bytes_down"] < weights + overhead
        assert up < row["bytes_up"] < up + 1000
    sums.ask("outer", {"layers": [name]}, {})
    assert [row["exchanges"] for row in sums.traffic] == [4, 4, 4]


def test_the_models_are_not_sent_again_for_the_next_fusion(ward):
    ward.statistics().ask("moments", {}, {})
    sums = ward.statistics()
    sums.ask("moments", {}, {})
    (down, *_) = [row["bytes_down"] for row in sums.traffic]
    assert [row["exchanges"] for row in sums.traffic] == [2, 2, 2]
    assert down < 4000
    other = ward.statistics(parents={name: ward.states[name] for name in reversed(NAMES)})
    other.ask("moments", {}, {})
    assert [row["exchanges"] for row in other.traffic] == [3, 3, 3]
