"""How fast is the stream, and how late?

    python -m benchmarks.stream                                  # backlog, latency, memory against the embedded broker
    python -m benchmarks.stream --only backlog --model lightgbm
    python -m benchmarks.stream --quix .venv-quix/bin/python     # beside Quix Streams, see peer_quix.py

JSON of about 220 bytes with 13 features, on a machine that the embedded broker shares.

    backlog   messages/s of `batchinfer stream --until-end`, exactly once, from the first commit to the last, beside the
              model's own rate on all cores, and on those that broker and stream leave it; also of two `--members`
    latency   at a steady rate, from a message's timestamp to the commit of its prediction: p50 and p99, beside a bare
              relay (relay.py) and the time that the machine's host took away
    memory    peak resident memory of the service in each fifth of `--memory-records`, each a backlog
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from batchinfer.streaming import EmbeddedBroker

from .data import DEFAULT_FOLDER, FEATURES, KEY, MODELS, ensure_model, ensure_sample
from .jobs import add_model, work_folder
from .measure import Figures, arguments, cores, store, table, verdict

BACKLOG_GOAL, LATENCY_GOALS_MS, QUIX_GOAL, REMAINING_GOAL, MEMORY_GOAL = (
    150_000,
    {"exactly-once": 150, "at-least-once": 40},
    15,
    0.9,
    1.1,
)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--records", type=int, default=1_000_000, help="in the backlog")
    parser.add_argument(
        "--members", type=int, choices=(1, 2), default=1, help="processes that share the backlog"
    )
    parser.add_argument("--rate", type=int, default=5_000, help="messages a second for the latency")
    parser.add_argument("--seconds", type=float, default=20, help="of that rate")
    parser.add_argument("--memory-records", type=int, default=5_000_000)
    parser.add_argument("--model", choices=list(MODELS), default="mlp")
    parser.add_argument("--only", choices=["backlog", "latency", "memory"])
    parser.add_argument("--quix", type=Path, help="a Python that has quixstreams and onnxruntime")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    figures: Figures = {}
    with work_folder(options.folder) as work:
        ensure_sample(options.folder)
        ensure_model(options.folder, options.model)
        add_model(options.folder, work, options.model)
        values = messages(options.folder)
        if options.only in {None, "backlog"}:
            figures["backlog"] = backlog(options, work, values)
        if options.only in {None, "latency"}:
            figures["latency"] = latency(options, work, values)
        if options.only in {None, "memory"}:
            figures["memory"] = memory(options, work, values)
    store(options.json, figures)


def messages(folder: Path) -> list[bytes]:
    rows = pq.read_table(folder / "sample.parquet").select([KEY, *FEATURES]).to_pylist()
    return [
        json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}).encode()
        for row in rows
    ]


def write_spec(work: Path, options: Any, servers: str, **more: Any) -> Path:
    document = {
        "name": "bench",
        "model": f"{options.model}@champion",
        "registry": str(work / "models"),
        "input": {"path": "none", "key": [KEY]},
        "output": {"path": str(work / "results")},
        "stream": {
            "bootstrap_servers": servers,
            "input_topic": "in",
            "output_topic": "out",
            "columns": {KEY: "int64", **dict.fromkeys(FEATURES, "float32")},
            "refresh_seconds": 0,
            **more,
        },
    }
    path = work / "pipeline.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def broker(spec_of: Any) -> Iterator[tuple[EmbeddedBroker, Path]]:
    from batchinfer.runs import create_topics
    from batchinfer.spec import load_spec

    with EmbeddedBroker() as running:
        path = spec_of(running.bootstrap_servers)
        create_topics(load_spec(path), running.bootstrap_servers, 2)
        yield running, path


def fill(servers: str, values: list[bytes], records: int) -> None:
    """Produce so many messages as fast as it goes."""
    from confluent_kafka import Producer

    settings = {"linger.ms": 50, "queue.buffering.max.messages": 200_000}
    producer = Producer({"bootstrap.servers": servers, **settings})
    for number in range(records):
        while True:
            try:
                producer.produce("in", values[number % len(values)], str(number))
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def send_steadily(servers: str, values: list[bytes], rate: int, seconds: float) -> None:
    """Produce at a rate, with the client's defaults, once a first message has gone and warmed all up."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    producer.produce("in", values[0])
    producer.flush()
    time.sleep(2)
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        while number >= (time.monotonic() - began) * rate:
            producer.poll(0)
            time.sleep(0.001)
        producer.produce("in", values[number % len(values)], str(number))
    producer.flush()


