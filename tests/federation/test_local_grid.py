"""The grid is Flower's Grid: apps and strategies that know nothing of FedMerge run on it."""

import numpy as np
import pytest
from facts import refused
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedmerge.errors import FedMergeError
from fedmerge.federation import LocalGrid


@pytest.fixture
def app() -> ClientApp:
    """Node i answers training with the received array plus i, and says how often it was asked."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        index = context.node_config["partition-id"]
        if index == 2:
            raise FedMergeError("scanner on fire: call the fire brigade.")
        count = context.state.metric_records.get("count", MetricRecord({"n": 0}))
        context.state["count"] = MetricRecord({"n": count["n"] + 1})
        array = message.content["arrays"].to_numpy_ndarrays()[0] + index
        return Message(
            RecordDict(
                {
                    "arrays": ArrayRecord([array]),
                    "metrics": MetricRecord(
                        {"num-examples": index + 1, "asked": context.state["count"]["n"]}
                    ),
                }
            ),
            reply_to=message,
        )

    return app


def send(grid, nodes, value=1.0):
    content = RecordDict({"arrays": ArrayRecord([np.array([value])])})
    return list(grid.send_and_receive([grid.create_message(content, "train", node, "g") for node in nodes]))


def test_replies_come_in_the_order_of_the_messages(app):
    grid = LocalGrid(app, 2)
    first, second = grid.get_node_ids()
    replies = send(grid, [second, first])
    assert [reply.metadata.src_node_id for reply in replies] == [second, first]
    assert [reply.content["arrays"].to_numpy_ndarrays()[0].item() for reply in replies] == [2.0, 1.0]


def test_replies_point_to_their_messages_and_are_pulled_once(app):
    grid = LocalGrid(app, 1)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    ids = grid.push_messages(
        [grid.create_message(content, "train", node, "g") for node in grid.get_node_ids()]
    )
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.reply_to_message_id == ids[0]
    assert grid.pull_messages(ids) == []


def test_a_context_lives_as_long_as_the_run(app):
    grid = LocalGrid(app, 1)
    counts = [send(grid, grid.get_node_ids())[0].content["metrics"]["asked"] for _ in range(3)]
    assert counts == [1, 2, 3]


def test_a_hospital_that_raises_answers_with_its_sentence(app):
    grid = LocalGrid(app, 3)
    good, _, bad = send(grid, grid.get_node_ids())
    assert good.has_content()
    assert bad.has_error()
    assert bad.error.reason == "scanner on fire: call the fire brigade."
    with refused("scanner", "fire", kind=Exception):
        send(LocalGrid(app, 3, debug=True), grid.get_node_ids())


def test_flower_s_own_fedavg_runs_on_it(app):
    """Two nodes answer x and x + 1 with weights 1 and 2: each round adds 2/3."""
    result = FedAvg(fraction_evaluate=0.0, min_available_nodes=2).start(
        LocalGrid(app, 2), ArrayRecord([np.array([0.0])]), num_rounds=3
    )
    assert result.arrays.to_numpy_ndarrays()[0].item() == pytest.approx(3 * 2 / 3)
