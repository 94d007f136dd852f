"""The wire between a server and hospitals, as somebody sees it who listens and can cut it."""

from fedmerge.federation import LocalGrid


class Watched(LocalGrid):
    """A grid that keeps what it carried, and loses the replies of hospitals in ``lost``, by message type.

    carried: messages, their replies, and the replies' arrays. before: what is done to a message on its way
    to a hospital.
    """

    def __init__(self, app, n):
        super().__init__(app, n)
        self.carried, self.lost, self.before = [], {}, lambda message: None

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            self.before(message)
            for reply in super().send_and_receive([message]):
                records = {} if reply.has_error() else reply.content.array_records
                arrays = {k: a.numpy().copy() for record in records.values() for k, a in record.items()}
                self.carried.append((message, reply, arrays))
                if reply.metadata.src_node_id not in self.lost.get(message.metadata.message_type, ()):
                    yield reply

    def kinds(self):
        return [message.metadata.message_type for message, *_ in self.carried]