def streamed(spec: Path, *arguments_: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "batchinfer",
        "--log-format",
        "json",
        "stream",
        str(spec),
        "--json",
        *arguments_,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def report_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    assert found["status"] == "done", found
    return found


def backlog(options: Any, work: Path, values: list[bytes]) -> Figures:
    with broker(lambda servers: write_spec(work, options, servers)) as (running, spec):
        fill(running.bootstrap_servers, values, options.records)
        members = [streamed(spec, "--until-end") for _ in range(options.members)]
        rate, seconds, used = watched(members, running)
        found = [report_of(member) for member in members]
        assert sum(report["messages"]["predicted"] for report in found) == options.records, found
    own = model_rate(work, options, values)
    of_model = cores() * seconds * rate / own
    remaining = of_model / (cores() * seconds - (used - of_model))
    commits = sum(report["commits"] for report in found)
    rows = [
        [
            "batchinfer stream",
            f"{rate:,.0f}/s",
            f"{commits:,} commits, {1 - used / cores() / seconds:.1%} idle",
            verdict(rate, BACKLOG_GOAL, at_least=True) if options.model == "mlp" else "",
        ],
        ["the model alone", f"{own:,.0f}/s", "", f"stream / model {rate / own:.2f}"],
        [
            "the model in the stream",
            f"{remaining:.2f}",
            "of its rate on the cores that remain",
            verdict(remaining, REMAINING_GOAL, at_least=True) if options.model == "lightgbm" else "",
        ],
    ]
    figures: Figures = {"records_per_second": rate, "model_per_second": own, "remaining": remaining}
    if options.quix:
        peer = figures["quix_per_second"] = quix(options, work, values)
        rows.append(["Quix Streams", f"{peer:,.0f}/s", "", verdict(rate / peer, QUIX_GOAL, at_least=True)])
    size = np.mean([len(value) for value in values])
    title = f"Exactly once from a backlog of {options.records:,} messages of {size:.0f} bytes"
    shared = f", {options.members} members" if options.members > 1 else ""
    table(f"{title}, {options.model}, {cores()} cores{shared}", ["", "rate", "", ""], rows)
    return figures


def watched(members: list[subprocess.Popen[str]], running: EmbeddedBroker) -> tuple[float, float, float]:
    """Messages/s from the first commit of any member to the last, those seconds, and the core seconds that they took.

    All three as the broker and the system tell them.
    """
    assert running.process is not None, "it runs"
    reader = reader_of(running.bootstrap_servers)
    processes = [running.process.pid, *(member.pid for member in members)]
    used = dict.fromkeys(processes, 0.0)
    seen = []
    while any(member.poll() is None for member in members):
        for pid in processes:
            with suppress(FileNotFoundError):  # it has ended
                used[pid] = core_seconds(pid)
        seen.append((time.monotonic(), written(reader), sum(used.values())))
        time.sleep(0.03)
    reader.close()
    times, counts, spent = np.array(seen).T
    first, last = np.flatnonzero(counts > 0)[0], np.flatnonzero(counts == counts[-1])[0]
    seconds = float(times[last] - times[first])
    return float(counts[last] - counts[first]) / seconds, seconds, float(spent[last] - spent[first])


def core_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reader_of(servers: str) -> Any:
    from confluent_kafka import Consumer

    return Consumer({"bootstrap.servers": servers, "group.id": "watch", "isolation.level": "read_committed"})


def written(reader: Any) -> int:
    """How many predictions are committed."""
    from confluent_kafka import TopicPartition

    return sum(reader.get_watermark_offsets(TopicPartition("out", n), timeout=10)[1] for n in range(2))


def model_rate(work: Path, options: Any, values: list[bytes]) -> float:
    """Rows/s of the loaded model over all cores, fed with micro-batches that are decoded already."""
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow as pa

    from batchinfer.model import Registry, Scorer

    scorer = Scorer.of(Registry(str(work / "models")).resolve(f"{options.model}@champion"))
    rows = pa.Table.from_pylist([json.loads(value) for value in values]).select(list(FEATURES))
    batch = rows.cast(pa.schema([(name, pa.float32()) for name in FEATURES])).combine_chunks().to_batches()[0]
    rounds = max(cores(), 1_000_000 // batch.num_rows // (10 if options.model == "lightgbm" else 1))
    with ThreadPoolExecutor(cores()) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: scorer.score(batch), range(rounds)))
        return float(rounds * batch.num_rows) / (time.perf_counter() - began)


