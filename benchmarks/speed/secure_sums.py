"""What a sum under masks costs: CPU seconds of a hospital and of the server, and bytes, for as many numbers
as ResNet-18 has (11,689,512 weights and 9,610 statistics of batch norm).

Hospitals of one process answer one after another, without Flower; a hospital's seconds are the mean over
hospitals of all its answers together, the server's are the rest: adding, and taking masks off. ``lost``: how
many hospitals vanish after they gave their shares, so that the server computes their masks. Beside it the
same mean in the open: weighted, in float64. Run `python -m benchmarks.speed.secure_sums`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable

import numpy as np
import torch
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from benchmarks import RESULTS
from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import Client
from fedmerge.federation.hospital.secure.ledger import Subject
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.messages.secure import Offered
from fedmerge.federation.privacy.masked import decode_weights, encode_weights
from fedmerge.federation.server.requests import Reply, Request, read
from fedmerge.federation.server.secure_round import secure_total
from fedmerge.federation.simulated import failed
from fedmerge.models import average

NUMBERS = 11_699_122
LABEL = "benchmark train 1"
RESULT = RESULTS / "secure-sums.json"


def measure(hospitals: int, lost: int, repeats: int = 1) -> dict[str, float | int]:
    """One row: medians of ``repeats``; CPU seconds of one thread, which a busy machine changes little."""
    draws = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(NUMBERS, generator=draws)} for _ in range(hospitals)]
    images = [100 + 10 * i for i in range(hospitals)]
    plain, own, rest, error = [], [], [], 0.0
    for _ in range(repeats):
        began = time.process_time()
        expected = average(states[lost:], [float(n) for n in images[lost:]])
        plain.append(time.process_time() - began)
        found, each, all_ = secure(states, images, lost)
        own.append(each)
        rest.append(all_)
        error = max(error, float((found["w"].double() - expected["w"].double()).abs().max()))
    return {
        "hospitals": hospitals,
        "lost": lost,
        "hospital_seconds": round(statistics.median(own), 3),
        "server_seconds": round(statistics.median(rest), 3),
        "mean_in_the_open_seconds": round(statistics.median(plain), 3),
        "largest_difference": error,
        "bytes_up_masked": 8 * NUMBERS,
        "bytes_up_in_the_open": 4 * NUMBERS,
    }


def secure(
    states: list[dict[str, torch.Tensor]], images: list[int], lost: int
) -> tuple[dict[str, torch.Tensor], float, float]:
    """The mean of all but the first ``lost``, a hospital's seconds, the server's."""
    them = [SecureHospital(f"h{i:02d}") for i in range(len(states))]
    members = [Client(1000 + i, one.name, 1, 1, (1,)) for i, one in enumerate(them)]
    spent = 0.0
    offers = []
    for one, member, state, n in zip(them, members, states, images, strict=True):
        began = time.process_time()
        words = encode_weights(state, n, "average")
        keys = one.offer(Subject.of(LABEL, "", one.ledger), words)
        spent += time.process_time() - began
        offers.append(Reply(member, Offered(**keys)))

    def ask(question: Request) -> Iterable[Reply]:
        nonlocal spent
        action = question.kind.rpartition("_")[2]
        for member, message in zip(question.clients, question.messages(), strict=True):
            if action == "masked" and member.node_id < 1000 + lost:
                continue
            began = time.process_time()
            try:
                reply: Message = getattr(them[member.node_id - 1000], action)(message)
            except FedMergeError as error_:
                reply = failed(message, error_)
            spent += time.process_time() - began
            answer = read(question, member, reply)
            assert isinstance(answer, Reply), answer
            yield answer

    began = time.process_time()
    before = spent
    total = secure_total(1, LABEL, offers, NUMBERS, ask)
    found = decode_weights(total.words, states[0], sum(images[lost:]), "average")
    server = time.process_time() - began - (spent - before)
    return found, spent / len(states), server


def main() -> None:
    """Measure, print and write the rows."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
    torch.set_num_threads(1)
    rows = [measure(n, lost) for n, lost in ((4, 0), (4, 1), (10, 0), (10, 3))]
    for row in rows:
        print(row)
    assert all(np.isfinite(row["largest_difference"]) for row in rows)
    RESULT.write_text(json.dumps({"numbers": NUMBERS, "threads": 1, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
