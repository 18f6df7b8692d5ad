"""A backfill on Spark: `batchinfer backfill` as an application for spark-submit.

    spark-submit --master … pipelines/backfill.py pipelines/flight_delay/pipeline.yaml \
        --start 2013-01-01 --end 2013-01-31

One Spark session does all days. `--engine` chooses another engine; see docs/backfill.md.
"""

import sys

from batchinfer.cli import main

if __name__ == "__main__":
    # Of two --engine the later holds.
    main(["backfill", "--engine", "spark", *sys.argv[1:]], prog_name="backfill.py")
