"""Messages to result rows: decode, check, transform and score, by the one scoring path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import LINEAGE, Lineage, Reason, Scored, ScoringPath, arrays
from batchinfer.errors import InputError, ModelError, TransformError
from batchinfer.streaming._ports import Decoded, Decoder, MicroBatch, Refused
from batchinfer.streaming._records import Records

_OF_THE_ROWS = (InputError, ModelError, TransformError)
"""What a batch may be refused with for the sake of some of its rows."""
_NO_HEADERS = "a header's name is not UTF-8"


@dataclass(frozen=True, slots=True)
class MessageScorer:
    """Steps 2 to 4 of the stream, for one loaded model. Thread-safe.

    What the scoring path refuses as a whole is halved until the rows stand alone that it cannot take: they become
    dead letters, as those do that cannot be decoded, fail a check, or that the model refuses.
    """

    decoder: Decoder
    path: ScoringPath
    run_id: str

    def __call__(self, records: Records, polled_at: float) -> MicroBatch:
        """What becomes of messages.

        Raises:
            Transient: the decoder's schema registry cannot be reached.
        """
        decoded = self.decoder.decode(records.decodable)  # 2
        pieces = self._score(decoded.batch, self._lineage(records, decoded))  # 3 and 4
        why: dict[int, list[Reason]] = {}
        for start, piece in pieces:
            rows = (
                decoded.rows[start:]
                if isinstance(piece, Reason)
                else decoded.rows[start + piece.refused.rows]
            )
            if isinstance(piece, Reason):
                why.setdefault(int(rows[0]), []).append(piece)
            else:
                for place, message in enumerate(rows.tolist()):
                    why.setdefault(message, []).append(piece.refused.reason(place))
        refused = _refused(decoded, why, records.unreadable())
        results, rows = self._results(decoded, pieces, refused)
        profiles = [p.profile for _, p in pieces if isinstance(p, Scored) and p.profile is not None]
        profile = profiles[0] if profiles else None
        for other in profiles[1:]:
            profile = other.merge(profile) if profile is not None else other
        return MicroBatch(
            records=records,
            next_offsets=records.next_offsets(),
            results=results,
            rows=rows,
            refused=refused,
            model=self.path.model.identity,
            profile=profile,
            polled_at=polled_at,
        )

    def _lineage(self, records: Records, decoded: Decoded) -> Lineage:
        codes, partitions = records.partition_codes()
        rows = arrays.from_numpy(decoded.rows)
        names = arrays.from_texts([str(partition) for partition in partitions])
        of_rows = arrays.from_numpy(codes[decoded.rows].astype(np.int32))
        sources = pa.DictionaryArray.from_arrays(of_rows, names)
        told = ", ".join(str(partition) for partition in partitions)
        return Lineage(
            self.path.model.identity,
            self.run_id,
            told,
            records.offsets.take(rows),
            sources.cast(LINEAGE[2].type),
        )

    def _score(
        self, batch: pa.RecordBatch, lineage: Lineage, start: int = 0
    ) -> list[tuple[int, Scored | Reason]]:
        """By the place of its first row, each piece of the batch scored, or a single row and why it is not."""
        if not batch.num_rows:
            return []
        try:
            return [(start, self.path.score(batch, lineage))]
        except _OF_THE_ROWS as e:
            if batch.num_rows == 1:
                return [(start, Reason(e.message.partition("\n")[0]))]
        middle = batch.num_rows // 2
        parts = ((0, middle), (middle, batch.num_rows - middle))
        return [
            piece
            for at, rows in parts
            for piece in self._score(batch.slice(at, rows), _slice(lineage, at, rows), start + at)
        ]

    def _results(
        self, decoded: Decoded, pieces: list[tuple[int, Scored | Reason]], refused: Refused
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
        scored = [(start, piece) for start, piece in pieces if isinstance(piece, Scored)]
        if not scored:
            schema = self.path.result_schema
            return _empty(schema), np.empty(0, np.int64)
        if len(scored) == 1:
            results = scored[0][1].results
        else:
            table = pa.Table.from_batches([p.results for _, p in scored]).unify_dictionaries()
            results = next(iter(table.combine_chunks().to_batches()), _empty(self.path.result_schema))
        rows = np.concatenate([decoded.rows[start + _others(piece)] for start, piece in scored])
        if (np.diff(decoded.rows) == 0).any():  # of several rows: a message goes or stays as a whole
            whole = ~np.isin(rows, refused.messages)
            if not whole.all():
                results, rows = results.filter(arrays.from_numpy(whole)), rows[whole]
        return results, rows


def _others(piece: Scored) -> npt.NDArray[np.int64]:
    """The places of a piece's scored rows."""
    others = np.ones(piece.results.num_rows + len(piece.refused), np.bool_)
    others[piece.refused.rows] = False
    return np.flatnonzero(others)


def _refused(decoded: Decoded, why: dict[int, list[Reason]], unreadable: npt.NDArray[np.bool_]) -> Refused:
    told: dict[int, tuple[str, tuple[str, ...]]] = {
        m: (_NO_HEADERS if unreadable[m] else text, ()) for m, text in decoded.rejected
    }
    for message, reasons in why.items():
        first = reasons[0]
        names = tuple(dict.fromkeys(name for reason in reasons for name in reason.expectations))
        more = f" ({len(reasons)} rows of the message)" if len(reasons) > 1 else ""
        told[message] = (f"{first.text}{more}", names)
    messages = sorted(told)
    return Refused(
        np.array(messages, np.int64), [told[m][0] for m in messages], [told[m][1] for m in messages]
    )


def _slice(lineage: Lineage, start: int, rows: int) -> Lineage:
    sources: Any = None if lineage.sources is None else lineage.sources.slice(start, rows)
    positions = lineage.positions.slice(start, rows)
    return Lineage(lineage.model, lineage.run_id, lineage.source, positions, sources)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
