"""The Flower ClientApp of a hospital: which method answers which message type, and what a Context keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital import faults
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.simulated import failed

Handler = Callable[[Message], Message]
ANSWERS: dict[str, Callable[[Hospital], Handler]] = {
    "query": lambda hospital: hospital.describe,
    "query.inspect": lambda hospital: hospital.inspect,
    "query.sums_begin": lambda hospital: hospital.sums.begin,
    "query.sums": lambda hospital: hospital.sums.reply,
    "query.memory": lambda hospital: hospital.tell_memory,
    "query.restore": lambda hospital: hospital.restore_memory,
    "query.secure_sums_begin": lambda hospital: hospital.sums.begin,
    "query.secure_sums": lambda hospital: hospital.sums_secure,
    "query.secure_shares": lambda hospital: hospital.secure.shares,
    "query.secure_masked": lambda hospital: hospital.secure.masked,
    "query.secure_confirm": lambda hospital: hospital.secure.confirm,
    "query.secure_unmask": lambda hospital: hospital.secure.unmask,
    "train": lambda hospital: partial(faults.train, hospital),
    "train.secure": lambda hospital: partial(faults.train_secure, hospital),
    "evaluate": lambda hospital: hospital.evaluate,
    "evaluate.secure": lambda hospital: hospital.evaluate_secure,
}
"""The hospital's method for each message type of Flower's."""
MEMORY, SECURE, LOCAL = "memory", "secure", "local"  # a hospital's parts in a Flower Context


def client_app(hospital_of: Callable[[Context], Hospital], *, memory_in_context: bool = False) -> ClientApp:
    """Return the Flower ClientApp of a hospital; ``hospital_of`` returns the hospital of a Context.

    It answers ``query`` (its name and counts), ``query.inspect`` (a description of its images), ``train``,
    ``evaluate``, ``query.sums_begin`` and ``query.sums`` (sums over its images, for a fusion),
    ``query.memory`` and ``query.restore`` (its client state); and, for sums under masks, ``train.secure``,
    ``evaluate.secure`` and ``query.secure_…``.
    memory_in_context: keep the hospital's client state in the Context's state, because each message may reach
    another process (Flower's own runtimes). That state travels with each message, but not to the server.
    """
    app = ClientApp()

    def reply_or_failure(how: Callable[[Hospital], Handler], message: Message, context: Context) -> Message:
        try:
            return remembered(context, message, how)
        except FedMergeError as error:  # a sentence is the reply, the same under every runtime
            return failed(message, error)

    def remembered(context: Context, message: Message, how: Callable[[Hospital], Handler]) -> Message:
        hospital = hospital_of(context)
        if hospital.guard is None:
            return with_client_state(context, message, hospital, how(hospital))
        return hospital.guard.reply(
            hospital,
            context.run_id,
            message,
            lambda: with_client_state(context, message, hospital, how(hospital)),
        )

    def with_client_state(context: Context, message: Message, hospital: Hospital, how: Handler) -> Message:
        SecureRules.of(hospital.folder).check(message.metadata.message_type, hospital.site.name)
        if not memory_in_context:
            return how(message)
        for name, part in ((MEMORY, hospital.memory), (SECURE, hospital.secure), (LOCAL, hospital.local)):
            retained = context.state.array_records.get(name)
            part.load_state_dict({} if retained is None else dict(retained.to_torch_state_dict()))
        reply = how(message)
        context.state[MEMORY] = ArrayRecord(hospital.memory.state_dict())
        context.state[SECURE] = ArrayRecord(hospital.secure.state_dict())
        context.state[LOCAL] = ArrayRecord(hospital.local.state_dict())
        return reply

    for kind, how in ANSWERS.items():
        category, _, action = kind.partition(".")
        register = {"query": app.query, "train": app.train, "evaluate": app.evaluate}[category]
        register(*([action] if action else []))(partial(reply_or_failure, how))
    return app