def quix(options: Any, work: Path, values: list[bytes]) -> float:
    records = options.records // 20
    with broker(lambda servers: write_spec(work, options, servers)) as (running, _):
        fill(running.bootstrap_servers, values, records)
        graph = (options.folder / f"{options.model}.onnx").absolute()
        script = Path(__file__).parent / "peer_quix.py"
        command = [options.quix.absolute(), script, running.bootstrap_servers, graph, str(records), *FEATURES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
        if done.returncode:
            raise SystemExit(f"peer_quix.py: {done.stderr[-3000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["records_per_second"])


def latency(options: Any, work: Path, values: list[bytes]) -> Figures:
    """Each beside a bare relay with the same client: what broker, client and machine need without any scoring."""
    figures: Figures = {}
    rows = []
    for delivery, goal in LATENCY_GOALS_MS.items():
        wait_ms = 5 if delivery == "at-least-once" else 20

        def spec_of(servers: str, delivery: str = delivery, wait_ms: int = wait_ms) -> Path:
            return write_spec(work, options, servers, delivery=delivery, max_latency_ms=wait_ms)

        with broker(spec_of) as (running, spec):
            service = streamed(spec)
            stolen = send_from_another_process(options, running.bootstrap_servers, values)
            service.send_signal(signal.SIGTERM)
            found = report_of(service)["latency_ms"]
        with broker(spec_of) as (running, _):
            command = [sys.executable, "-m", "benchmarks.relay", running.bootstrap_servers, delivery]
            relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stolen_then = send_from_another_process(options, running.bootstrap_servers, values)
            relay.send_signal(signal.SIGTERM)
            bare = json.loads(relay.communicate()[0].splitlines()[-1])
        figures[delivery] = {**found, "stolen": stolen}
        figures[f"{delivery}, relay"] = {**bare, "stolen": stolen_then}
        told = verdict(found["p99"], goal)
        rows.append([delivery, *(f"{name} {found[name]:.0f} ms" for name in bare), f"{stolen:.1%}", told])
        rows.append(
            ["  a bare relay", *(f"{name} {bare[name]:.0f} ms" for name in bare), f"{stolen_then:.1%}", ""]
        )
    title = f"From produce to committed prediction at {options.rate:,} messages/s"
    table(f"{title}; the machine's time that others took", [""] * 5, rows)
    return figures


def send_from_another_process(options: Any, servers: str, values: list[bytes]) -> float:
    """Send steadily, and return which share of the processors' time the machine's host gave to others."""
    time.sleep(12)  # a group takes a while to form on the embedded broker
    before = _stolen_seconds()
    began = time.monotonic()
    sender = multiprocessing.get_context("spawn").Process(
        target=send_steadily, args=(servers, values, options.rate, options.seconds)
    )
    sender.start()
    sender.join()
    time.sleep(1)
    return (_stolen_seconds() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)


def _stolen_seconds() -> float:
    with Path("/proc/stat").open(encoding="ascii") as lines:
        return int(next(lines).split()[8]) / os.sysconf("SC_CLK_TCK")


def memory(options: Any, work: Path, values: list[bytes]) -> Figures:
    """Fed in fifths, each a backlog that fills all buffers; the broker keeps the messages in memory too."""
    fifth = options.memory_records // 5
    peaks: list[int] = []
    with broker(lambda servers: write_spec(work, options, servers)) as (running, spec):
        process = streamed(spec)
        for _ in range(5):
            peak, done = 0, threading.Event()
            feeding = threading.Thread(target=_feed, args=(running.bootstrap_servers, values, fifth, done))
            feeding.start()
            while not done.wait(0.1):
                peak = max(peak, resident_bytes(process.pid))
            feeding.join()
            peaks.append(peak)
        process.send_signal(signal.SIGTERM)
        found = report_of(process)
    growth = peaks[-1] / peaks[0]
    rows = [
        [f"messages {fifth * n:,} to {fifth * (n + 1):,}", f"{size / 1e6:,.0f} MB"]
        for n, size in enumerate(peaks)
    ]
    rows.append([f"{found['messages']['read']:,} messages", f"×{growth:.2f}  {verdict(growth, MEMORY_GOAL)}"])
    table("Peak resident memory of the service", ["", ""], rows)
    return {"peak_bytes": peaks, "messages": found["messages"]["read"]}


def _feed(servers: str, values: list[bytes], records: int, done: threading.Event) -> None:
    """Produce, and wait until as much has been committed."""
    reader = reader_of(servers)
    try:
        before = written(reader)
        fill(servers, values, records)
        until = time.monotonic() + 300
        while written(reader) - before < records and time.monotonic() < until:
            time.sleep(0.5)
    finally:
        reader.close()
        done.set()


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main()
