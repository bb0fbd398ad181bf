"""The encoder benchmark's tables."""

from __future__ import annotations

from rich.table import Table

from .encoder_results import Breakdown, EncoderResult
from .results import Report

__all__ = ["agreement_table", "breakdown_table", "describe_model", "encoder_table", "process_lines"]


def encoder_table(report: Report) -> Table:
    """Throughput, latency and memory of every implementation, a section for each batch size."""
    settings = report.settings
    fewer = settings.key_value_heads is not None
    layers = report.model.get("layers", settings.layers)
    table = Table(
        title=f"Encoder, forward: {layers} layers, sequences of {settings.sequence_length} tokens",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in ("batch", "implementation", "precision"):
        table.add_column(name)
    for name in ("tokens/s", "spread", "texts/s", "p50 ms", "p90 ms", "p99 ms", "calls", "memory", "error", "speedup"):
        table.add_column(name, justify="right")
    for number, batch in enumerate(settings.batches):
        if number:
            table.add_section()
        for result in (r for r in report.encoders if r.batch == batch):
            table.add_row(*row(result))
    table.caption = (
        "speedup: over the fastest peer * of any precision at that batch size; calls: those behind the percentiles; "
        "memory: resident, of the whole process; error: of the median token's hidden state against float32"
        + (f"; ufbert has {settings.key_value_heads} key-value heads, all others {settings.heads}" * fewer)
    )
    return table


def describe_model(report: Report) -> list[str]:
    """What the checkpoint is, and what the peers run."""
    model = report.model
    kind = f"{model['neurons_available']:,} dense neurons"
    if "feedforward_layers" in model:
        kind = f"feedforward layers {', '.join(model['feedforward_layers'])}"
    elif model["feedforward"] == "none":
        kind = "no feedforward layers"
    elif "trees" in model:
        shared = f" beside {model['shared_neurons']:,} shared neurons" if model["shared_neurons"] else ""
        kind = f"{model['trees']:,} trees of depth {model['depth']}{shared}"
    lines = [
        f"model: {model['name']}, {model['model_type']}: {model['layers']} layers of hidden size "
        f"{model['hidden_size']:,}, {model['heads']} heads, {kind}"
        f"{'' if 'feedforward_layers' in model else ' in a layer'}; "
        f"{model['parameters'] / 1e6:,.1f} million parameters without a head"
    ]
    return [*lines, f"peers: {model['peers']}"] if "peers" in model else lines


def agreement_table(report: Report) -> Table:
    """How far apart the hidden states of a checkpoint are, each implementation's from the reference's."""
    table = Table(title="The same tokens' hidden states", title_justify="left", caption_justify="left")
    table.add_column("implementation")
    table.add_column("precision")
    for name in ("median error", "largest error", "lowest cosine"):
        table.add_column(name, justify="right")
    for result in {(r.implementation, r.dtype): r for r in report.encoders}.values():
        figures = (f"{result.error:.1g}", f"{result.largest_error:.1g}", f"{result.lowest_cosine:.6f}")
        table.add_row(result.implementation, result.dtype, *figures)
    reference = "transformers'" if "peers" in report.model else "our plain modules'"
    table.caption = f"against {reference} in float32; errors and cosines are of single tokens, relative to their norm"
    return table


def row(result: EncoderResult) -> list[str]:
    """The cells of one figure."""
    star = "*" if result.name == result.fastest_peer else ""
    latency = result.latency
    memory = "-" if result.resident_bytes is None else f"{result.resident_bytes / 2**20:,.0f} MiB"
    speedup = "-" if result.speedup_over_peer is None else f"{result.speedup_over_peer:.2f}x"
    return [
        f"{result.batch:,}",
        result.implementation,
        result.dtype,
        f"{star}{result.tokens_per_second:,.0f}",
        f"±{50 * result.spread.relative:.0f}%",
        f"{result.texts_per_second:,.1f}",
        *(f"{1e3 * value:,.1f}" for value in (latency.p50, latency.p90, latency.p99)),
        str(latency.calls),
        memory,
        f"{result.error:.1g}",
        speedup,
    ]


def breakdown_table(breakdowns: list[Breakdown]) -> Table:
    """Microseconds a token and share by part, a column for each precision and batch size."""
    table = Table(
        title="Where a token's time goes in ufbert: microseconds a token", title_justify="left", caption_justify="left"
    )
    table.add_column("part")
    for entry in breakdowns:
        table.add_column(f"{entry.dtype}, batch {entry.batch:,}", justify="right")
    for part in breakdowns[0].parts:
        cells = [f"{entry.parts[part]:,.2f}  {100 * entry.parts[part] / entry.whole:3.0f}%" for entry in breakdowns]
        table.add_row(part, *cells)
    table.add_section()
    table.add_row("sum of the parts", *(f"{entry.whole:,.2f} 100%" for entry in breakdowns))
    table.add_row("without timers", *(f"{entry.without_timers:,.2f}     " for entry in breakdowns))
    table.add_section()
    table.add_row(
        "tokenisation", *("-" if e.tokenisation is None else f"{e.tokenisation:,.2f}     " for e in breakdowns)
    )
    table.caption = (
        "attention: without its projections; rest: what is between the modules; tokenisation: "
        "English text, on a thread of its own beside the model"
    )
    return table


def process_lines(report: Report) -> str:
    """What the processes were and did beside computing."""
    facts = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts.get("versions", {}).items()))
    lines = [f"Versions: {versions}"] if versions else []
    if idle := facts.get("idle_cpu_seconds"):
        worst = max(idle, key=idle.__getitem__)
        lines.append(
            f"Processes: up to {facts['processes_at_once']} loaded at once, one computing at a time; while it was not "
            f"its turn, none used more than {idle[worst]:.2f} s of CPU ({worst})"
        )
    if seconds := facts.get("export_seconds"):
        lines.append("Exporting: " + ", ".join(f"{kind} {value:.1f} s" for kind, value in seconds.items()))
    return "\n".join(lines)
