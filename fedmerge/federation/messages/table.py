"""The table of all messages: the classes of each job and reply."""

from __future__ import annotations

from dataclasses import dataclass

from fedmerge.federation.messages.fields import Told
from fedmerge.federation.messages.jobs import (
    EvaluateJob,
    GreetingJob,
    InspectJob,
    MemoryJob,
    RestoreJob,
    SumsBeginJob,
    SumsJob,
    TrainJob,
)
from fedmerge.federation.messages.replies import (
    Evaluated,
    Greeting,
    Inspected,
    Masked,
    Remembered,
    ReplyBody,
    Summed,
    SumsBegun,
    Trained,
)
from fedmerge.federation.messages.secure import (
    Confirmed,
    ConfirmJob,
    MaskedJob,
    Offered,
    SecureEvaluateJob,
    SecureSumsJob,
    SecureTrainJob,
    Shared,
    SharesJob,
    SumsOffered,
    TrainedSecretly,
    Unmasked,
    UnmaskJob,
)


@dataclass(frozen=True)
class Exchange:
    """One kind of message: the class of its job, and that of its reply."""

    job: type[Told]
    reply: type[ReplyBody]


MESSAGES: dict[str, Exchange] = {
    "query": Exchange(GreetingJob, Greeting),
    "query.inspect": Exchange(InspectJob, Inspected),
    "train": Exchange(TrainJob, Trained),
    "evaluate": Exchange(EvaluateJob, Evaluated),
    "query.memory": Exchange(MemoryJob, Remembered),
    "query.restore": Exchange(RestoreJob, Remembered),
    "query.sums_begin": Exchange(SumsBeginJob, SumsBegun),
    "query.sums": Exchange(SumsJob, Summed),
    "train.secure": Exchange(SecureTrainJob, TrainedSecretly),
    "evaluate.secure": Exchange(SecureEvaluateJob, Offered),
    "query.secure_sums_begin": Exchange(SumsBeginJob, SumsBegun),
    "query.secure_sums": Exchange(SecureSumsJob, SumsOffered),
    "query.secure_shares": Exchange(SharesJob, Shared),
    "query.secure_masked": Exchange(MaskedJob, Masked),
    "query.secure_confirm": Exchange(ConfirmJob, Confirmed),
    "query.secure_unmask": Exchange(UnmaskJob, Unmasked),
}
"""By the message type in Flower's metadata."""
