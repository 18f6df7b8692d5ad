"""kafka-python's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator

from kafka import errors as ke

from batchinfer.errors import (
    BatchinferError,
    BrokerRefused,
    BrokerUnavailable,
    GroupFenced,
    MessageTooLarge,
    ProducerFenced,
    TransactionAborted,
)

_GROUP_FENCED = (
    ke.CommitFailedError,
    ke.FencedInstanceIdError,
    ke.IllegalGenerationError,
    ke.RebalanceInProgressError,
    ke.UnknownMemberIdError,
)
_TOO_LARGE = (ke.MessageSizeTooLargeError, ke.RecordListTooLargeError)
_ABORTED = (
    ke.Cancelled,
    ke.DuplicateSequenceNumberError,
    ke.IllegalStateError,
    ke.InvalidProducerEpochError,
    ke.InvalidProducerIdMappingError,
    ke.InvalidTxnStateError,
    ke.OutOfOrderSequenceNumberError,
    ke.TransactionAbortableError,
    ke.TransactionAbortedError,
    ke.TransactionCoordinatorFencedError,
    ke.UnknownProducerIdError,
)
_UNAVAILABLE = (ke.RetriableError, ke.BrokerNotAvailableError)


def translated(error: BaseException, what: str, address: str) -> BatchinferError:
    """What a client's error is for us; `what` was being done at `address`.

    An error that only says that another one came before is what that one is: an abortable state of a producer has
    its cause in its arguments.
    """
    causes = list(_causes(error))
    told = max(causes, key=lambda cause: type(cause) is not ke.KafkaError)
    name = type(told).__name__
    said, facts = f"{what}: {str(told) or name}", {"code": name, "address": address}
    if _any(causes, (ke.ProducerFencedError,)):
        return ProducerFenced(
            said, next_step="another stream has the same stream.instance_id: give each its own", **facts
        )
    if _any(causes, _GROUP_FENCED):
        return GroupFenced(said, **facts)
    if _any(causes, _TOO_LARGE):
        return MessageTooLarge(said, index=None, limit_bytes=None, **facts)
    if _any(causes, _ABORTED) or type(told) is ke.KafkaError:
        return TransactionAborted(said, **facts)
    if _any(causes, _UNAVAILABLE):
        return BrokerUnavailable(
            f"{what}: no answer from {address}: {str(told) or name}",
            next_step="check stream.bootstrap_servers and that the brokers run",
            **facts,
        )
    return BrokerRefused(said, next_step="check the topic's name, the rights and stream.settings", **facts)


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in (*error.args, error.__cause__):
        if isinstance(inner, BaseException):
            yield from _causes(inner)


def _any(causes: list[BaseException], kinds: tuple[type[BaseException], ...]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)
