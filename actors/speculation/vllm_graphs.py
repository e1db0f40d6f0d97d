"""Says to vLLM 0.32 which graphs to capture and which draft lengths to expect.

Pure: plans and arms in, numbers for vLLM's configuration out. vLLM decides by itself what it captures: a decoding graph
for each declared draft length **and** each size in `cudagraph_capture_sizes` (which counts tokens, rounded up to a
multiple of k + 1), so a bucketed plan can only choose the sizes. `captured` tells what vLLM will make of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from actors.speculation.arms import ArmTable
from actors.speculation.graph_pool import GraphPlan

Range = tuple[int, int, int]
"""First batch size, last batch size, draft length."""


def capture_sizes(plan: GraphPlan) -> tuple[int, ...]:
    """`cudagraph_capture_sizes`: tokens of the plan's target graphs."""
    return tuple(sorted({graph.batch * graph.tokens for graph in plan.graphs if graph.part == "target"}))


def captured(sizes: Sequence[int], lengths: Sequence[int], max_running: int) -> frozenset[tuple[int, int]]:
    """(requests, draft length) of the decoding graphs that vLLM captures for these sizes and declared lengths."""
    most = max(sizes, default=0)
    found = set()
    for size in sizes:
        for k in lengths:
            requests = -(-size // (k + 1))
            if requests <= max_running and requests * (k + 1) <= most:
                found.add((requests, k))
    return frozenset(found)


def schedule(table: ArmTable, longest: Mapping[int, int], max_running: int) -> tuple[Range, ...]:
    """`num_speculative_tokens_per_batch_size`, in which every draft length of the table is declared once at least.

    vLLM captures graphs for declared lengths only; what is drafted is the governor's choice, which replaces this table.

    Args:
        longest: draft length by bucket index that vLLM should start from; without one, the bucket's longest.
        max_running: the engine's bound on running requests.

    Returns:
        Ranges that begin with 1, ascending. A range that would repeat the length before it is left out: in gaps, and
        after the last range, vLLM goes on with the last length.

    Raises:
        ValueError: there are more draft lengths than batch sizes to declare them at.
    """
    lengths: list[int] = []
    for batch in range(1, max_running + 1):
        index = table.bucket(batch)
        lengths.append(longest.get(index, max(table.arms[arm].k for arm in table.buckets[index].arms)))
    counts = Counter(lengths)
    # A length that no bucket starts from stands at one batch size, from the largest down, where its use is not missed.
    free = [place for place in range(max_running) if counts[lengths[place]] > 1]
    for k in sorted({arm.k for arm in table.arms} - set(lengths)):
        while free and counts[lengths[free[-1]]] == 1:
            free.pop()
        if not free:
            raise ValueError(f"{max_running} batch sizes are too few to declare the draft lengths of all arms")
        place = free.pop()
        counts[lengths[place]] -= 1
        lengths[place], counts[k] = k, 1
    starts = [place for place in range(max_running) if place == 0 or lengths[place] != lengths[place - 1]]
    return tuple(
        (start + 1, end, lengths[start]) for start, end in zip(starts, [*starts[1:], max_running], strict=True)
    )
