"""The whole error tree. Each error is transient (try again) or terminal, by type; unknown means terminal.

    BatchinferError                     exit 1
    ├── UsageError                      exit 2   wrong use of a command
    ├── SpecError                       exit 2   the pipeline spec is wrong
    ├── MissingExtra                    exit 2   a package that an extra installs is absent
    ├── InputError                      exit 2   the input is not what the pipeline takes
    │   └── NoInput                              there is nothing at the input's path
    ├── TransformError                  exit 2   the pipeline's transform broke its contract
    ├── ModelError                      exit 2   a bundle, registry or graph is unusable
    │   ├── DigestMismatch                       the bundle is not the one that was added
    │   └── DeviceUnavailable                    the GPU that is to score cannot, and the CPU is no substitute
    ├── QualityGate                     exit 3   the input failed its checks; nothing was committed
    │   └── ErrorBudgetSpent                     too many messages of a stream became dead letters
    ├── DriftGate                       exit 4   the world has changed; the predictions are committed
    ├── RunFailed                       exit 1   the run could not go on
    │   ├── LedgerError                          rows read and rows accounted for differ
    │   ├── StoreError                           the results store cannot take the rows
    │   ├── CommitRefused                        another run replaced the partition first
    │   ├── WorkerLost                           a worker process died on a unit, each time it was tried
    │   ├── BrokerRefused                        Kafka says no, and will again: rights, names, settings
    │   │   └── MessageTooLarge                  a message is larger than its topic takes
    │   ├── RegistryRefused                      the schema registry says no, and will again
    │   └── ProducerFenced                       another stream has taken this one's transactional id
    ├── Interrupted                     exit 130 stopped by the user; a rerun goes on from here
    └── Transient                       exit 75  try again: nothing is wrong with the work itself
        ├── InputChanged                         a file changed between the plan and the read
        ├── CommitUnknown                        the commit's outcome could not be learnt
        ├── BrokerUnavailable                    no Kafka broker answers
        ├── RegistryUnavailable                  the schema registry does not answer
        └── TransactionAborted                   a Kafka transaction has to be done again
            └── GroupFenced                      the partitions are another member's by now

Every error carries its fields as keyword arguments, and survives pickling with them: errors cross process
boundaries on every engine but the local one. Neither message nor fields hold a secret: see `batchinfer.secrets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from batchinfer.secrets import values_without_secrets, without_secrets

__all__ = [
    "BatchinferError",
    "BrokerRefused",
    "BrokerUnavailable",
    "CommitRefused",
    "CommitUnknown",
    "DeviceUnavailable",
    "DigestMismatch",
    "DriftGate",
    "ErrorBudgetSpent",
    "GroupFenced",
    "InputChanged",
    "InputError",
    "Interrupted",
    "LedgerError",
    "MessageTooLarge",
    "MissingExtra",
    "ModelError",
    "NoInput",
    "ProducerFenced",
    "QualityGate",
    "RegistryRefused",
    "RegistryUnavailable",
    "RunFailed",
    "SpecError",
    "StoreError",
    "TransactionAborted",
    "TransformError",
    "Transient",
    "UsageError",
    "WorkerLost",
]


class BatchinferError(Exception):
    """Something that batchinfer can name: what failed, on which object, and what to do next.

    Args:
        message: one or two plain sentences for the person who reads the log.
        next_step: what to run or change, or "" where nothing general can be said.
        fields: the facts behind the message (path, column, row, expected, found …), for programs.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next_step: str = "", **fields: Any) -> None:
        message = without_secrets(message)
        super().__init__(message)
        self.message = message
        self.next_step = without_secrets(next_step)
        self.fields = {name: values_without_secrets(value) for name, value in fields.items()}

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.next_step}" if self.next_step else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.next_step, self.fields)


def _rebuild(
    kind: type[BatchinferError], message: str, next_step: str, fields: dict[str, Any]
) -> BatchinferError:
    return kind(message, next_step=next_step, **fields)


