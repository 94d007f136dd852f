"""The Flower ClientApp of a hospital: which of its answers belongs to which message, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fedmerge.errors import FedMergeError
from fedmerge.federation import faults
from fedmerge.federation.grids.simulated import failed
from fedmerge.federation.hospital import Hospital
from fedmerge.federation.privacy.secure_rules import SecureRules

Answer = Callable[[Message], Message]
MEMORY, SECURE, LOCAL = "memory", "secure", "local"  # what a Flower Context holds of a hospital


def client_app(hospital_of: Callable[[Context], Hospital], *, memory_in_context: bool = False) -> ClientApp:
    """The Flower ClientApp of a hospital; ``hospital_of`` finds the hospital a Context speaks for.

    It answers ``query`` (who are you), ``query.inspect`` (what images it has), ``train``, ``evaluate``,
    ``query.sums_begin`` and ``query.sums`` (sums over its images, for a fusion), ``query.memory`` and
    ``query.restore`` (what it keeps between rounds); and, for sums under masks, ``train.secure``,
    ``evaluate.secure`` and ``query.secure_…``.
    memory_in_context: a hospital's memory is kept in the Context's state, because each message may meet
    another process (Flower's own runtimes). That state travels with each message, but not to the server.
    """
    app = ClientApp()

    def answer(context: Context, message: Message, how: Callable[[Hospital], Answer]) -> Message:
        try:
            return remembered(context, message, how)
        except FedMergeError as error:  # a sentence is an answer, and the same one under every runtime
            return failed(message, error)

    def remembered(context: Context, message: Message, how: Callable[[Hospital], Answer]) -> Message:
        hospital = hospital_of(context)
        if hospital.guard is None:
            return told(context, message, hospital, how(hospital))
        return hospital.guard.answer(
            hospital, context.run_id, message, lambda: told(context, message, hospital, how(hospital))
        )

    def told(context: Context, message: Message, hospital: Hospital, how: Answer) -> Message:
        SecureRules.of(hospital.folder).check(message.metadata.message_type, hospital.site.name)
        if not memory_in_context:
            return how(message)
        for name, part in ((MEMORY, hospital.memory), (SECURE, hospital.secure), (LOCAL, hospital.local)):
            kept = context.state.array_records.get(name)
            part.load_state_dict({} if kept is None else dict(kept.to_torch_state_dict()))
        reply = how(message)
        context.state[MEMORY] = ArrayRecord(hospital.memory.state_dict())
        context.state[SECURE] = ArrayRecord(hospital.secure.state_dict())
        context.state[LOCAL] = ArrayRecord(hospital.local.state_dict())
        return reply

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.describe)

    @app.query("inspect")
    def inspect(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.inspect)

    @app.query("sums_begin")
    def sums_begin(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.sums.begin)

    @app.query("sums")
    def sums(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.sums.answer)

    @app.query("memory")
    def memory(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.tell_memory)

    @app.query("restore")
    def restore(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.restore_memory)

    @app.query("secure_shares")
    def secure_shares(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.secure.shares)

    @app.query("secure_masked")
    def secure_masked(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.secure.masked)

    @app.query("secure_confirm")
    def secure_confirm(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.secure.confirm)

    @app.query("secure_unmask")
    def secure_unmask(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.secure.unmask)

    @app.train("secure")
    def train_secure(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: partial(faults.train_secure, hospital))

    @app.evaluate("secure")
    def evaluate_secure(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.evaluate_secure)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: partial(faults.train, hospital))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.evaluate)

    return app
