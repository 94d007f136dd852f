"""A service without its HTTP: who may call, the streams, and the way of a batch from bytes to an answer."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.serving.answers import (
    Answer,
    Drift,
    GuardState,
    Model,
    Timings,
    leaning,
    mean_entropy,
    predictions,
)
from fedmerge.serving.bodies import parts_of
from fedmerge.serving.history import History
from fedmerge.serving.images import read_images
from fedmerge.serving.kept import keep_images
from fedmerge.serving.limits import Limits
from fedmerge.serving.metrics import Metrics
from fedmerge.serving.refusal import Refusal
from fedmerge.serving.served import Served
from fedmerge.serving.streams import Stream, Streams
from fedmerge.serving.tokens import LOCAL, Tokens
from fedmerge.testtime.contract import Trace

STREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
Body = Callable[[], Awaitable[bytes]]


@dataclass(eq=False)
class Service:
    """What the paths of ``app`` do. tokens: None where nobody needs one. keep: where images are kept, if at
    all."""

    served: Served
    limits: Limits = field(default_factory=Limits)
    tokens: Tokens | None = None
    history_file: Path | None = None
    keep: Path | None = None

    def __post_init__(self) -> None:
        self.streams = Streams(self.served.build, self.limits)
        self.history = History(self.history_file, self.limits.history_rows)
        self.metrics = Metrics()
        self.models = [Model(name=card.name, sha256=card.sha256) for card in self.served.cards]
        self.fingerprint = self.served.fingerprint
        self.metrics.streams.set_function(lambda: len(self.streams.held))
        self.metrics.waiting.set_function(lambda: self.streams.waiting)

    def close(self) -> None:
        """End the threads after their work, and close the history."""
        self.streams.close()
        self.history.close()

    def client(self, authorization: str | None, certificate: str | None = None) -> str:
        """Return who calls: by token, or else by certificate, or else ``local``. Raises Refusal."""
        if self.tokens is not None:
            return self.tokens.client(authorization)
        return certificate or LOCAL

    async def reset(self, client: str, name: str) -> None:
        """Reset a stream after its earlier batches. Raises Refusal for one that is not there."""
        async with self.streams.turn(client, checked(name), make=False) as stream:
            await self.streams.compute(stream.reset)

    async def end(self, client: str, name: str) -> None:
        """End a stream after its earlier batches, and free its node. Raises Refusal as ``reset``."""
        async with self.streams.turn(client, checked(name), make=False) as stream:
            self.streams.end(stream)

    async def answer(self, client: str, name: str, content_type: str, body: Body) -> Answer:
        """Answer a batch of a client's stream. Raises Refusal; a body that is refused changes nothing.

        The stream is held from before its body is read, so that batches are answered in the order in which
        their calls began.
        """
        async with self.streams.turn(client, checked(name)) as stream:
            times = [time.perf_counter()]
            content = await body()
            times.append(time.perf_counter())
            parts = parts_of(content_type, content, self.limits)
            read, prepare = self.served.read, self.served.prepare
            names, pictures = await self.streams.read(lambda: read_images(parts, self.limits, read))
            batch = await self.streams.read(lambda: prepare(pictures))
            times.append(time.perf_counter())
            logits, trace, begun = await self.streams.compute(lambda: self._observe(stream, batch))
            times += [begun, time.perf_counter()]
            stream.batches += 1
            stream.images += len(names)
            if self.keep is not None:
                await self._keep(self.keep, stream, pictures)
            spent = dict(zip(("body", "read", "wait", "node"), _between(times), strict=True))
            notes = self.served.stretched(names, pictures)
            return await self.streams.read(lambda: self._told(stream, names, logits, trace, notes, spent))

    def _observe(self, stream: Stream, batch: Tensor) -> tuple[Tensor, Trace | None, float]:
        """Let a stream's node answer, in the nodes' thread; the time is when it began."""
        begun = time.perf_counter()
        if stream.node is None:
            stream.node = self.served.build()
        try:
            logits, trace = stream.node.observe(batch)
        except FedMergeError as error:
            raise Refusal(422, f"the node cannot answer this batch: {error}") from None
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise Refusal(
                500, f"the node failed on this batch ({type(error).__name__}): tell its people."
            ) from None
        logits = logits.detach().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise Refusal(422, "the node's logits on this batch are not finite: reset the stream.")
        return logits, trace, begun

    def _told(
        self,
        stream: Stream,
        names: Sequence[str],
        logits: Tensor,
        trace: Trace | None,
        notes: list[str],
        spent: dict[str, float],
    ) -> Answer:
        """Make the answer, and note it in history and metrics."""
        served, leans = self.served, leaning(self.served.names, trace)
        entropy, before = mean_entropy(logits, served.task), stream.drift.since
        reasons = stream.drift.see(entropy, served.names, None if trace is None else trace.encoder)
        answer = Answer(
            stream=stream.name,
            batch=stream.batches,
            method=served.method,
            images=predictions(names, served.class_names, logits, served.task),
            leaning=leans,
            entropy=entropy,
            guard=GuardState(
                armed=getattr(stream.node, "monitor", None) is not None,
                fallback=[] if trace is None else list(trace.fallback),
            ),
            drift=Drift(alarm=bool(reasons), since=stream.drift.since, reasons=list(reasons)),
            notes=notes,
            seconds=Timings(**spent),
            models=self.models,
            fingerprint=self.fingerprint,
        )
        self._note(stream, answer)
        self.metrics.alarms.inc(before is None and stream.drift.since is not None)
        return answer

    def _note(self, stream: Stream, answer: Answer) -> None:
        leans, metrics = answer.leaning, self.metrics
        metrics.answered(len(answer.images), answer.seconds.model_dump())
        metrics.fallbacks.inc(bool(answer.guard.fallback))
        if leans is not None:
            metrics.leaned("encoder", leans.encoder)
            metrics.leaned("head", leans.head)
        self.history.add(_row(stream, answer))
        if self.history.fault:
            metrics.unkept.inc()

    async def _keep(self, folder: Path, stream: Stream, pictures: Sequence[Tensor]) -> None:
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        place = folder / stream.client / stream.name / moment
        try:
            await self.streams.read(lambda: keep_images(place, pictures, stream.batches))
        except FedMergeError as error:
            print(f"images were not kept: {error}", file=sys.stderr, flush=True)


def checked(name: str) -> str:
    """Return the name of a stream. Raises Refusal for one that is none."""
    if not STREAM.fullmatch(name):
        raise Refusal(400, "a stream's name has up to 64 letters, digits, '_', '-' and '.'.")
    return name


def _row(stream: Stream, answer: Answer) -> dict[str, Any]:
    """Return what the history keeps of an answer: nothing of an image, and no file's name."""
    leans, images = answer.leaning, answer.images
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "client": stream.client,
        "stream": stream.name,
        "batch": answer.batch,
        "images": len(images),
        "models": answer.fingerprint,
        "encoder": None if leans is None else leans.encoder,
        "head": None if leans is None else leans.head,
        "source_entropies": None if leans is None else leans.source_entropies,
        "entropy": answer.entropy,
        "confidence": sum(each.confidence for each in images) / len(images),
        "predicted": dict(Counter(name for each in images for name in each.said)),
        "fallback": answer.guard.fallback,
        "drift": answer.drift.reasons,
        "seconds": sum(answer.seconds.model_dump().values()),
    }


def _between(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