class UsageError(BatchinferError):
    """A command or function was called in a way that cannot work."""

    exit_code = 2


class SpecError(BatchinferError):
    """The pipeline spec is wrong: names the file, the key, what is allowed and what was found."""

    exit_code = 2


class MissingExtra(BatchinferError):
    """A package is absent that one of batchinfer's extras installs; names the extra."""

    exit_code = 2


@contextmanager
def needs(extra: str, what: str, *, or_else: str | None = None) -> Iterator[None]:
    """Import within it what an extra installs.

    Args:
        extra: its name.
        what: what needs it, as the error says.
        or_else: another way out.

    Raises:
        MissingExtra: a package is absent, or cannot be loaded.
    """
    try:
        yield
    except ImportError as e:
        step = f"pip install 'batchinfer[{extra}]'" + (f", {or_else}" if or_else else "")
        raise MissingExtra(
            f"{what} needs what batchinfer[{extra}] installs: {e}",
            next_step=step,
            extra=extra,
            package=e.name,
        ) from e


class InputError(BatchinferError):
    """The input is not what the pipeline takes: names the file, column, row or value."""

    exit_code = 2


class NoInput(InputError):
    """There is no Parquet file at the input's path: it has not come yet, or the path is wrong."""


class TransformError(BatchinferError):
    """The pipeline's transform cannot be loaded, raised, dropped rows or changed its schema."""

    exit_code = 2


class ModelError(BatchinferError):
    """A bundle, a registry or an ONNX graph cannot be used."""

    exit_code = 2


class DigestMismatch(ModelError):
    """The bundle's files are not those whose digest was recorded."""


class DeviceUnavailable(ModelError):
    """A GPU was asked for: there is none, it cannot run the model, or it failed."""


class QualityGate(BatchinferError):
    """The rows are not what the suite or the spec asks for. Nothing was committed."""

    exit_code = 3


class ErrorBudgetSpent(QualityGate):
    """More messages became dead letters than the spec's error budget allows. All of them are committed."""


class DriftGate(BatchinferError):
    """Features or predictions have drifted, and the spec wants to be told so. The results are committed."""

    exit_code = 4


class RunFailed(BatchinferError):
    """The run could not go on."""


class LedgerError(RunFailed):
    """Rows read, scored, quarantined and skipped do not add up. Nothing was committed."""


class StoreError(RunFailed):
    """The results store cannot take the rows (no space, no permission, another schema)."""


class CommitRefused(RunFailed):
    """Another run replaced the partition since this one was planned. Its rows stand."""


class WorkerLost(RunFailed):
    """The process that worked on a unit died, and so did those that tried again: often, memory ran out."""


class BrokerRefused(RunFailed):
    """Kafka refuses, and would again: authentication, rights, an unknown topic, an invalid setting."""


class MessageTooLarge(BrokerRefused):
    """A message is larger than the client or the topic takes; `index` says which of those handed over."""


class ProducerFenced(RunFailed):
    """Another producer has the same transactional id. What this one had under way is aborted."""


class RegistryRefused(RunFailed):
    """The schema registry refuses, and would again: credentials, rights, a wrong address."""


class Interrupted(BatchinferError):
    """The user stopped the run. Staged units stay, and a rerun reuses them."""

    exit_code = 130


class Transient(BatchinferError):
    """Nothing is wrong with the work itself: the same command may succeed later."""

    exit_code = 75


class InputChanged(Transient):
    """An input file was removed, replaced or cut between the plan and the read."""


class CommitUnknown(Transient):
    """The store did not say whether the commit took place. Nothing was deleted; a rerun asks the log."""


class BrokerUnavailable(Transient):
    """No Kafka broker, or no coordinator, answers in time."""


class RegistryUnavailable(Transient):
    """The schema registry does not answer."""


class TransactionAborted(Transient):
    """A Kafka transaction was undone; nobody who reads committed messages has seen any of it."""


class GroupFenced(TransactionAborted):
    """The consumer group has gone on without this member: its partitions are others' now."""
