"""What could not be scored in a run, and what models could not tell: counted from its events."""

import json
from collections import Counter
from pathlib import Path


def reward_troubles(folder: Path) -> list[str]:
    """A line for each kind and term; none where everything was scored.

    Args: folder: of a run, which may still go on.
    """
    failed, replaced = Counter[str](), Counter[str]()
    counters = {"reward_error": failed, "reward_fallback": replaced}
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines():
        if '"reward_' not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a run that is being written
            continue
        counter = counters.get(event.get("event"))
        if counter is not None:
            counter[f"{event.get('kind', 'raised')} in {event.get('term') or 'an unknown term'}"] += 1
    return [
        *(f"{count} answers not scored: {what}" for what, count in failed.most_common()),
        *(
            f"{count} answers with the term's own value, for want of a model's: {what}"
            for what, count in replaced.most_common()
        ),
    ]
