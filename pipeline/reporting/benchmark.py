"""What `bench` measured, as tables: reports/benchmarks/RECORD.md and the README's section."""

import statistics
from typing import Any

from pipeline.reporting.markdown import code, table

PEER = "nanoGPT"
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # heads, rows


def benchmark_rows(record: dict[str, Any]) -> Table:
    """Heads and rows of the speeds: the median of the repeats, with the least and the most."""
    heads = ("workload", "", "tokens/s", "least to most", "of the limit", f"over {PEER}")
    rows: list[tuple[str, ...]] = []
    for name, workload in record["speed"].items():
        peer = workload["tokens_per_second"].get(PEER)
        for way, rates in workload["tokens_per_second"].items():
            gflops = [rate * workload["flops_per_token"] / 1e9 for rate in rates]
            share = statistics.median(_ratios(gflops, workload["limit_gflops"]))
            over = _ratios(rates, peer) if peer and way != PEER else []
            spread = f" ({min(over):.2f}–{max(over):.2f})" if len(over) > 1 else ""
            rows.append(
                (
                    name,
                    way,
                    f"{statistics.median(rates):,.0f}",
                    f"{min(rates):,.0f} to {max(rates):,.0f}",
                    f"{share:.2f}",
                    f"{statistics.median(over):.2f}{spread}" if over else "",
                )
            )
    return heads, rows


def _ratios(ours: list[float], others: list[float]) -> list[float]:
    """Pair by pair, as the machine drifts."""
    return [a / b for a, b in zip(ours, others, strict=True)]


def quality_rows(record: dict[str, Any]) -> Table:
    """Heads and rows of the whole runs: a row a seed, the peer's run beside it."""
    heads = ("workload", "seed", "val loss", "s", "processor s", f"{PEER}: val loss", "s", "ratio")
    rows = []
    for name, workload in record["quality"].items():
        for number, run in enumerate(workload["ours"]):
            row = [
                name,
                str(run["seed"]),
                f"{run['val_loss']:.4f}",
                f"{run['seconds']:.1f}",
                f"{run['processor_seconds']:.1f}",
            ]
            if workload["nanogpt"]:
                peer = workload["nanogpt"][number]
                ratio = f"{peer['seconds'] / run['seconds']:.1f}"
                if workload["target"] is not None and run["val_loss"] > workload["target"]:
                    ratio = f"above {workload['target']}"
                row += [f"{peer['val_loss']:.4f}", f"{peer['seconds']:.1f}", ratio]
            rows.append(tuple([*row, "", "", ""][: len(heads)]))
    return heads, rows


def benchmark_tables(record: dict[str, Any]) -> str:
    """Where and when it was measured, this machine's limits, both tables."""
    machine, limits = record["machine"], record["limits"]
    where = machine.get("gpu") or f"{machine['cpu']}, {record['threads']} threads"
    said = ", ".join(
        f"{name.replace('_gflops', '').replace('_', ' ')} {value:,.0f} GFLOP/s"
        for name, value in limits.items()
        if name.endswith("gflops")
    )
    rounds = [rate for workload in record["speed"].values() for rate in workload["limit_gflops"]]
    again = (
        f"; the fastest {min(rounds):,.0f} to {max(rounds):,.0f} before each round"
        if rounds
        else ""
    )
    parts = [
        f"{where}, torch {machine['torch']}, {record['date']}, commit {_short(record['commit'])}"
        f": {code(record['command'])}.",
        f"Limits, square products in the same run: {said}{again}; "
        f"memory {limits['copy_gb_per_second']:,.0f} GB/s.",
    ]
    if any(PEER in workload["tokens_per_second"] for workload in record["speed"].values()):
        how = "compiled, in bf16" if record["device"] == "cuda" else "in fp32 and not compiled"
        commit = record.get("peer_commit")  # records of before have none
        of = f" (commit {_short(commit)})" if commit else ""
        parts.append(f"{PEER}{of} computes {how}, as it does on this device by itself.")
    for heads, rows in (benchmark_rows(record), quality_rows(record)):
        if rows:
            parts.append(table(heads, rows))
    return "\n\n".join(parts)


def _short(commit: str) -> str:
    """A commit's beginning, and whether what was measured is what it holds."""
    return code(commit[:12]) + (" with changes" if commit.endswith("-dirty") else "")


def benchmark_section(records: list[dict[str, Any]]) -> str:
    """The README's section: every machine that was measured."""
    if not records:
        return "Nothing has been measured yet: `make bench` measures this machine."
    return "\n\n".join(benchmark_tables(record) for record in records)


def benchmark_page(record: dict[str, Any]) -> str:
    """A record's page, beside it."""
    rows = []
    for name, workload in record["speed"].items():
        shape = workload["shape"]
        described = "/".join(str(shape[key]) for key in ("n_layer", "n_head", "n_embd"))
        for way, facts in workload["ways"].items():
            rows.append(
                (
                    name,
                    way,
                    described,
                    str(workload["block_size"]),
                    str(workload["micro_batch_size"]),
                    f"{workload['parameters']:,}",
                    facts["runtime"],
                    f"{facts['peak_memory_mb']:,}",
                )
            )
    heads = ("workload", "", "layers/heads/width", "T", "B", "parameters", "how", "peak MB")
    parts = [f"# Speed on {record['device']}", benchmark_tables(record)]
    if rows:
        parts.append(table(heads, rows))
    return "\n\n".join(parts) + "\n"
