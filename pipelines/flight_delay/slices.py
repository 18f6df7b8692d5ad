"""Write the sample slices: two weeks of real flights, one folder a day, with their labels apart.

    python pipelines/flight_delay/slices.py                       # into data/samples

The January week lies in the period that the model was trained on, so it looks as training did; the
July week is summer, which the model never saw, and drifts. Each slice holds every flight that was
scheduled that day, cancelled ones too: at the scheduled departure nobody knows which those are.
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
from prepare import Flights, load_flights
from pyarrow import parquet

WEEK = [timedelta(days=n) for n in range(7)]
DAYS = [first + n for first in (date(2013, 1, 8), date(2013, 7, 8)) for n in WEEK]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=Path, default=Path("data/samples"))
    samples = parser.parse_args().samples
    flights = load_flights()
    for day in DAYS:
        write_day(samples, day, flights.between(day, day))


def write_day(samples: Path, day: date, flights: Flights) -> None:
    write(samples / "flights" / f"ds={day}" / "part-0.parquet", flights.inputs)
    write(samples / "labels" / f"ds={day}" / "part-0.parquet", flights.labels)
    print(f"ds={day}: {len(flights.days):,} flights")


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    main()
